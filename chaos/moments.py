"""The four moments of an answer at which something is killed, and how each is met."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg

from chaos.crowd import Crowd
from chaos.world import World

MOMENTS = (
    "before the model is called",
    "in mid-stream",
    "after the last word",
    "before the commit is acknowledged",
)
PATIENCE = 4.0
"""Seconds to wait for a moment; the log may be held for less than its writers wait, which is 5 s."""

_HOLD = "select pg_advisory_lock(hashtextextended('bichat.append', 0))"
_WAIT = "select count(*) from pg_locks where locktype = 'advisory' and not granted"


@contextmanager
def reached(moment: str, crowd: Crowd, world: World, database_url: str) -> Iterator[bool]:
    """Whether it has come; the block kills something in it, and then things go on."""
    if moment == "before the model is called":
        met = crowd.wait_for("accepted", 1, PATIENCE)
        time.sleep(world.rng.uniform(0, 0.01))
        yield met
    elif moment == "in mid-stream":
        yield crowd.wait_for("word", world.rng.randrange(1, 12), PATIENCE)
    elif moment == "after the last word":
        # While somebody else has the log, no answer gets into it: its last word is told, its end is not.
        with _held(database_url):
            yield crowd.wait_for("whole", 1, PATIENCE)
    else:
        with _held(database_url) as log:
            yield crowd.wait_for("sent", 1, PATIENCE / 2) and _somebody_waits(log)


@contextmanager
def _held(database_url: str) -> Iterator[psycopg.Connection[tuple[int]]]:
    """The log's lock, as a writer has it that takes its time; whoever waits for it goes on afterwards."""
    log = psycopg.connect(database_url, autocommit=True)
    log.execute(_HOLD)
    try:
        yield log
    finally:
        with suppress(psycopg.Error):  # it may be Postgres that was killed
            log.close()


def _somebody_waits(log: psycopg.Connection[tuple[int]]) -> bool:
    deadline = time.monotonic() + PATIENCE / 2
    while time.monotonic() < deadline:
        found = log.execute(_WAIT).fetchone()
        if found and found[0]:
            return True
        time.sleep(0.002)
    return False
