"""P4: from the append to the read model, at half of the rate that P2 reaches, while a worker answers.

One observer, with one connection and one clock, looks about a thousand times a second at both ends: the
newest event of the log, and how far `transcripts` has come (its checkpoint moves in the transaction of its
rows). A message's delay is taken from the start of the last look that did not find it in the log to the end
of the first that found it readable: an upper bound, too long by a look or two.
"""

from __future__ import annotations

import multiprocessing
import time
from bisect import bisect_left
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event

import psycopg
from msgspec import Struct

from bench.busy import Busy
from bench.crowd import Told
from bench.line import Line, Rounds
from bench.place import Place
from bench.posting import Talk, talk

ROUNDS, SECONDS, SHORT = 3, 8.0, 5.0
P50, P99 = 8.0, 60.0
FEW = 50.0
"""Posts a second that leave the machine time: what it takes when nobody waits for a processor."""
EVERY = 0.001
LOOK = """
select (select max(notification_id) from bichat.stored_events), position from bichat.checkpoints
where name = 'transcripts'
"""
MESSAGES = """
select notification_id from bichat.stored_events
where topic = 'MessageAdded' and notification_id > %s and notification_id <= %s order by 1
"""


class Look(Struct, frozen=True, array_like=True):
    """What the observer saw, when it was not what it had seen before; seconds of the machine's clock."""

    began: float
    ended: float
    appended: int
    readable: int
    before: float
    """When the look before this one began, which saw what the entry before this one says."""


def observe(url: str, stop: Event, out: Connection) -> None:
    """Looks until told to stop, and hands over what it saw; in a process of its own."""
    looks: list[Look] = []
    seen, before = (0, 0), time.monotonic()
    with psycopg.connect(url, autocommit=True, prepare_threshold=0) as connection:
        out.send("looking")
        while not stop.is_set():
            began = time.monotonic()
            [appended, readable] = connection.execute(LOOK).fetchone() or seen
            ended = time.monotonic()
            if (appended, readable) != seen:
                seen = appended, readable
                looks.append(Look(began, ended, appended, readable, before))
            before = began
            time.sleep(max(0.0, began + EVERY - time.monotonic()))
    out.send(looks)


def delays(looks: Sequence[Look], messages: Sequence[int], told: Told) -> list[float]:
    """Milliseconds of each of these positions that was appended in the time that counts, sorted."""
    appended, readable = [look.appended for look in looks], [look.readable for look in looks]
    found = []
    for position in messages:
        there = looks[bisect_left(appended, position)]
        if told.since <= there.began < told.since + told.seconds:
            found.append(1000 * (looks[bisect_left(readable, position)].ended - there.before))
    return sorted(found)


def observed(here: Talk, rate: float) -> tuple[list[float], Told]:
    """The delays of all messages while people post at `rate`."""
    spawn = multiprocessing.get_context("spawn")
    stop, (mine, its) = spawn.Event(), spawn.Pipe()
    observer = spawn.Process(target=observe, args=(here.database_url, stop, its), daemon=True)
    observer.start()
    try:
        mine.recv()
        told = here.post(SECONDS, rate=rate)
        here.caught_up()
        stop.set()
        looks: list[Look] = mine.recv()
    finally:
        observer.terminate()
        observer.join()
    if told.refused:
        raise RuntimeError(f"refused: {told.refused}")
    with psycopg.connect(here.database_url) as connection:
        rows = connection.execute(MESSAGES, (looks[0].appended, looks[-1].readable)).fetchall()
    return delays(looks, [position for (position,) in rows], told), told


def measure(place: Place) -> Line:
    """The line."""
    p50, p99, rates = [], [], []
    with place.database() as url, talk(place, url) as here, here.worker():
        full = here.post(SHORT).rate
        here.caught_up()
        for number in range(ROUNDS):
            with Busy.of(here.bichat) as busy:
                took, told = observed(here, full / 2)
            p50.append(took[len(took) * 50 // 100])
            p99.append(took[len(took) * 99 // 100])
            rates.append(told.rate)
            place.say(f"round {number + 1}: p50 {p50[-1]:.1f} ms, p99 {p99[-1]:.1f} ms, at {told.rate:.0f}/s")
        few, _ = observed(here, FEW)
    half, whole = Rounds(p50), Rounds(p99)
    return Line(
        id="P4", work="append → visible in the read model", unit="ms p50", ours=half.median,
        spread=half.spread, target=f"≤ {P50:.0f}, p99 ≤ {P99:.0f}",
        met=half.median <= P50 and whole.median <= P99,
        notes=[
            f"p99 {whole.median:.0f} ms ({min(p99):.0f} to {max(p99):.0f}), at {Rounds(rates).median:,.0f}"
            f" messages/s and a worker's replies; at full speed {full:,.0f}/s were posted",
            busy.told(),
            f"at {FEW:.0f}/s: p50 {few[len(few) * 50 // 100]:.1f} ms, p99 {few[len(few) * 99 // 100]:.0f} ms",
        ],
    )  # fmt: skip
