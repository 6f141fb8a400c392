"""P8: 1,000 streams open on one API process, ten words a second in each, beside ten streams.

The replies are real ones under way: asked and started in the log. What workers would say of them is said by
one process through `bichat.deltas`, each word with the moment in which it is said; another process follows.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from uuid import UUID

import uvloop
from msgspec import Struct
from redis import Redis
from uuid_utils.compat import uuid7

from bench.audience import Heard, Seat, attend
from bench.line import Line, Rounds
from bench.place import NO_MODEL, Place
from bench.stack import TENANT, Stack, stack
from bench.writer import opened
from bichat.commands.dialogue import NewMessage, StartDialogue
from bichat.commands.execute import Executor
from bichat.commands.reply import StartReply
from bichat.deltas import Deltas, Said
from bichat.events.dialogue import Asked, Shown
from bichat.events.envelope import Actor, Metadata

FEW, MANY, RATE = 10, 1_000, 10
"""Streams, and words per second in each."""
SECONDS, ROUNDS = 8, 3
LATEST, LARGEST = 250.0, 100.0
"""Milliseconds of the 99th percentile, and KB of memory per stream."""
QUESTION = "Which region sold most of the new line in the second quarter, and by how much?"
SLICES = 20
"""In so many steps all streams are said a word to, evenly over the interval."""


class Reply(Struct, frozen=True):
    """One under way."""

    dialogue_id: UUID
    message_id: UUID
    user: str
    version: int

    def seat(self, made: Stack) -> Seat:
        """Where its reader follows it."""
        path = f"/v1/dialogues/{self.dialogue_id}/stream?message_id={self.message_id}"
        return Seat(path, made.headers(self.user))


async def begin(executor: Executor, number: int) -> list[Reply]:
    """So many questions of as many people, asked and started."""

    async def reply(nr: int) -> Reply:
        found = Reply(uuid7(), uuid7(), f"user-{nr}", 0)
        asked = NewMessage(message_id=found.message_id, role="user", content=QUESTION, asks=Asked())
        start = StartDialogue(dialogue_id=found.dialogue_id, user_id=found.user, messages=(asked,))
        await executor.execute(start, _by(Actor("user", found.user)))
        what = Shown(as_of=2, messages=1, prompt="chat", prompt_version=1)
        started = StartReply(
            dialogue_id=found.dialogue_id, message_id=found.message_id, attempt=1, model="gpt-4o-mini",
            shown=what, request_digest="0" * 64,
        )  # fmt: skip
        outcome = await executor.execute(started, _by(Actor("worker", "w")))
        return Reply(found.dialogue_id, found.message_id, found.user, outcome.version)

    return await asyncio.gather(*map(reply, range(number)))


def _by(actor: Actor) -> Metadata:
    return Metadata(tenant_id=TENANT, actor=actor, command_id=uuid7())


# --- the process that says the words ----------------------------------------------------------------


def speak(redis_url: str, pipe: Connection) -> None:
    """Says words in the replies that come through the pipe, for so many seconds; ends at None."""
    uvloop.run(_speak(redis_url, pipe))


async def _speak(redis_url: str, pipe: Connection) -> None:
    deltas, numbers = Deltas(redis_url), dict[UUID, int]()
    while (asked := await asyncio.to_thread(pipe.recv)) is not None:
        replies, seconds = asked
        clock, running = time.monotonic, set[asyncio.Task[bool]]()
        began, step = clock(), 1 / RATE / SLICES
        for tick in range(seconds * RATE * SLICES):
            for reply in replies[tick % SLICES :: SLICES]:
                n = numbers[reply.message_id] = numbers.get(reply.message_id, 0) + 1
                text = f"{n} {time.monotonic_ns()} "
                said = Said(reply.message_id, 1, n, text, reply.version)
                task = asyncio.create_task(deltas.say(reply.dialogue_id, said))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.sleep(max(0.0, began + (tick + 1) * step - clock()))
        if running:
            await asyncio.wait(running)
        pipe.send(clock() - began)
    await deltas.close()


# --- the line ---------------------------------------------------------------------------------------


class Round(Struct):
    """What some seconds of talk came to."""

    said: int
    took: float
    heard: Heard
    busy: dict[str, float]
    """Cores that each process used."""

    def delay(self, share: float) -> float:
        """Milliseconds."""
        delays = sorted(self.heard.delays)
        return delays[int(share * (len(delays) - 1))] / 1e6 if delays else float("inf")

    @property
    def missing(self) -> int:
        """Words that did not come, or not after the one before."""
        return self.said - self.heard.words + self.heard.out_of_order


class Hall:
    """The processes, and who talks to them."""

    def __init__(self, speaker: Connection, audience: Connection, pids: dict[str, int]) -> None:
        self._speaker, self._audience, self._pids = speaker, audience, pids

    def seat(self, seats: list[Seat]) -> None:
        """Lets these in."""
        self._audience.send(seats)
        self._audience.recv()

    def talk(self, replies: list[Reply], seconds: int) -> Round:
        """Says and hears words for so long."""
        before, began = self._used(), time.monotonic()
        self._speaker.send((replies, seconds))
        took = self._speaker.recv()
        time.sleep(1)  # what is on its way
        self._audience.send([])
        heard = self._audience.recv()
        after, whole = self._used(), time.monotonic() - began
        busy = {name: (after[name] - used) / whole for name, used in before.items()}
        return Round(seconds * RATE * len(replies), took, heard, busy)

    def memory(self) -> float:
        """Bytes of the API process."""
        pages = int(Path(f"/proc/{self._pids['api']}/statm").read_text().split()[1])
        return float(pages * os.sysconf("SC_PAGE_SIZE"))

    def _used(self) -> dict[str, float]:
        return {name: _cpu(pid) for name, pid in self._pids.items()}


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def beside(work: Any, url: str) -> Iterator[tuple[Connection, int]]:
    """A process that does `work`, the way to it and its id."""
    start = multiprocessing.get_context("spawn")
    here, there = start.Pipe()
    process = start.Process(target=work, args=(url, there), daemon=True)
    process.start()
    there.close()
    try:
        yield here, process.pid or 0
    finally:
        here.close()
        process.kill()
        process.join()


@contextmanager
def hall(place: Place, made: Stack) -> Iterator[Hall]:
    with beside(speak, place.redis_url) as (speaker, said), beside(attend, made.url) as (audience, heard):
        with Redis.from_url(place.redis_url) as redis:
            valkey = redis.info("server")["process_id"]
        pids = {"api": made.processes["api"].pid, "speaker": said, "audience": heard, "valkey": valkey}
        yield Hall(speaker, audience, pids)


def measure(place: Place) -> Line:
    """`ours` is the 99th percentile of the delay at 1,000 streams, the yardstick the same at ten."""
    with (
        place.database() as url,
        stack(url, place.redis_url, NO_MODEL, place.scratch / "streams") as made,
        opened(url) as executor,
    ):
        made.up(workers=0)
        replies = uvloop.run(begin(executor, MANY))
        with hall(place, made) as here:
            here.seat([reply.seat(made) for reply in replies[:FEW]])
            few = [here.talk(replies[:FEW], SECONDS // 2) for _ in range(ROUNDS)]
            before = here.memory()
            here.seat([reply.seat(made) for reply in replies[FEW:]])
            many = [here.talk(replies, SECONDS) for _ in range(ROUNDS)]
            kilobytes = (here.memory() - before) / (MANY - FEW) / 1000
    return line(few, many, kilobytes)


def line(few: list[Round], many: list[Round], kilobytes: float) -> Line:
    ours, yardstick = (Rounds([one.delay(0.99) for one in rounds]) for rounds in (many, few))
    missing = sum(one.missing for one in (*few, *many))
    rate = min(one.said / one.took for one in many)
    met = not missing and ours.median <= LATEST and kilobytes <= LARGEST and rate > 0.98 * MANY * RATE
    busy = ", ".join(f"{name} {share:.2f}" for name, share in many[-1].busy.items())
    return Line(
        id="P8", work=f"{MANY:,} streams, {RATE} words/s each: p99 of the delay", unit="ms",
        ours=ours.median, spread=ours.spread, yardstick=yardstick.median, yardstick_spread=yardstick.spread,
        ratio=ours.median / yardstick.median, met=met,
        target=f"all heard, ≤ {LATEST:.0f} ms, ≤ {LARGEST:.0f} KB each",
        notes=[
            f"{sum(one.said for one in many):,} words at {rate:,.0f} /s, {missing} not heard in order;"
            f" p50 {Rounds([one.delay(0.5) for one in many]).median:.0f} ms at {MANY:,} streams,"
            f" {Rounds([one.delay(0.5) for one in few]).median:.1f} ms at {FEW}",
            f"{kilobytes:.0f} KB per stream; cores used: {busy} (of {os.cpu_count()})",
        ],
    )  # fmt: skip
