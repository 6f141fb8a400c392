"""R10: SIGTERM to worker, projector and api in mid-stream: they stop in time, and lose nobody's place."""

from __future__ import annotations

import time

import psycopg

from chaos.moments import reached
from chaos.running import Running, running
from chaos.verdict import Verdict
from chaos.world import World

DONE = "SIGTERM to worker, projector, api, under load with open streams"
STOPPED = 10.0
"""Seconds within which each has stopped."""
HANDED_OVER = 10.0
"""Seconds within which what a stopped worker held is answered by another: a lease would last 15."""
_HELD = "select count(*) from bichat.reply_leases where holder like %s and expires_at > clock_timestamp()"


def run(world: World, verdict: Verdict) -> None:
    """Each once in the short version, in an order of the seed; else five times."""
    names = ["worker 0", "projector", "api"] * (1 if world.short else 5)
    world.rng.shuffle(names)
    with running(world, workers=2) as here:
        for name in names:
            _stop(here, name, verdict)
        verdict.check(verdict.counts["in mid-stream"] > 0, "nothing was stopped in mid-stream")
        here.judge(verdict)


def _stop(here: Running, name: str, verdict: Verdict) -> None:
    """Asks it to stop; a worker's place is taken by the other one, the rest is started again."""
    pid = here.stack.processes[name].pid
    with reached("in mid-stream", here.crowd, here.world, here.database_url) as met:
        status, took = here.breaking.terminate(name)
    stopped = time.monotonic()
    here.tell(f"stopped {name}", met=met, status=status, seconds=f"{took:.2f}")
    verdict.check(status == 0, f"{name} ended with status {status}")
    verdict.check(took <= STOPPED, f"{name} took {took:.1f} s to stop")
    verdict.counts["stopped"] += 1
    verdict.counts["in mid-stream"] += met
    verdict.counts["slowest stop, ms"] = max(verdict.counts["slowest stop, ms"], round(1000 * took))
    if name.startswith("worker"):
        with psycopg.connect(here.database_url) as connection:
            row = connection.execute(_HELD, (f"%:{pid}:%",)).fetchone()
        verdict.check(row == (0,), f"{name} stopped and holds {row} questions")
        here.recovers(stopped, HANDED_OVER, verdict, f"{name} has handed over")
        here.breaking.back(name)
    else:
        here.recovers(here.breaking.back(name), STOPPED, verdict, f"{name} is back")
