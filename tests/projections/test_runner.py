"""A runner applies each event once, whoever else runs, and survives what can be survived."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec.structs import replace
from psycopg.errors import DeadlockDetected, DiskFull, LockNotAvailable

from bichat.errors.unusable import EventTooNew
from bichat.events.envelope import Event
from bichat.projections.read_model import Build
from bichat.projections.runner import Runner, Stale, connect
from tests.projections.histories import BUILDS, history, tables

LOG = history([(d, w, n) for n in range(4) for w in (0, 3, 6, 0, 3, 9) for d in range(4)])
TRANSCRIPTS = BUILDS[0]


class Script:
    """A source that gives out a log, a few events at a time."""

    def __init__(self, most: int = 3, log: Sequence[Event] = LOG) -> None:
        self.most, self.log = most, log

    def next(self, _: psycopg.Connection[Any], after: int, limit: int, timeout: float) -> list[Event]:
        events = [event for event in self.log if event.position > after][: min(self.most, limit)]
        time.sleep(0.01 if events else timeout)
        return events


@contextmanager
def running(*runners: Runner) -> Iterator[list[threading.Thread]]:
    threads = [threading.Thread(target=runner.run, daemon=True) for runner in runners]
    for thread in threads:
        thread.start()
    try:
        yield threads
    finally:
        began = time.monotonic()
        for runner in runners:
            runner.stop()
        for thread in threads:
            thread.join(5)
        assert not any(thread.is_alive() for thread in threads)
        assert time.monotonic() - began < 2


def filled(url: str, log: Sequence[Event], *names: str) -> None:
    """Makes these read models (all, if none is named) what they are after `log`."""
    with connect(url) as connection:
        for build in BUILDS:
            if not names or build.model.name in names:
                Runner(build, url, Script()).apply(connection, 0, log)


def until(done: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.01)


def checkpoint(url: str, build: Build = TRANSCRIPTS) -> tuple[int, str, str]:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select position, state, error from bichat.checkpoints where name = %s", (build.model.name,)
        ).fetchone()
    assert row
    return row


def parked(url: str) -> dict[UUID, tuple[str, int, str]]:
    """Of each dialogue that waits: in what, from which version on, and why."""
    with psycopg.connect(url) as connection:
        rows = connection.execute("select dialogue_id, name, version, error from bichat.parked").fetchall()
    return {row[0]: row[1:] for row in rows}


def at_the_end(url: str, build: Build = TRANSCRIPTS) -> Callable[[], bool]:
    return lambda: checkpoint(url, build)[0] == LOG[-1].position


def expected(url: str, builds: Sequence[Build], log: Sequence[Event] = LOG) -> dict[str, Any]:
    """The tables as one batch leaves them."""
    with connect(url) as connection, connection.transaction(force_rollback=True):
        for build in BUILDS:
            for table in build.tables:
                connection.execute(f"truncate {table}".encode())
        for build in builds:
            build.model.apply(build, connection, log)
        return tables(connection)


def contents(url: str) -> dict[str, Any]:
    with connect(url) as connection:
        return tables(connection)


def test_a_stale_checkpoint_is_refused_and_nothing_applied(database_url: str) -> None:
    runner = Runner(TRANSCRIPTS, database_url, Script())
    with connect(database_url) as connection:
        runner.apply(connection, 0, LOG[:5])
        before = tables(connection)
        with pytest.raises(Stale):
            runner.apply(connection, 0, LOG[:5])
        with pytest.raises(Stale):
            runner.apply(connection, LOG[3].position, LOG[4:6])
        assert tables(connection) == before
        runner.apply(connection, LOG[4].position, LOG[5:])
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


def test_two_at_one_place_apply_a_batch_once(database_url: str) -> None:
    runner, refused = Runner(TRANSCRIPTS, database_url, Script()), []

    def apply() -> None:
        with connect(database_url) as connection:
            try:
                runner.apply(connection, 0, LOG)
            except Stale as error:
                refused.append(error)

    threads = [threading.Thread(target=apply) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


def test_every_read_model_is_followed_to_the_end(database_url: str) -> None:
    with running(*(Runner(build, database_url, Script()) for build in BUILDS)):
        for build in BUILDS:
            until(at_the_end(database_url, build))
    assert contents(database_url) == expected(database_url, BUILDS)


def test_a_standby_takes_over_within_a_second(database_url: str) -> None:
    told: list[list[Event]] = [[], []]
    first, second = (Runner(TRANSCRIPTS, database_url, Script(), applied=t.extend) for t in told)
    with running(first):
        until(lambda: told[0])
        with running(second):
            time.sleep(0.1)
            assert not told[1]
            first.stop()
            until(lambda: told[1], 1.5)
            until(at_the_end(database_url))
    assert told[0] + told[1] == LOG
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


def test_connections_cut_at_random_lose_and_double_nothing(database_url: str) -> None:
    runners = [Runner(build, database_url, Script()) for build in BUILDS[:2] * 2]
    with running(*runners), psycopg.connect(database_url, autocommit=True) as killer:
        for _ in range(8):
            time.sleep(0.06)
            killer.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name = 'bichat-projector'"
            )
        for build in BUILDS[:2]:
            until(at_the_end(database_url, build))
    assert contents(database_url) == expected(database_url, BUILDS[:2])


def failing(error: Exception, while_: threading.Event) -> Build:
    """A build whose fold meets trouble that no event is to blame for."""

    def apply(build: Build, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        TRANSCRIPTS.model.apply(build, connection, events)
        if while_.is_set():
            raise error

    return Build(replace(TRANSCRIPTS.model, apply=apply), TRANSCRIPTS.number)


@pytest.mark.parametrize(
    "error", [DiskFull("no room"), DeadlockDetected(), LockNotAvailable(), OSError(28, "No room")]
)
def test_trouble_that_is_no_events_fault_stops_the_runner_and_parks_nothing(
    database_url: str, error: Exception
) -> None:
    trouble = threading.Event()
    trouble.set()
    with running(Runner(failing(error, trouble), database_url, Script(2000))):
        until(lambda: checkpoint(database_url)[1] == "stopped")
        assert checkpoint(database_url)[0] == 0
        assert checkpoint(database_url)[2].startswith(type(error).__name__)
        trouble.clear()
        until(at_the_end(database_url))
        assert checkpoint(database_url)[1:] == ("live", "")
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])
    assert not parked(database_url)


def test_who_takes_over_a_stopped_build_and_finds_it_well_says_so(database_url: str) -> None:
    with connect(database_url) as connection:
        Runner(TRANSCRIPTS, database_url, Script()).apply(connection, 0, LOG)
        connection.execute("update bichat.checkpoints set state = 'stopped', error = 'what was'")
    with running(Runner(TRANSCRIPTS, database_url, Script())):
        until(lambda: checkpoint(database_url)[1:] == ("live", ""))


def test_a_build_that_nobody_is_to_follow_any_more_stays_so(database_url: str) -> None:
    with connect(database_url) as connection:
        connection.execute("update bichat.checkpoints set state = 'building'")
        Runner(TRANSCRIPTS, database_url, Script()).apply(connection, 0, LOG[:9])
        assert checkpoint(database_url)[1] == "building"
    trouble = threading.Event()
    trouble.set()
    with running(Runner(failing(OSError(28, "No room"), trouble), database_url, Script(2000))):
        time.sleep(0.2)
        assert checkpoint(database_url)[1] == "building"


def test_an_event_newer_than_the_code_ends_it(database_url: str) -> None:
    class Newer(Script):
        def next(self, *_: object) -> list[Event]:
            raise EventTooNew(kind="MoonLanded", version=1, position=7)

    with pytest.raises(EventTooNew, match="MoonLanded"):
        Runner(TRANSCRIPTS, database_url, Newer()).run()
    assert checkpoint(database_url)[1] == "stopped"
