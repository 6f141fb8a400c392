"""Commands per second from one process while another appends to the same dialogues, beside pgbench.

    python bench/writer.py --database-url postgresql://…/scratch

The database must be empty: it is migrated, filled and left behind.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from uuid import UUID

import click
import psycopg
from uuid_utils.compat import uuid7

from bichat.commands.dialogue import AddMessage, NewMessage, StartDialogue
from bichat.commands.execute import Executor
from bichat.events import schema
from bichat.events.dialogue import Asked
from bichat.events.envelope import Actor, Metadata
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger

DIALOGUES, CALLERS, FOREIGN = 2_000, 64, 0.05
TEXT = "Which region sold most of the new line in the second quarter, and by how much? "
TENANT = uuid7()
MASTER_KEY = bytes(32)

YARDSTICK = (
    "insert into yardstick.stored_events (originator_id, originator_version, topic, state, tenant_id,"
    " command_id, hash, notification_id) select gen_random_uuid(), 1, topic, state, tenant_id,"
    " command_id, hash, nextval('yardstick.position') from yardstick.sample;"
)


def opened(url: str) -> tuple[Ledger, Executor]:
    keys = KeyStore(url, MASTER_KEY)
    keys.unlock()
    ledger = Ledger(url, keys)
    executor = Executor(ledger)
    executor.start()
    return ledger, executor


def by() -> Metadata:
    return Metadata(tenant_id=TENANT, actor=Actor("user", "u"), command_id=uuid7())


def ask() -> tuple[NewMessage, ...]:
    return (NewMessage(message_id=uuid7(), role="user", content=TEXT, asks=Asked()),)


async def add(executor: Executor, ids: Iterator[UUID], pause: float = 0.0) -> int:
    done = 0
    for dialogue_id in ids:
        await executor.execute(AddMessage(dialogue_id=dialogue_id, messages=ask()), by())
        done += 1
        await asyncio.sleep(pause)
    return done


def rival(url: str, tenant: UUID, dialogues: list[UUID], rate: float, stop: multiprocessing.Event) -> None:  # type: ignore[valid-type]
    """The second process: appends to dialogues of the first at `rate` per second."""
    global TENANT  # noqa: PLW0603 - a process of its own
    TENANT = tenant
    _, executor = opened(url)

    def until_told() -> Iterator[UUID]:
        for n in count():
            if stop.is_set():  # type: ignore[attr-defined]
                return
            yield dialogues[n % len(dialogues)]

    asyncio.run(add(executor, until_told(), 1 / rate))
    executor.close()


async def measure(executor: Executor, dialogues: list[UUID], seconds: float) -> float:
    end = time.monotonic() + seconds

    def until_late(start: int) -> Iterator[UUID]:
        for n in count(start):
            if time.monotonic() > end:
                return
            yield dialogues[n * 31 % len(dialogues)]

    started = time.monotonic()
    done = await asyncio.gather(*(add(executor, until_late(n * 97)) for n in range(CALLERS)))
    return sum(done) / (time.monotonic() - started)


def yardstick(url: str, seconds: int) -> float:
    """One INSERT of the same row with the same indexes per commit, 32 clients."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create schema if not exists yardstick")
        connection.execute(
            "create table if not exists yardstick.stored_events (like bichat.stored_events including all)"
        )
        connection.execute("create sequence if not exists yardstick.position")
        connection.execute(
            "create table if not exists yardstick.sample as"
            " select * from bichat.stored_events where topic = 'MessageAdded' limit 1"
        )
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as script:
        Path(script.name).write_text(YARDSTICK)
        out = subprocess.run(
            ["pgbench", "-nM", "prepared", "-c", "32", "-j", "2", "-T", str(seconds), "-f", script.name, url],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
    found = re.search(r"tps = ([\d.]+)", out)
    return float(found[1]) if found else 0.0


@click.command(help=__doc__)
@click.option("--database-url", required=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--seconds", default=5, show_default=True)
def main(database_url: str, rounds: int, seconds: int) -> None:
    schema.migrate(database_url)
    schema.migrate(database_url, schema.KEYS)
    ledger, executor = opened(database_url)
    dialogues = [uuid7() for _ in range(DIALOGUES)]

    async def fill() -> None:
        starts = (StartDialogue(dialogue_id=i, user_id="u", messages=ask()) for i in dialogues)
        while some := list(islice(starts, 256)):
            await asyncio.gather(*(executor.execute(command, by()) for command in some))

    asyncio.run(fill())
    alone = [asyncio.run(measure(executor, dialogues, seconds)) for _ in range(1)]
    stop = multiprocessing.Event()
    foreign = dialogues[: int(DIALOGUES * FOREIGN)]
    other = multiprocessing.Process(
        target=rival, args=(database_url, TENANT, foreign, 400.0, stop), daemon=True
    )
    other.start()
    ours, theirs = [], []
    for _ in range(rounds):
        ours.append(asyncio.run(measure(executor, dialogues, seconds)))
        theirs.append(yardstick(database_url, seconds))
    stop.set()
    other.join()
    executor.close()
    ledger.close()
    ratio = statistics.median(ours) / statistics.median(theirs)
    click.echo(f"commands/s, {CALLERS} callers, alone            {alone[0]:10,.0f}")
    click.echo(f"  with a second process on 5 % of the dialogues {[round(n) for n in ours]}")
    click.echo(f"pgbench, one INSERT per commit, 32 clients      {[round(n) for n in theirs]}")
    click.echo(f"ratio of the medians                            {ratio:10.2f}")


if __name__ == "__main__":
    main()
