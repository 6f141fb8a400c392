"""What is loaded from whole dialogues is what the same events leave when they are applied in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from bichat.events.dialogue import TextErased
from bichat.events.envelope import Entry, Event, Unreadable
from bichat.projections import erasures, load
from bichat.projections.copying import copy
from bichat.projections.erasures import Ahead
from bichat.projections.load import Loader, Target, pieces
from bichat.projections.parking import Parked
from bichat.projections.read_model import NEVER, Build, Erasure, Piece, Row
from bichat.projections.runner import connect
from tests.projections.histories import BUILDS, OF_DIALOGUES, histories, history, tables, without_keys

ALL = 10**9


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(module_database_url) as connection:
        yield connection


def by_dialogue(log: Iterable[Entry]) -> list[Entry]:
    return sorted(log, key=lambda entry: (entry.stream_id, entry.version))


def ahead_in(log: Iterable[Entry]) -> Ahead:
    """Looks for erasures in a log that no database has."""
    all_of_them = [e for e in log if isinstance(e, Event) and isinstance(e.fact, TextErased)]

    def ahead(dialogue_id: UUID, since: int, upto: int) -> Erasure:
        found = (e for e in all_of_them if e.stream_id == dialogue_id and e.version >= since)
        there = [Erasure(e.version, e.position) for e in found if e.position <= upto]
        return max(there, default=NEVER)

    return ahead


def applied(
    connection: psycopg.Connection[Any], log: Sequence[Event], passed: Sequence[Entry] = ()
) -> dict[str, Any]:
    """The tables as runners leave them; of what they `passed` by, erasures count."""
    newest = {event.stream_id: event.version for event in log}
    gone = {i: version for i, version in erasures.told(passed).items() if version > newest.get(i, 0)}
    with connection.transaction(force_rollback=True):
        for build in BUILDS:
            if log:
                build.model.apply(build, connection, log)
            erasures.blank(connection, build, gone)
        return tables(connection)


def loaded(
    connection: psycopg.Connection[Any], log: Sequence[Entry], targets: Sequence[Target] = ()
) -> tuple[dict[str, Any], list[tuple[int, Parked]]]:
    """The tables as a rebuild would fill them, and what could not be digested."""
    targets = targets or [Target(build=build, upto=ALL) for build in BUILDS]
    with connection.transaction(force_rollback=True):
        loader = Loader(connection, targets, ahead_in(log))
        loader.load(by_dialogue(log))
        for (t, n), rows in loader.sums().items():
            copy(connection, targets[t].build.tables[n], rows)
        for target in targets:
            if target.build.model.has("merge"):
                connection.execute(target.build.sql("merge"))
        return tables(connection), loader.parked


@given(log=histories, size=st.integers(1, 9))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_whole_dialogues_leave_what_batches_leave_whatever_the_pieces(
    connection: psycopg.Connection[Any], log: list[Event], size: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "PIECE", size)
        found, parked = loaded(connection, log)
    assert found == applied(connection, log)
    assert parked == []
    assert loaded(connection, without_keys(log)) == (found, [])


@pytest.mark.parametrize("erased", [False, True])
@pytest.mark.parametrize("size", [1, 7, 50, 100, 2000])
def test_a_long_dialogue_is_loaded_page_by_page(
    connection: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch, size: int, erased: bool
) -> None:
    monkeypatch.setattr(load, "PIECE", size)
    talk = [(0, what, 0) for _ in range(40) for what in (0, 3, 6)]
    log = history([*talk, *([(0, 18, 0)] if erased else []), *talk])
    found, _ = loaded(connection, log)
    assert len(found["bichat.transcripts_pages_v2_g1"]) > 3
    assert found == applied(connection, log)


@given(log=histories, at=st.integers(0, 40), size=st.integers(1, 9))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_after_a_position_counts(
    connection: psycopg.Connection[Any], log: list[Event], at: int, size: int
) -> None:
    upto = log[at].position if at < len(log) else ALL
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "PIECE", size)
        found, _ = loaded(connection, log, [Target(build=build, upto=upto) for build in BUILDS])
    assert found == applied(connection, [event for event in log if event.position <= upto])


@given(log=histories, at=st.integers(0, 40), size=st.integers(1, 9))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_of_a_parked_dialogue_what_comes_before_counts(
    connection: psycopg.Connection[Any], log: list[Event], at: int, size: int
) -> None:
    parked = {log[at].stream_id: log[at].position} if at < len(log) else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "PIECE", size)
        targets = [Target(build=build, upto=ALL, parked=parked) for build in BUILDS]
        found, _ = loaded(connection, log, targets)
    counted = [event for event in log if event.position < parked.get(event.stream_id, ALL)]
    assert found == applied(connection, counted, log)


def broken(event: Event) -> Entry:
    return Unreadable(
        stream_id=event.stream_id, version=event.version, position=event.position, tenant_id=event.tenant_id,
        error="torn",
    )  # fmt: skip


def gone(event: Event) -> None:
    return None


@pytest.mark.parametrize("what", [broken, gone])
@given(log=histories.filter(bool), which=st.integers(0, 100), size=st.integers(1, 9))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_an_event_that_cannot_be_read_or_is_gone_parks_its_dialogue_alone(
    connection: psycopg.Connection[Any],
    what: Callable[[Event], Entry | None],
    log: list[Event],
    which: int,
    size: int,
) -> None:
    bad = log[which % len(log)]
    torn = [entry for event in log if (entry := what(event) if event is bad else event)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "PIECE", size)
        found, parked = loaded(connection, torn)
    counted = [e for e in log if e.stream_id != bad.stream_id or e.version < bad.version]
    assert found == applied(connection, counted, torn)
    last = what is gone and not any(e.stream_id == bad.stream_id and e.version > bad.version for e in log)
    if last:
        assert parked == []  # what is cut off at the end shows in no fold
    else:
        assert {BUILDS[t].id for t, _ in parked} == {build.id for build in OF_DIALOGUES}
        assert {one.dialogue_id for _, one in parked} == {bad.stream_id}
        assert {one.version for _, one in parked} == {bad.version + (what is gone)}


def poisoned(build: Build, bad: Event) -> Build:
    """A build whose fold chokes on one event."""

    def rows(piece: Piece) -> Iterator[Row]:
        if any(event.position == bad.position for event in piece.events):
            raise KeyError("what somebody wrote")
        yield from build.model.rows(piece)

    return replace(build, model=replace(build.model, rows=rows))


@given(log=histories.filter(bool), which=st.integers(0, 100), size=st.integers(1, 9))
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
def test_what_one_read_model_cannot_digest_is_parked_there_alone(
    connection: psycopg.Connection[Any], log: list[Event], which: int, size: int
) -> None:
    bad = log[which % len(log)]
    builds = [poisoned(BUILDS[0], bad), *BUILDS[1:]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "PIECE", size)
        found, parked = loaded(connection, log, [Target(build=b, upto=ALL) for b in builds])
    whole = applied(connection, log)
    counted = [e for e in log if e.stream_id != bad.stream_id or e.version < bad.version]
    cut = applied(connection, counted, log)
    for build in BUILDS:
        for table in build.tables:
            assert found[table] == (cut if build is BUILDS[0] else whole)[table]
    [(target, one)] = parked
    assert target == 0
    assert (one.dialogue_id, one.position, one.version) == (bad.stream_id, bad.position, bad.version)
    assert one.error.startswith("KeyError in test_load.py")
    assert "somebody" not in one.error


def test_the_events_of_a_long_dialogue_are_not_all_held() -> None:
    log = history([(0, what, 0) for _ in range(40) for what in (0, 3, 6)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "PIECE", 10)
        seen = [piece for piece, _ in pieces(log, lambda i: ahead_in(log)(i, 1, ALL))]
    assert sum(len(piece.events) for piece in seen) == len(log)
    assert all(piece.before is None for piece in seen[:-1])
    assert {piece.dialogue_id for piece in seen} == {UUID(int=1)}
    assert len(seen[-1].dialogue.messages) <= 10 + 50
