"""Four API processes, one limit: how many of many requests they let through together, and what asking costs.

    python -m bench.limits [--limit 200/minute] [--requests 600]

Brings servers of its own in a directory that goes away.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

import click
import httpx
import jwt
from msgspec.structs import replace

from bench.stack import free_port
from bichat import wiring
from bichat.config import Config, environment
from bichat.config.spending import rate
from bichat.embedded import owned
from bichat.limits import Limits

PROCESSES = 4


@contextmanager
def process(config: Config, port: int) -> Iterator[str]:
    """`bichat api`, killed in the end."""
    settings = environment(replace(config, bichat_port=port), os.environ)
    argv = [sys.executable, "-m", "bichat", "api"]
    running = subprocess.Popen(argv, env=settings, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.kill()
        running.wait()


async def ready(url: str) -> None:
    """Returns when it answers."""
    async with httpx.AsyncClient() as client:
        while True:
            try:
                await client.get(f"{url}/health/live")
            except httpx.TransportError:
                await asyncio.sleep(0.1)
            else:
                return


async def hammer(urls: list[str], token: str, requests: int) -> tuple[Counter[int], float]:
    """What so many requests are told, 8 at a time at each process; and the seconds taken."""
    told: Counter[int] = Counter()
    left = iter(range(requests))

    async def ask(client: httpx.AsyncClient, url: str) -> None:
        for _ in left:
            told[(await client.get(f"{url}/v1/usage")).status_code] += 1

    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(headers=headers, timeout=30) as client:
        began = time.perf_counter()
        await asyncio.gather(*(ask(client, url) for url in urls for _ in range(8)))
        return told, time.perf_counter() - began


async def cost(config: Config, calls: int) -> tuple[float, float]:
    """Microseconds, and those of them on the processor, for one request's look at its limits."""
    limits, tenant = Limits(config), uuid4()
    await limits.request(tenant, "warm")
    began, busy = time.perf_counter(), time.process_time()
    for n in range(calls):
        await limits.request(tenant, f"user {n % 100}")
    spent = time.perf_counter() - began, time.process_time() - busy
    await limits.close()
    return 1e6 * spent[0] / calls, 1e6 * spent[1] / calls


async def measured(config: Config, requests: int, urls: list[str]) -> None:
    """Prints what came of it."""
    await asyncio.gather(*map(ready, urls))
    claims = {"sub": "anna", "tenant": str(uuid4()), "exp": int(time.time()) + 600}
    token = jwt.encode(claims, config.bichat_jwt_secret or "", "HS256")
    told, seconds = await hammer(urls, token, requests)
    print(
        f"{len(urls)} processes, limit {config.bichat_rate_limit} of one user, {requests} requests "
        f"in {seconds:.1f} s: {told[200]} let through, {told[429]} refused, {told.total()} in all"
    )
    plenty = rate("minute")("", "100000000/minute")
    none = replace(config, bichat_rate_limit=None)
    one, both = (
        replace(config, bichat_rate_limit=plenty),
        replace(config, bichat_rate_limit=plenty, bichat_tenant_rate_limit=plenty),
    )
    for name, limited in (("none", none), ("user's", one), ("user's and tenant's", both)):
        whole, busy = await cost(limited, 2000)
        print(f"limits: {name}: {whole:.0f} µs a request, {busy:.0f} of them on the processor")


@click.command()
@click.option("--limit", default="200/minute", show_default=True)
@click.option("--requests", default=600, show_default=True)
def main(limit: str, requests: int) -> None:
    """Hammers four processes with one user's requests."""
    with tempfile.TemporaryDirectory(prefix="bichat-bench-") as directory, ExitStack() as stack:
        given = Config(
            bichat_data_dir=Path(directory) / "data",
            openai_base_url="http://127.0.0.1:9/v1",  # nobody is asked anything
            bichat_jwt_secret=secrets.token_hex(32),
            bichat_master_key=bytes(32),
            bichat_rate_limit=rate("second", "minute", "hour")("--limit", limit),
        )
        config = stack.enter_context(owned(given)).config
        wiring.migrate(config)
        urls = [stack.enter_context(process(config, free_port())) for _ in range(PROCESSES)]
        asyncio.run(measured(config, requests, urls))


if __name__ == "__main__":
    main()
