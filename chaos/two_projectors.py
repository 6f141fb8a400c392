"""R4: two projectors and two builds of each read model, while people write; one of each is stale."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from bench.place import MASTER_KEY
from bichat.doorbell import Doorbell
from bichat.events import schema
from bichat.events.dialogue import ReplyStarted
from bichat.events.envelope import Entry, Event
from bichat.events.feed import Feed
from bichat.events.keys.store import KeyStore
from bichat.projections import versions
from bichat.projections.crashes import Crashes
from bichat.projections.processes import Database, Pool
from bichat.projections.runner import Runner, Stale
from bichat.projections.sql import statement
from bichat.projections.tail import Tail
from bichat.projections.verify import verify
from bichat.workers.project import told
from chaos import evidence
from chaos.running import Running, running
from chaos.verdict import Verdict
from chaos.world import World

DONE = "two projectors, two builds, one of them stale, while people write"

TAKEN_OVER = 5.0
"""Seconds that the other projector may take to go on where a stopped one was."""
FOLLOWED = 3.0
"""Seconds after which a projector knows which builds there are."""


def run(world: World, verdict: Verdict) -> None:
    with running(world) as live:
        live.stack.start("projector 2", "projector")
        time.sleep(1.0)  # there is a log to build from
        built = live.stack.verb("projections", "rebuild", "--all", timeout=120)
        verdict.check(built.returncode == 0, f"no second build: {built.stderr}")
        left = outdated(live)
        with deaf(live) as ignorant:
            for _ in range(1 if world.short else 6):
                stopped(live, verdict)
            time.sleep(1.0 if world.short else 5.0)
        refused = sum(runner.refused for runner in ignorant)
        verdict.counts["stale batches refused"] = refused
        verdict.check(refused > 0, "nobody was ever stale: nothing was tried")
        live.judge(verdict)
        verdict.check(left() == left.start, "code of an older fold wrote into a build of newer code")
        exactly_once(live, verdict)


# --- projectors ------------------------------------------------------------------------------------


def stopped(live: Running, verdict: Verdict) -> None:
    """One stands still, as on a machine that swaps, and the server drops it: what it knows is stale."""
    name = live.world.rng.choice(["projector", "projector 2"])
    process = live.stack.processes[name]
    process.send_signal(signal.SIGSTOP)
    live.tell(f"stopped {name}")
    with psycopg.connect(live.database_url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'bichat-projector' and datname = current_database()"
        )
        head = position(connection, "max")
        deadline = time.monotonic() + TAKEN_OVER
        while position(connection, "min") < head and time.monotonic() < deadline:
            time.sleep(0.05)
        reached = position(connection, "min")
        verdict.check(reached >= head, f"without {name} the builds stood at {reached}, of {head}")
    process.send_signal(signal.SIGCONT)
    live.tell(f"{name} goes on")
    verdict.counts["projectors stopped"] += 1


def position(connection: psycopg.Connection[Any], which: str) -> int:
    """Of the build that is furthest (`max`) or least far (`min`), of those that are followed."""
    query = f"select {which}(position) from bichat.checkpoints where fold < 99"
    row = connection.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0


class Uncounted(Crashes):
    """It takes nothing over from anybody, so that nobody who comes after it believes it dead."""

    def take_over(self, connection: psycopg.Connection[Any]) -> int | None:
        row = connection.execute(statement("crashes", "found"), self._build.key).fetchone()
        return int(row[0]) if row else None


class Deaf(Runner):
    """A projector that knows nothing of locks: it goes on where it believes the build to be."""

    refused = 0

    def _locked(self, connection: psycopg.Connection[Any]) -> bool:
        return True

    def apply(
        self, connection: psycopg.Connection[Any], position: int, entries: Sequence[Entry]
    ) -> Sequence[Event]:
        try:
            return super().apply(connection, position, entries)
        except Stale:
            self.refused += 1
            raise


class NoBell:
    """It looks often, so that it is often at the same event as the others."""

    def wait(self, timeout: float) -> bool:
        time.sleep(0.005)
        return True


@contextmanager
def deaf(live: Running) -> Iterator[list[Deaf]]:
    """Such a projector for every build, beside the two that hold the locks."""
    with ExitStack() as stack:
        keys = KeyStore(live.database_url, MASTER_KEY)
        stack.callback(keys.close)
        keys.unlock()
        with schema.connect(live.database_url) as connection:
            builds = versions.followed(connection)
        tail = Tail(Feed(keys), NoBell())
        doorbell = Doorbell(live.world.redis_url)
        stack.callback(doorbell.close)
        runners = [Deaf(build, live.database_url, tail, told(build, doorbell)) for build in builds]
        for runner in runners:
            runner._crashes = Uncounted(runner.build)
            thread = threading.Thread(target=runner.run, daemon=True)
            thread.start()
            stack.callback(thread.join, 10)
        for runner in runners:
            stack.callback(runner.stop)
        live.tell("projectors without locks", builds=[build.id for build in builds])
        yield runners


# --- builds ----------------------------------------------------------------------------------------


class Left:
    """A build that the projectors are to leave alone: where it stands and what is in it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.start = self()

    def __call__(self) -> list[Any]:
        with psycopg.connect(self._url) as connection:
            where = "where name = 'usage' and build = 1"
            return [
                connection.execute(f"select position from bichat.checkpoints {where}".encode()).fetchone(),
                connection.execute("select md5(string_agg(u::text, '|' order by u::text)) from"
                                   " bichat.usage_v1_g1 u").fetchone(),
            ]  # fmt: skip


def outdated(live: Running) -> Left:
    """Newer code has taken the first build of `usage` over; these projectors are of older code now."""
    with psycopg.connect(live.database_url, autocommit=True) as connection:
        connection.execute("update bichat.checkpoints set fold = 99 where name = 'usage' and build = 1")
    time.sleep(FOLLOWED)
    return Left(live.database_url)


def exactly_once(live: Running, verdict: Verdict) -> None:
    """Every build that is followed is what the log comes to; what is counted was counted once."""
    database = Database(url=live.database_url, keys_url=live.database_url, master_key=MASTER_KEY)
    with schema.connect(live.database_url) as connection:
        builds = versions.followed(connection)
        parked = connection.execute("select count(*) from bichat.parked").fetchone()
        counted = connection.execute("select sum(calls) from bichat.usage_v1").fetchone()
    log = evidence.read(live.database_url)
    started = sum(isinstance(e.fact, ReplyStarted) for events in log.dialogues.values() for e in events)
    verdict.check(counted == (started,), f"{started} attempts are in the log, {counted} were counted")
    pool = Pool(database, 0)
    reports = verify(database, builds, pool, lambda *_: None)
    pool.close()
    for report in reports:
        verdict.check(report.valid, f"{report.build} differs from the log: {report.finding}")
    verdict.counts["builds verified"] = len(reports)
    verdict.check(parked == (0,), f"{parked} dialogues are parked, and no event was bad")
