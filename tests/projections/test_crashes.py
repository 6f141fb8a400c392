"""A projector that dies of an event: real processes, until one of them leaves that event aside."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Sequence
from multiprocessing.context import SpawnProcess
from typing import Any
from uuid import UUID

import psycopg
from msgspec.structs import replace

from bichat.events.envelope import Entry, Event
from bichat.projections import parking
from bichat.projections.crashes import SUSPICIOUS, Crashes
from bichat.projections.read_model import Build
from bichat.projections.runner import Runner, connect
from tests.projections.test_parking import BAD, LATER, Stored
from tests.projections.test_runner import (
    LOG,
    TRANSCRIPTS,
    Script,
    at_the_end,
    checkpoint,
    contents,
    expected,
    parked,
    running,
    until,
)

_processes = multiprocessing.get_context("spawn")


def project(url: str, deadly: int | None, upto: int) -> None:
    """What a process does: follow so much of the log, and die of one event."""

    def apply(build: Build, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        TRANSCRIPTS.model.apply(build, connection, events)
        if any(event.position == deadly for event in events):
            os._exit(9)

    Runner(Build(replace(TRANSCRIPTS.model, apply=apply), 1), url, Script(2000, LOG[:upto])).run()


def started(url: str, deadly: int | None = None, upto: int = len(LOG)) -> SpawnProcess:
    process = _processes.Process(target=project, args=(url, deadly, upto), daemon=True)
    process.start()
    return process


def signed(url: str) -> int:
    """The process that took over last."""
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select runner from bichat.checkpoints where name = 'transcripts'"
        ).fetchone()
    return int(row[0].partition(":")[2] or 0) if row else 0


def counts(url: str) -> tuple[int, UUID | None]:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select takeovers, trying from bichat.checkpoints where name = 'transcripts'"
        ).fetchone()
    assert row
    return row


def test_the_event_that_kills_its_projector_is_found_and_parked(database_url: str) -> None:
    for deaths in range(1, SUSPICIOUS):
        process = started(database_url, BAD.position)
        process.join(20)
        assert process.exitcode == 9
        assert checkpoint(database_url)[0] == 0
        assert counts(database_url) == (deaths, None)
    process = started(database_url, BAD.position)  # it goes carefully
    process.join(20)
    assert process.exitcode == 9
    assert checkpoint(database_url)[0] == LOG[LOG.index(BAD) - 1].position
    assert counts(database_url) == (0, BAD.stream_id)
    process = started(database_url, BAD.position)
    until(at_the_end(database_url))
    assert process.exitcode is None
    process.kill()
    process.join()
    assert parked(database_url) == {
        BAD.stream_id: ("transcripts", BAD.version, "the projector died while applying it")
    }
    assert counts(database_url) == (0, None)
    with connect(database_url) as connection:
        [done] = parking.retry(connection, TRANSCRIPTS, Stored())
    assert done.events == 1 + len(LATER)
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


def test_who_is_killed_while_nothing_happens_is_not_suspicious(database_url: str) -> None:
    for _ in range(SUSPICIOUS):
        process = started(database_url, upto=0)
        until(lambda process=process: signed(database_url) == process.pid and counts(database_url)[0] == 0)  # type: ignore[misc]
        process.kill()
        process.join()
    sizes: list[int] = []

    def apply(build: Build, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        sizes.append(len(events))
        TRANSCRIPTS.model.apply(build, connection, events)

    with running(Runner(Build(replace(TRANSCRIPTS.model, apply=apply), 1), database_url, Script(2000))):
        until(at_the_end(database_url))
    assert sizes == [len(LOG)]


def test_to_lose_the_connection_while_alone_with_an_event_is_no_death(database_url: str) -> None:
    cut = threading.Event()

    def apply(build: Build, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        assert len(events) == 1
        if BAD in events and not cut.is_set():
            cut.set()
            connection.execute("select pg_terminate_backend(pg_backend_pid())")
        TRANSCRIPTS.model.apply(build, connection, events)

    with psycopg.connect(database_url) as connection:
        connection.execute("update bichat.checkpoints set takeovers = 5")
    with running(Runner(Build(replace(TRANSCRIPTS.model, apply=apply), 1), database_url, Script(2000))):
        until(at_the_end(database_url))
    assert cut.is_set()
    assert not parked(database_url)
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


def test_to_go_on_is_no_takeover(database_url: str) -> None:
    with connect(database_url) as connection:
        mine, others = Crashes(TRANSCRIPTS), Crashes(TRANSCRIPTS)
        for _ in range(3):
            assert mine.take_over(connection) == 0
            assert counts(database_url) == (1, None)
        others.take_over(connection)
        assert counts(database_url) == (2, None)


def test_a_suspicion_that_the_next_event_does_not_bear_out_is_dropped(database_url: str) -> None:
    with connect(database_url) as connection:
        connection.execute("update bichat.checkpoints set trying = %s", (UUID(int=99),))
        mine = Crashes(TRANSCRIPTS)
        mine.take_over(connection)
        entries: list[Entry] = [*LOG]
        assert [piece[0] for piece in mine.pieces(entries)] == entries


def test_a_build_that_is_gone_ends_its_runner(database_url: str) -> None:
    runner = Runner(TRANSCRIPTS, database_url, Script())
    thread = threading.Thread(target=runner.run, daemon=True)
    thread.start()
    until(lambda: checkpoint(database_url)[0] > 0)
    with psycopg.connect(database_url) as connection:
        connection.execute("delete from bichat.checkpoints where name = 'transcripts'")
    thread.join(5)
    assert not thread.is_alive()
