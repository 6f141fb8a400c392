"""P1: commands per second from one process, while another one appends to some of the same dialogues."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, islice
from multiprocessing.synchronize import Event
from typing import Any
from uuid import UUID

import psycopg
import uvloop
from msgspec import Struct
from uuid_utils.compat import uuid7

from bench.busy import Busy
from bench.inserting import Pgbench, library
from bench.line import Line, Rounds, compared
from bench.place import MASTER_KEY, Place
from bichat.commands.dialogue import AddMessage, NewMessage, StartDialogue
from bichat.commands.execute import Executor, Once
from bichat.events.dialogue import Asked
from bichat.events.envelope import Actor, Metadata
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger
from bichat.wiring.parts import TURN

DIALOGUES, CALLERS, USERS = 2_000, 64, 100
FOREIGN, RIVAL_RATE = 0.05, 400.0
"""Of the dialogues, and appends per second of the second process to them."""
OLDER = 100_000
"""Rows that stand in both tables before."""
ROUNDS, SECONDS = 5, 4
TEXT = "Which region sold most of the new line in the second quarter, and by how much? "
TARGET, LIBRARY_TARGET = 0.4, 6.0

_FILL = """
insert into bichat.stored_events (notification_id, originator_id, originator_version, topic, state, tenant_id,
    command_id, hash, actor)
select nextval('bichat.log_position'), gen_random_uuid(), 1, topic, state, tenant_id, command_id, hash, actor
from (select * from bichat.stored_events where topic = 'MessageAdded' limit 1) as sample,
    generate_series(1, %s)
"""


class Talk(Struct, frozen=True):
    """Dialogues of one tenant, and who says something in them."""

    tenant_id: UUID
    dialogues: list[UUID]

    def by(self, nr: int) -> Metadata:
        """The person of the dialogue `nr`."""
        return Metadata(tenant_id=self.tenant_id, actor=Actor("user", self.user(nr)), command_id=uuid7())

    def user(self, nr: int) -> str:
        """Each has some dialogues."""
        return f"user-{nr % USERS}"

    async def start(self, executor: Executor) -> None:
        """Opens them all."""

        async def start(nr: int) -> None:
            command = StartDialogue(dialogue_id=self.dialogues[nr], user_id=self.user(nr), messages=ask())
            await executor.execute(command, self.by(nr))

        numbers = iter(range(len(self.dialogues)))
        while some := list(islice(numbers, 256)):
            await asyncio.gather(*map(start, some))

    async def add(self, executor: Executor, nr: int, *, keyed: bool) -> None:
        """One command; `keyed` leaves a receipt."""
        command, by = AddMessage(dialogue_id=self.dialogues[nr], messages=ask()), self.by(nr)
        once = Once(str(by.command_id), TEXT.encode()) if keyed else None
        await executor.execute(command, by, once=once)


def ask() -> tuple[NewMessage, ...]:
    """A question."""
    return (NewMessage(message_id=uuid7(), role="user", content=TEXT, asks=Asked()),)


@contextmanager
def opened(url: str) -> Iterator[Executor]:
    """A writer as each part of bichat has one."""
    sys.setswitchinterval(TURN)
    keys = KeyStore(url, MASTER_KEY)
    keys.unlock()
    ledger = Ledger(url, keys)
    executor = Executor(ledger)
    executor.start()
    try:
        yield executor
    finally:
        executor.close()
        ledger.close()
        keys.close()


async def commands(executor: Executor, talk: Talk, seconds: float, *, keyed: bool) -> float:
    """Commands per second of all callers."""
    started = time.monotonic()

    async def caller(first: int) -> int:
        for done in count():
            if time.monotonic() > started + seconds:
                return done
            await talk.add(executor, (first + 31 * done) % len(talk.dialogues), keyed=keyed)
        return 0

    done = await asyncio.gather(*(caller(97 * n) for n in range(CALLERS)))
    return sum(done) / (time.monotonic() - started)


def rival(url: str, talk: Talk, going: Event, ended: Event, done: Any) -> None:
    """The second process: appends to its dialogues, one after the other, while `going`."""

    async def append(executor: Executor) -> None:
        nr = 0
        while not ended.is_set():
            if not going.is_set():
                await asyncio.sleep(0.01)
                continue
            await talk.add(executor, nr % len(talk.dialogues), keyed=True)
            nr += 1
            done.value = nr
            await asyncio.sleep(1 / RIVAL_RATE)

    with opened(url) as executor:
        uvloop.run(append(executor))


@contextmanager
def beside(url: str, talk: Talk) -> Iterator[tuple[Event, Any]]:
    """The second process; it appends while the event is set, and counts."""
    start = multiprocessing.get_context("spawn")
    going, ended, done = start.Event(), start.Event(), start.Value("q", 0)
    few = Talk(talk.tenant_id, talk.dialogues[: int(FOREIGN * len(talk.dialogues))])
    process = start.Process(target=rival, args=(url, few, going, ended, done), daemon=True)
    process.start()
    try:
        yield going, done
    finally:
        ended.set()
        process.join(10)
        process.kill()


def measure(place: Place) -> Line:
    """Rounds of ours and of pgbench in turn, then one of the library's recorder."""
    talk = Talk(uuid7(), [uuid7() for _ in range(DIALOGUES)])
    ours: dict[bool, list[float]] = {True: [], False: []}
    theirs: list[float] = []
    with place.database() as url, opened(url) as executor, beside(url, talk) as (going, appended):
        uvloop.run(talk.start(executor))
        with psycopg.connect(url) as connection:
            connection.execute(_FILL, (OLDER,))
        pgbench = Pgbench(url, place.scratch, DIALOGUES)
        ours_busy, theirs_busy = Busy(url, {"python": os.getpid()}), Busy(url, {})
        for _ in range(ROUNDS):
            going.set()
            ours[False].append(uvloop.run(commands(executor, talk, SECONDS, keyed=False)))
            with ours_busy:
                ours[True].append(uvloop.run(commands(executor, talk, SECONDS, keyed=True)))
            going.clear()
            with theirs_busy:
                theirs.append(pgbench.rate(SECONDS))
            place.say(f"{ours[True][-1]:.0f} (without keys {ours[False][-1]:.0f}), pgbench {theirs[-1]:.0f}")
        foreign = appended.value / (2 * ROUNDS * SECONDS)
        if not foreign:
            raise RuntimeError("the second process appended nothing")
        of_library = library(url, pgbench.payload, SECONDS)
    line = _line(Rounds(ours[True]), Rounds(ours[False]), Rounds(theirs), of_library, foreign)
    line.notes.append(f"the last round: {ours_busy.told()}; pgbench: {theirs_busy.told()}")
    return line


def _line(keyed: Rounds, bare: Rounds, theirs: Rounds, of_library: float, foreign: float) -> Line:
    fields = compared(keyed, theirs)
    times = keyed.median / of_library
    return Line(
        id="P1", work="commands through execute, durable, 64 callers", unit="commands/s",
        target=f"≥ {TARGET}, ≥ {LIBRARY_TARGET:.0f} x the library's recorder",
        met=fields["ratio"] >= TARGET and times >= LIBRARY_TARGET,
        notes=[
            f"each with an Idempotency-Key and its receipt; without: {bare.median:,.0f}/s,"
            f" ratio {bare.median / theirs.median:.2f}",
            f"the library's recorder as it comes, 32 threads: {of_library:,.0f} events/s; {times:.1f} x",
            f"a second process appended {foreign:.0f}/s to {FOREIGN:.0%} of the {DIALOGUES:,} dialogues",
        ],
        **fields,
    )  # fmt: skip
