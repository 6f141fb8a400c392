"""What a build cannot digest parks its dialogue there, all else goes on, and a retry catches up in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec.structs import replace
from psycopg.errors import DiskFull

from bichat.errors.unusable import EventTooNew
from bichat.events.envelope import Entry, Event, Unreadable
from bichat.projections import parking
from bichat.projections.parking import Retried
from bichat.projections.read_model import Build
from bichat.projections.runner import Runner, connect
from tests.projections.histories import BUILDS
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

BAD = LOG[20]
ITS = [event for event in LOG if event.stream_id == BAD.stream_id]
LATER = [event for event in ITS if event.position > BAD.position]


class Poisoned:
    """A fold that chokes on some events until it is fixed."""

    def __init__(self, build: Build, *bad: Event) -> None:
        self.bad: Collection[int] = {event.position for event in bad}
        self.healthy = build
        self.build = Build(replace(build.model, apply=self._apply), build.number)

    def _apply(self, build: Build, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        self.healthy.model.apply(build, connection, events)  # what it did is taken back
        for event in events:
            if event.position in self.bad:
                raise KeyError("the words of a person")


class Stored(Script):
    """The log as `retry` reads it, in pieces."""

    def __init__(self, piece: int = 2000, *unreadable: Event) -> None:
        super().__init__(2000)
        self.piece, self.unreadable = piece, unreadable

    def stream(
        self, _: psycopg.Connection[Any], stream_id: UUID, first: int, upto: int, /
    ) -> Sequence[Entry]:
        its = [e for e in LOG if e.stream_id == stream_id and e.version >= first and e.position <= upto]
        return [said(e) if e in self.unreadable else e for e in its[: self.piece]]


def said(event: Event) -> Unreadable:
    return Unreadable(
        stream_id=event.stream_id, version=event.version, position=event.position, error="damaged",
        tenant_id=event.tenant_id,
    )  # fmt: skip


def follow(url: str, build: Build, log: Sequence[Entry] = LOG, size: int = 2000) -> list[Event]:
    """All of a log in batches; returns what readers were told."""
    told: list[Event] = []
    with connect(url) as connection:
        for place in range(0, len(log), size):
            runner = Runner(build, url, Script())
            told += runner.apply(connection, checkpoint(url, build)[0], log[place : place + size])
    return told


def retried(url: str, build: Build, log: Stored, dialogue_id: UUID | None = None) -> list[Retried]:
    with connect(url) as connection:
        return list(parking.retry(connection, build, log, dialogue_id))


OF_DIALOGUES = [build for build in BUILDS if build.model.subject == "dialogue"]


@pytest.mark.parametrize("build", OF_DIALOGUES, ids=lambda build: build.model.name)
@pytest.mark.parametrize("size", [2000, 3])
def test_a_dialogue_waits_from_the_culprit_on_and_a_retry_catches_up(
    database_url: str, build: Build, size: int
) -> None:
    poisoned = Poisoned(build, BAD)
    told = follow(database_url, poisoned.build, size=size)
    assert sorted(told, key=lambda event: event.position) == [e for e in LOG if e not in (BAD, *LATER)]
    name, version, error = parked(database_url)[BAD.stream_id]
    assert (name, version) == (build.model.name, BAD.version)
    assert error.startswith("KeyError in test_parking.py, line ")
    before = checkpoint(database_url, build)
    assert before == (LOG[-1].position, "live", "")
    assert retried(database_url, build, Stored(3)) == [Retried(BAD.stream_id, 1 + len(LATER), None)]
    assert checkpoint(database_url, build) == before
    assert not parked(database_url)
    assert contents(database_url) == expected(database_url, [build])


def test_only_the_culprits_are_parked_each_for_itself(database_url: str) -> None:
    others = [next(e for e in reversed(LOG) if e.stream_id == UUID(int=n)) for n in (2, 3)]
    poisoned = Poisoned(TRANSCRIPTS, BAD, *others)
    follow(database_url, poisoned.build)
    assert {i: p[1] for i, p in parked(database_url).items()} == {
        event.stream_id: event.version for event in (BAD, *others)
    }
    assert [one.dialogue_id for one in retried(database_url, TRANSCRIPTS, Stored(), others[0].stream_id)] == [
        others[0].stream_id
    ]
    assert set(parked(database_url)) == {BAD.stream_id, others[1].stream_id}
    retried(database_url, TRANSCRIPTS, Stored())
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


def test_what_cannot_be_read_parks_without_a_second_try(database_url: str) -> None:
    folded: list[int] = []

    def apply(build: Build, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        folded.append(len(events))
        TRANSCRIPTS.model.apply(build, connection, events)

    build = Build(replace(TRANSCRIPTS.model, apply=apply), TRANSCRIPTS.number)
    log: list[Entry] = [said(event) if event == BAD else event for event in LOG]
    follow(database_url, build, log)
    assert folded == [len(LOG) - 1 - len(LATER)]
    assert parked(database_url) == {BAD.stream_id: ("transcripts", BAD.version, "damaged")}
    [still] = retried(database_url, TRANSCRIPTS, Stored(2000, BAD))
    assert (still.events, still.parked and still.parked.error) == (0, "damaged")
    assert retried(database_url, TRANSCRIPTS, Stored())[0].parked is None
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


def test_an_event_that_does_not_fold_before_one_that_cannot_be_read_is_where_it_waits(
    database_url: str,
) -> None:
    log: list[Entry] = [said(event) if event == LATER[-1] else event for event in LOG]
    follow(database_url, Poisoned(TRANSCRIPTS, BAD).build, log)
    assert parked(database_url)[BAD.stream_id][1] == BAD.version


@pytest.mark.parametrize("piece", [2000, 2])
def test_a_retry_keeps_what_it_could_digest_and_says_where_it_waits_now(
    database_url: str, piece: int
) -> None:
    poisoned, worse = Poisoned(TRANSCRIPTS, BAD), LATER[2]
    follow(database_url, poisoned.build)
    poisoned.bad = {worse.position}
    [still] = retried(database_url, poisoned.build, Stored(piece))
    assert still.parked
    assert (still.events, still.parked.position, still.parked.version) == (3, worse.position, worse.version)
    assert parked(database_url)[BAD.stream_id][1] == worse.version
    [still] = retried(database_url, poisoned.build, Stored(piece))
    assert (still.events, still.parked and still.parked.version) == (0, worse.version)
    poisoned.bad = ()
    assert retried(database_url, poisoned.build, Stored(piece))[0].events == len(LATER) - 2
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


def test_a_retry_by_code_that_is_too_old_changes_nothing(database_url: str) -> None:
    class Newer(Stored):
        def stream(self, *_: object) -> Sequence[Entry]:
            raise EventTooNew(kind="MoonLanded", version=1, position=7)

    follow(database_url, Poisoned(TRANSCRIPTS, BAD).build)
    before = parked(database_url), contents(database_url)
    with pytest.raises(EventTooNew):
        retried(database_url, TRANSCRIPTS, Newer())
    assert (parked(database_url), contents(database_url)) == before


def test_a_value_that_the_database_refuses_parks_and_is_not_quoted(database_url: str) -> None:
    def apply(build: Build, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        if BAD in events:
            connection.execute("select 'the words of a person'::uuid")
        TRANSCRIPTS.model.apply(build, connection, events)

    follow(database_url, Build(replace(TRANSCRIPTS.model, apply=apply), 1))
    assert parked(database_url)[BAD.stream_id][2] == "InvalidTextRepresentation (22P02)"
    retried(database_url, TRANSCRIPTS, Stored())
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


@pytest.mark.parametrize("alone", [True, False])
def test_a_database_that_goes_away_in_mid_batch_parks_nothing(database_url: str, alone: bool) -> None:
    """Also while the culprit of another trouble is looked for, dialogue by dialogue."""
    cut = threading.Event()
    poisoned = Poisoned(TRANSCRIPTS, *(() if alone else [BAD]))

    def apply(build: Build, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        if (alone or len(events) == 1) and not cut.is_set():
            cut.set()
            connection.execute("select pg_terminate_backend(pg_backend_pid())")
        poisoned.build.model.apply(build, connection, events)

    build = Build(replace(TRANSCRIPTS.model, apply=apply), 1)
    with running(Runner(build, database_url, Script(2000))):
        until(at_the_end(database_url))
    assert cut.is_set()
    assert set(parked(database_url)) == (set() if alone else {BAD.stream_id})


def test_trouble_while_a_culprit_is_looked_for_parks_nothing(database_url: str) -> None:
    def apply(build: Build, connection: psycopg.Connection[Any], events: Sequence[Event]) -> None:
        raise DiskFull("no room") if len(events) == 1 else KeyError

    build = Build(replace(TRANSCRIPTS.model, apply=apply), 1)
    with connect(database_url) as connection, pytest.raises(DiskFull):
        Runner(build, database_url, Script()).apply(connection, 0, LOG)
    assert not parked(database_url)
    assert checkpoint(database_url)[0] == 0


def test_a_build_that_does_not_serve_wakes_nobody(database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("update bichat.serving set build = 2 where name = 'transcripts'")
    assert follow(database_url, TRANSCRIPTS) == []
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


def test_two_projectors_park_and_apply_everything_once(database_url: str) -> None:
    told: list[Event] = []
    poisoned = Poisoned(TRANSCRIPTS, BAD)
    runners = [Runner(poisoned.build, database_url, Script(), applied=told.extend) for _ in range(2)]
    with running(*runners):
        until(lambda: told)
        runners[0].stop()
        until(at_the_end(database_url))
    assert sorted(told, key=lambda event: event.position) == [e for e in LOG if e not in (BAD, *LATER)]
    retried(database_url, TRANSCRIPTS, Stored())
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])


@pytest.mark.parametrize("piece", [2000, 1])
def test_a_retry_races_with_the_runner_and_nothing_is_lost_doubled_or_out_of_order(
    database_url: str, piece: int
) -> None:
    firsts = [next(e for e in LOG if e.stream_id == UUID(int=n) and e.version == 3) for n in (1, 2, 3, 4)]
    poisoned, retries = Poisoned(TRANSCRIPTS, *firsts), 0
    applied: list[Event] = []

    with running(Runner(poisoned.build, database_url, Script(2), applied=applied.extend)):
        until(lambda: len(parked(database_url)) == 4)
        poisoned.bad = ()
        end = time.monotonic() + 10
        while parked(database_url) or not at_the_end(database_url)():
            assert time.monotonic() < end
            retries += len(retried(database_url, TRANSCRIPTS, Stored(piece)))
        until(at_the_end(database_url))
    assert retries == 4
    assert applied, "the runner had come to the end before"
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])
    assert checkpoint(database_url) == (LOG[-1].position, "live", "")


def test_the_parked_are_read_after_the_wait_for_a_retry(database_url: str) -> None:
    """A runner that waited for the checkpoint must see that the retry has let the dialogue go."""
    half = LOG.index(LATER[1])
    follow(database_url, Poisoned(TRANSCRIPTS, BAD).build, LOG[:half])
    slow = threading.Event()

    class Slow(Stored):
        def stream(self, connection: psycopg.Connection[Any], *place: Any) -> Sequence[Entry]:
            slow.set()  # the checkpoint is locked
            time.sleep(0.3)
            return super().stream(connection, *place)

    thread = threading.Thread(target=retried, args=(database_url, TRANSCRIPTS, Slow()))
    thread.start()
    slow.wait()
    with connect(database_url) as connection:
        Runner(TRANSCRIPTS, database_url, Script()).apply(connection, LOG[half - 1].position, LOG[half:])
    thread.join()
    assert not parked(database_url)
    assert contents(database_url) == expected(database_url, [TRANSCRIPTS])
