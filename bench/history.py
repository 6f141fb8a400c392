"""Fills a log with dialogues such as people have, by the real decisions and the real append.

Some hundred dialogues of many tenants are open at a time and take turns, so the log is mixed as it is in
traffic. One seed gives one shape of history (ids are new each time).
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from datetime import UTC, datetime, timedelta
from itertools import accumulate
from multiprocessing.synchronize import Event as Told
from random import Random
from typing import Any
from uuid import UUID

from msgspec import Struct
from uuid_utils.compat import uuid7

from bench.place import MASTER_KEY
from bench.talk import Talk, talk
from bichat.commands.batch import Batch
from bichat.commands.command import Command
from bichat.commands.job import Job, Once, Outcome
from bichat.commands.reply import WorkerCommand
from bichat.events.envelope import Actor, Metadata
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger, Stream

TENANTS, USERS = 40, 50
"""Tenants, and users of each; the first ones of both say the most."""
OPEN, AT_ONCE = 400, 200
"""Dialogues under way in each process, and how many of them go into one batch."""
DAYS = 90
"""The history's length."""


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
    jobs = [Job(one.command, by, once(by), None) for one in some for by in (one.by(),)]
    before: dict[UUID, Stream[Any]] = {
        job.command.stream_id: held.get(job.command.stream_id, Stream(job.command.nothing)) for job in jobs
    }
    batch = Batch(ledger, before, jobs, now)
    for job in jobs:
        batch.decide(job)
    after = batch.append()
    for job in jobs:
        if not isinstance(job.answer, Outcome):  # a refusal or a rival would be a mistake of this script
            raise RuntimeError(f"{job.command}: {job.answer}")  # noqa: TRY004 - an answer, not an argument
    held.update(after)
    due = {i: stream.snapshotted() for i, stream in after.items() if stream.snapshot_due}
    if due:
        ledger.keep_snapshots(due)
        held.update(due)
    heads = ((stream.head.version, before[i]) for i, stream in after.items())
    return sum(version - old.head.version for version, old in heads)


def once(by: Metadata) -> Once | None:
    """A key such as people's clients send with each command."""
    return Once(str(by.command_id), b"POST") if by.actor.kind == "user" else None


def going_on(one: Running, held: dict[UUID, Stream[Any]]) -> bool:
    """Whether the dialogue goes on; then its next command stands in `one`."""
    stream = held[one.command.stream_id]
    try:
        one.command = one.talk.send(stream.head.version if stream else 0)
    except StopIteration:
        return False
    return True


def made(url: str, events: int, seed: int = 1, processes: int = 2) -> tuple[int, float]:
    """Adds about so many events to the log at `url`, which is migrated; how many, and in what time."""
    context = multiprocessing.get_context("spawn")
    done, stop, tenants = context.Value("q", 0), context.Event(), [uuid7() for _ in range(TENANTS)]
    writers = [
        context.Process(target=fill, args=(url, tenants, events // processes, seed + n, done, stop))
        for n in range(processes)
    ]
    started = time.monotonic()
    for writer in writers:
        writer.start()
    try:
        for writer in writers:
            writer.join()
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    if any(writer.exitcode for writer in writers):
        raise RuntimeError("a writer of the history failed: see above")
    return int(done.value), time.monotonic() - started
