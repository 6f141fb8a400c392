"""Erased text is gone from every table, also where the fold has not come so far, and nobody is alarmed."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bichat.events.envelope import Event
from bichat.events.feed import Feed
from bichat.events.ledger import Ledger
from bichat.projections import dialogues, parking, transcripts, versions
from bichat.projections.load import Target
from bichat.projections.reads import Reads
from bichat.projections.runner import Runner, connect
from tests.examples import TENANT, opened
from tests.poison import damaged
from tests.projections.histories import BUILDS, OF_DIALOGUES, histories, history, tables
from tests.projections.logs import write
from tests.projections.test_load import ALL, loaded
from tests.projections.test_parking import Poisoned
from tests.projections.test_rebuild import Stop, follow, interrupting, rebuilt, small
from tests.projections.test_runner import Script
from tests.projections.test_verify import changed, verified

__all__ = ["small"]

ASK, NOTE, START, ANSWER, FAIL, ERASE = 0, 2, 3, 6, 9, 18
FIRST = UUID(int=1)
TALK = [(d, w, 1) for d in (0, 2) for w in (ASK, START, FAIL, START, ANSWER, NOTE, START, ANSWER, 13)]
ERASED = history([*TALK * 12, (0, ERASE, 0), (2, ASK, 0)])
BEFORE = [event for event in ERASED if event.version < 60]
"""Of both dialogues only something."""
TEXT = ("Question", "First?", "Note ", "Yes.", "Label", "…")
"""What is said in such a history."""


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


def without_key(url: str, user: str = "user 0") -> None:
    with psycopg.connect(url) as connection:
        query = "update bichat_keys.data_keys set wrapped = null where user_id = %s"
        assert connection.execute(query, (user,)).rowcount == 1


def text_of(url: str, dialogue_id: UUID) -> list[str]:
    """The words of a dialogue that are in any table."""
    with connect(url) as connection:
        rows = [str(row) for found in tables(connection).values() for row in found]
    return [word for word in TEXT for row in rows if str(dialogue_id) in row and word in row]


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(module_database_url) as connection:
        yield connection


@given(log=histories.filter(bool), which=st.integers(0, 100), size=st.integers(1, 60))
@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_parked_dialogue_is_blanked_by_its_follower_as_by_a_rebuild(
    connection: psycopg.Connection[Any], module_database_url: str, log: list[Event], which: int, size: int
) -> None:
    bad = log[which % len(log)]
    runners = [
        Runner(Poisoned(build, bad).build, module_database_url, Script())
        for build in BUILDS
    ]  # fmt: skip
    with connection.transaction(force_rollback=True):
        for runner in runners:
            position = 0
            for place in range(0, len(log), size):
                batch = log[place : place + size]
                runner.apply(connection, position, batch)
                position = batch[-1].position
        found = tables(connection)
    targets = [Target(build=b, upto=ALL, parked={bad.stream_id: bad.position}) for b in BUILDS]
    assert (found, []) == loaded(connection, log, targets)


def test_what_was_said_after_an_erasure_stays_when_the_dialogue_is_parked_later(
    connection: psycopg.Connection[Any], module_database_url: str
) -> None:
    log = history([(0, ASK, 0), (0, ERASE, 0), (0, ASK, 0), (0, 13, 0)])
    with connection.transaction(force_rollback=True):
        for build in BUILDS:
            Runner(Poisoned(build, log[-1]).build, module_database_url, Script()).apply(connection, 0, log)
        found = tables(connection)
    [page] = [row for row in found["bichat.transcripts_pages_v2_g1"] if row["page"] == 0]
    assert [m["content"] is None for m in page["messages"]] == [True, False]


def test_nothing_is_left_of_a_dialogue_that_is_parked_when_it_is_erased(
    database_url: str, ledger: Ledger
) -> None:
    write(ledger, BEFORE)
    follow(database_url)
    assert set(text_of(database_url, FIRST)) == set(TEXT)
    write(ledger, [event for event in ERASED if event.version >= 60])
    with damaged(database_url, (FIRST, 61)) as repair:
        follow(database_url)
        assert text_of(database_url, FIRST) == []
        assert text_of(database_url, UUID(int=3)) != []
        assert all(report.valid and not report.unsettled for report in verified(database_url))
        repair()
    with damaged(database_url, (FIRST, 90)) as repair, connect(database_url) as connection:
        feed = Feed(ledger.keys)  # its keys are there: what is replayed could be read
        assert all(next(iter(parking.retry(connection, build, feed, FIRST))).parked for build in OF_DIALOGUES)
        assert text_of(database_url, FIRST) == []
        assert all(report.valid for report in verified(database_url))
        repair()
        assert not any(
            next(iter(parking.retry(connection, build, feed, FIRST))).parked for build in OF_DIALOGUES
        )
    assert text_of(database_url, FIRST) == []
    assert all(report.valid for report in verified(database_url))
    live = contents(database_url)
    without_key(database_url)
    rebuilt(database_url)
    assert contents(database_url) == live


def contents(url: str) -> list[list[Any]]:
    """What the views show."""
    with psycopg.connect(url) as connection:
        return [
            connection.execute(f"select t::text from {view} t order by 1".encode()).fetchall()
            for build in BUILDS
            for view in build.model.views
        ]


def test_a_rebuild_after_an_erasure_is_blank_while_there_are_still_keys(
    database_url: str, ledger: Ledger
) -> None:
    write(ledger, ERASED)
    follow(database_url)
    live = contents(database_url)
    rebuilt(database_url)
    assert contents(database_url) == live
    assert text_of(database_url, FIRST) == []


def test_a_build_that_is_kept_is_blanked_too(database_url: str, ledger: Ledger) -> None:
    write(ledger, BEFORE)
    follow(database_url)
    rebuilt(database_url)
    assert text_of(database_url, FIRST) != [], "of the first builds, which are kept"
    write(ledger, [event for event in ERASED if event.version >= 60])
    follow(database_url)
    assert text_of(database_url, FIRST) == []


def test_a_check_during_an_erasure_raises_no_alarm_and_says_what_it_left_out(
    database_url: str, ledger: Ledger
) -> None:
    write(ledger, BEFORE)
    follow(database_url)
    without_key(database_url)  # as a check sees it whose snapshot is from before the erasure
    for build, report in zip(BUILDS, verified(database_url), strict=True):
        assert (report.valid, report.unsettled) == (True, build in OF_DIALOGUES)
    changed(database_url, f"update bichat.transcripts_v2_g1 set label = 'Not so' where id <> '{FIRST}'")
    assert [report.valid for report in verified(database_url)] == [build is not BUILDS[0] for build in BUILDS]


def test_a_check_of_builds_on_both_sides_of_an_erasure(database_url: str, ledger: Ledger) -> None:
    write(ledger, BEFORE)
    follow(database_url)
    write(ledger, [event for event in ERASED if event.version >= 60])
    follow(database_url, BUILDS[:2])  # the others have not come to it
    found = verified(database_url)
    assert all(report.valid for report in found)
    behind = [build for build, report in zip(BUILDS, found, strict=True) if report.unsettled]
    assert behind == [build for build in OF_DIALOGUES if build not in BUILDS[:2]]
    follow(database_url, BUILDS[2:])
    assert all(report.valid and not report.unsettled for report in verified(database_url))


def test_builds_that_nobody_follows_go_with_the_text_in_them(database_url: str, ledger: Ledger) -> None:
    write(ledger, BEFORE)
    follow(database_url)
    with pytest.raises(Stop):
        rebuilt(database_url, "transcripts", progress=interrupting("loading", 1))
    with pytest.raises(Stop):
        rebuilt(database_url, "dialogues", progress=interrupting("following", 0))
    with connect(database_url) as connection:
        now = datetime.now(UTC) + timedelta(hours=1)
        assert versions.drop_abandoned(connection, now - timedelta(hours=2)) == [], "begun after the erasure"
        with psycopg.connect(database_url) as builder:
            builder.execute("select pg_advisory_lock(hashtextextended('bichat.rebuild.transcripts', 0))")
            assert versions.drop_abandoned(connection, now) == [], "somebody is at it"
            builder.execute("select pg_advisory_unlock_all()")  # a session ends after its client
        assert versions.drop_abandoned(connection, now) == ["transcripts_v2_g2"]
        there = "select to_regclass('bichat.transcripts_v2_g2'), to_regclass('bichat.dialogues_v1_g2')::text"
        assert connection.execute(there).fetchone() == (None, "bichat.dialogues_v1_g2")
    rebuilt(database_url, "transcripts")


@pytest.mark.anyio
async def test_what_was_erased_is_not_found_by_words(database_url: str, ledger: Ledger, reads: Reads) -> None:
    write(ledger, BEFORE)
    follow(database_url)

    async def found(*words: str) -> list[set[UUID]]:
        async with reads.tenant(TENANT) as connection:
            pages = [await dialogues.page(connection, TENANT, "user 0", q=word) for word in words]
        return [{listed.id for listed in page.data} for page in pages]

    assert FIRST in set().union(*await found("Yes.", "Question", "So?"))
    assert FIRST in (await found("Label"))[0]
    write(ledger, [event for event in ERASED if event.version >= 60])
    follow(database_url)
    assert FIRST not in set().union(*await found("Yes.", "Question", "So?", "Label", "null", "_"))
    async with reads.tenant(TENANT) as connection:
        whole = await transcripts.newest(connection, TENANT, FIRST, "user 0")
    assert whole
    assert whole.erased
    assert {m.content for m in whole.messages} == {None}
