"""What the newest system prompt costs a reply, by where it is kept; and what rendering a template costs.

    python bench/prompts.py

Brings a Postgres and a Valkey of its own, on Unix sockets: over a network, only memory stays as fast.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import redis
from uuid_utils.compat import uuid7

from bichat import prompts, rendering
from bichat.commands.execute import Executor
from bichat.commands.prompt import ChangePrompt
from bichat.config import Config
from bichat.embedded import owned
from bichat.events import schema
from bichat.events.envelope import Actor, Metadata
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger
from bichat.workers.prompts import Prompts

TENANT, TEXT = uuid7(), "Answer briefly, in the language of the question, and never make up figures. " * 50


def main() -> None:
    """Prints medians and the worst of a hundred."""
    with tempfile.TemporaryDirectory() as directory:
        config = Config(bichat_data_dir=Path(directory) / "data", openai_base_url="http://127.0.0.1:9/v1")
        with owned(config) as servers:
            assert servers.config.database_url
            assert servers.config.redis_url
            places(servers.config.database_url, redis.Redis.from_url(servers.config.redis_url))
    data = b'{"who": "Anna", "days": [1, 2, 3]}'
    template = "{% for day in days %}{{ who }} on day {{ day }}\n{% endfor %}" * 20
    told("a template rendered, in a process", lambda: rendering.render(template, data), 40)


def places(url: str, cache: redis.Redis) -> None:
    """The same prompt from three places."""
    schema.migrate(url)
    schema.migrate(url, schema.KEYS)
    keys = KeyStore(url, bytes(32))
    keys.unlock()
    ledger = Ledger(url, keys)
    executor = Executor(ledger)
    executor.start()
    by = Metadata(tenant_id=TENANT, actor=Actor("user", "u"), command_id=uuid7())
    asyncio.run(executor.execute(ChangePrompt(tenant_id=TENANT, name="system", template=TEXT), by))
    cache.set(f"bichat:prompt:{TENANT}", TEXT)
    held = Prompts(ledger)
    told("the process's own memory", lambda: held.system(TENANT))
    told("Redis", lambda: cache.get(f"bichat:prompt:{TENANT}"))
    told("the log, in Postgres", lambda: prompts.newest(ledger, TENANT))
    executor.close()
    ledger.close()
    keys.close()


def told(name: str, work: Callable[[], object], times: int = 2000) -> None:
    """How long it takes, after some tries that do not count."""
    for _ in range(times // 10):
        work()
    took = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        took.append(1e6 * (time.perf_counter() - began))
    print(f"{name:36} {statistics.median(took):10.1f} µs {statistics.quantiles(took, n=100)[-1]:10.1f} µs")


if __name__ == "__main__":
    main()
