"""Fills a database with dialogues such as people have, by the real decisions and the real append.

    python -m bench.history --database-url postgresql://…/bench --events 1000000

The database is migrated first and may hold something already; what is there stays. Some hundred dialogues
of many tenants are open at a time and take turns, so the log is mixed as it is in traffic. One seed gives one
shape of history (ids are new each time). As with any bench here, the master key is 32 zero bytes.
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from multiprocessing.synchronize import Event as Told
from random import Random
from typing import Any
from uuid import UUID

import click
from msgspec import Struct
from psycopg.conninfo import conninfo_to_dict
from uuid_utils.compat import uuid7

from bench.talk import Talk, talk
from bichat.commands.batch import Batch
from bichat.commands.command import Command
from bichat.commands.job import Job
from bichat.commands.reply import WorkerCommand
from bichat.errors import BichatError
from bichat.events import schema
from bichat.events.envelope import Actor, Metadata
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger, Stream

TENANTS, USERS = 40, 50
"""Tenants, and users of each; the first ones of both say the most."""
OPEN, AT_ONCE = 400, 200
"""Dialogues under way in each process, and how many of them go into one batch."""
DAYS = 90
"""The history's length."""
MASTER_KEY = bytes(32)


class Person(Struct, frozen=True):
    """Who has a dialogue."""

    tenant_id: UUID
    user_id: str


class Running(Struct):
    """A dialogue under way, and what is asked of it next."""

    person: Person
    talk: Talk
    command: Command

    def by(self) -> Metadata:
        actor = Actor("user", self.person.user_id)
        if isinstance(self.command, WorkerCommand):
            actor = Actor("worker", "worker 1")
        return Metadata(tenant_id=self.person.tenant_id, actor=actor, command_id=uuid7())


class Town:
    """Everybody who talks, and how often."""

    def __init__(self, rng: Random, tenants: list[UUID]) -> None:
        self._rng = rng
        self._people = [Person(tenant, f"user {n}") for tenant in tenants for n in range(USERS)]
        weights = (1 / (t + 2) / (n + 5) for t in range(len(tenants)) for n in range(USERS))
        self._weights = list(accumulate(weights))

    def opened(self) -> Running:
        """A new dialogue of somebody."""
        (person,) = self._rng.choices(self._people, cum_weights=self._weights)
        script = talk(self._rng, uuid7(), person.user_id)
        return Running(person, script, next(script))


def fill(  # noqa: PLR0917 - what a process is given
    url: str, tenants: list[UUID], events: int, seed: int, done: Any, stop: Told
) -> None:
    """One process: appends about `events` events and counts them in `done`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this
    keys = KeyStore(url, MASTER_KEY)
    ledger = Ledger(url, keys)
    rng = Random(seed)
    town = Town(rng, tenants)
    under_way = [town.opened() for _ in range(OPEN)]
    held: dict[UUID, Stream[Any]] = {}
    mine, began = 0, datetime.now(UTC) - timedelta(days=DAYS)
    try:
        keys.unlock()
        while mine < events and not stop.is_set():
            some = rng.sample(range(OPEN), AT_ONCE)
            now = began + timedelta(days=DAYS) * (mine / events)
            added = step(ledger, held, [under_way[n] for n in some], now)
            for n in some:
                if not going_on(under_way[n], held):
                    held.pop(under_way[n].command.stream_id)
                    under_way[n] = town.opened()
            mine += added
            with done:
                done.value += added
    finally:
        ledger.close()
        keys.close()


def step(ledger: Ledger, held: dict[UUID, Stream[Any]], some: list[Running], now: datetime) -> int:
    """Executes the next command of each as one batch, as the writer does; how many events that made."""
    jobs = [Job(one.command, one.by(), None, None, Future()) for one in some]
    before: dict[UUID, Stream[Any]] = {
        job.command.stream_id: held.get(job.command.stream_id, Stream(job.command.nothing)) for job in jobs
    }
    batch = Batch(ledger, before, jobs, now)
    for job in jobs:
        batch.decide(job)
    after = batch.append()
    for job in jobs:
        job.future.result(0)  # a refusal or a rival would be a mistake of this script
    held.update(after)
    due = {i: stream.snapshotted() for i, stream in after.items() if stream.snapshot_due}
    if due:
        ledger.keep_snapshots(due)
        held.update(due)
    heads = ((stream.head.version, before[i]) for i, stream in after.items())
    return sum(version - old.head.version for version, old in heads)


def going_on(one: Running, held: dict[UUID, Stream[Any]]) -> bool:
    """Whether the dialogue goes on; then its next command stands in `one`."""
    stream = held[one.command.stream_id]
    try:
        one.command = one.talk.send(stream.head.version if stream else 0)
    except StopIteration:
        return False
    return True


def growing(processes: list[Any], done: Any) -> Iterator[int]:
    """How many events came in, again and again until all processes have ended."""
    seen = 0
    while any(process.is_alive() for process in processes):
        time.sleep(0.2)
        yield done.value - seen
        seen = done.value
    yield done.value - seen


@click.command(help=__doc__)
@click.option("--database-url", required=True, help="Where to; its name has to contain 'bench'.")
@click.option(
    "--events", default=1_000_000, show_default=True, type=click.IntRange(1), help="About how many."
)
@click.option("--seed", default=1, show_default=True, help="The same seed gives the same shape of history.")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1), help="Writers at once.")
@click.option("--yes", is_flag=True, help="Fill it whatever its name is.")
def main(database_url: str, events: int, seed: int, processes: int, yes: bool) -> None:
    name = str(conninfo_to_dict(database_url).get("dbname", ""))
    if "bench" not in name and not yes:
        raise click.ClickException(f"{name!r} does not look like a database for benches; --yes fills it.")
    try:
        schema.migrate(database_url)
        schema.migrate(database_url, schema.KEYS)
    except BichatError as error:
        raise click.ClickException(str(error)) from None
    context = multiprocessing.get_context("spawn")
    done, stop, tenants = context.Value("q", 0), context.Event(), [uuid7() for _ in range(TENANTS)]
    writers = [
        context.Process(target=fill, args=(database_url, tenants, events // processes, seed + n, done, stop))
        for n in range(processes)
    ]
    started = time.monotonic()
    for writer in writers:
        writer.start()
    try:
        with click.progressbar(length=events, label="events", show_pos=True, file=sys.stderr) as bar:
            for more in growing(writers, done):
                bar.update(more)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    took = time.monotonic() - started
    click.echo(f"{done.value:,} events in {took:.1f} s, {done.value / took:,.0f}/s")
    if any(writer.exitcode for writer in writers):
        raise click.ClickException("a writer failed: see above.")


if __name__ == "__main__":
    main()
