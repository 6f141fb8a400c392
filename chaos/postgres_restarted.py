"""R3: Postgres restarted in both ways, and connections of every part cut at random: no process is restarted.

The processes that served before serve afterwards, by their ids; recovered is as in R1.
"""

from __future__ import annotations

import signal
import time

import psycopg

from chaos.running import LEASE, RECOVERY, Running, running
from chaos.verdict import Verdict
from chaos.world import World

DONE = "Postgres restarted, fast and immediately, and connections cut at random, while 20 clients write"
SOON = LEASE + RECOVERY
"""Seconds until everything goes on by itself."""
_CUT = """
select pid, application_name, pg_terminate_backend(pid) from pg_stat_activity
where datname = %s and pid <> pg_backend_pid() and random() < %s
"""


def run(world: World, verdict: Verdict) -> None:
    """Two restarts and two seconds of cuts in the short version; else four and thirty seconds."""
    ways = [signal.SIGINT, signal.SIGQUIT] * (1 if world.short else 2)
    world.rng.shuffle(ways)
    with running(world) as here:
        before = {name: process.pid for name, process in here.stack.processes.items()}
        for way in ways:
            here.breaking.stop("Postgres", way)
            # Long enough, once, for whoever waits longer after each try to be late.
            away = 25.0 if not world.short and verdict.counts["restarts"] == 1 else 2.0
            time.sleep(world.rng.uniform(away / 2, away))
            back = here.breaking.back("Postgres")
            here.recovers(back, SOON, verdict, f"Postgres was stopped with {way.name} and is back")
            verdict.counts["restarts"] += 1
        _cut(here, 2.0 if world.short else 30.0, verdict)
        here.recovers(time.monotonic(), SOON, verdict, "connections were cut")
        for name, process in here.stack.processes.items():
            alive = process.poll() is None and process.pid == before[name]
            verdict.check(alive, f"{name} has ended with {process.poll()}")
        here.judge(verdict)


def _cut(here: Running, seconds: float, verdict: Verdict) -> None:
    """Some of all connections to the database, again and again."""
    until, rng = time.monotonic() + seconds, here.world.rng
    name = here.database_url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(here.world.server, autocommit=True) as connection:
        connection.execute("select setseed(%s)", (rng.random(),))
        while time.monotonic() < until:
            cut = connection.execute(_CUT, (name, rng.uniform(0.1, 0.6))).fetchall()
            here.tell("cut", sessions=sorted(application for _, application, _ in cut))
            verdict.counts["connections cut"] += len(cut)
            time.sleep(rng.uniform(0.1, 1.0))
    verdict.check(verdict.counts["connections cut"] > 0, "no connection was cut")
