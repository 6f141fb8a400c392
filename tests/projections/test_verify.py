"""Whoever changes a row of a read model by hand is found out, and nobody is stopped meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from bichat.events.envelope import Event
from bichat.events.feed import Feed
from bichat.events.ledger import Ledger
from bichat.projections import reports, verify
from bichat.projections.processes import Pool
from bichat.projections.reports import Report
from bichat.projections.runner import Runner
from bichat.projections.tail import Tail
from tests.examples import opened
from tests.projections.histories import BUILDS
from tests.projections.logs import prompts, write
from tests.projections.test_rebuild import LOG, REST, SOME, follow, place, quiet, small, torn

__all__ = ["small"]

PROMPTS = prompts([("system", "Be brief."), ("weekly", "{{ week }}"), ("system", None)])


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


def verified(url: str, *, sample: int | None = None, jobs: int = 0) -> list[Report]:
    pool = Pool(place(url), jobs)
    try:
        return verify.verify(place(url), BUILDS, pool, quiet, sample)
    finally:
        pool.close()


def of_dialogues(reports: list[Report]) -> list[Report]:
    return [one for build, one in zip(BUILDS, reports, strict=True) if build.model.subject == "dialogue"]


def changed(url: str, statement: str) -> None:
    with psycopg.connect(url) as connection:
        assert connection.execute(statement.encode()).rowcount == 1


@pytest.mark.parametrize("jobs", [0, 2])
def test_what_follows_the_log_is_right(database_url: str, ledger: Ledger, jobs: int) -> None:
    write(ledger, [*LOG, *PROMPTS])
    follow(database_url)
    for build, report in zip(BUILDS, verified(database_url, jobs=jobs), strict=True):
        assert report.valid
        assert report.events == len(LOG) + len(PROMPTS)
        assert report.tables.keys() == {table.name for table in build.model.tables}
        for table in build.model.tables:
            compared = report.tables[table.name]
            assert compared.rows == compared.expected_rows > 0
            assert compared.digest == compared.expected_digest
            assert len(report.slices[table.name]) == (4 if table.stream else 1)


TABLES = [(build, n) for build in BUILDS for n, _ in enumerate(build.model.tables)]
OTHER = {
    "transcripts": "user_id = 'eve'",
    "transcripts_pages": "messages = jsonb_set(messages, '{0,content}', '\"never said\"')",
    "transcripts_turns": "partial = 'never said'",
    "replies": "attempt = attempt + 1",
    "replies_owners": "user_id = 'eve'",
    "dialogues": "label = 'never said'",
    "dialogues_counts": "dialogues = dialogues + 1",
    "usage": "total_tokens = total_tokens + 1",
    "usage_dialogues": "model = 'never called'",
    "prompts": "author = 'eve'",
    "search": "words = 'never'",
    "search_dialogues": "user_id = 'eve'",
}


@pytest.mark.parametrize(("build", "number"), TABLES, ids=[b.model.tables[n].name for b, n in TABLES])
@pytest.mark.parametrize("what", ["changed", "removed", "added"])
def test_a_row_that_is_not_the_logs_is_shown_on_both_sides(
    database_url: str, ledger: Ledger, build: Any, number: int, what: str
) -> None:
    write(ledger, [*LOG, *PROMPTS])
    follow(database_url)
    name, table = build.model.tables[number].name, build.tables[number]
    # A table may have partitions, and then a row its place in one of them.
    one = f"(tableoid, ctid) = (select tableoid, ctid from {table} order by tableoid, ctid limit 1)"
    column = OTHER[name].partition(" ")[0]
    if what == "changed":
        changed(database_url, f"update {table} set {OTHER[name]} where {one}")
    elif what == "removed":
        changed(database_url, f"delete from {table} where {one}")
    else:
        key = build.model.tables[number].key[-1]
        new = {"page": 77, "version": 77, "state": "'gone'", "model": "'other'"}.get(key, "gen_random_uuid()")
        changed(
            database_url,
            f"insert into {table} select (jsonb_populate_record(t, jsonb_build_object('{key}', {new}))).*"
            f" from {table} t where {one}",
        )
    for other, report in zip(BUILDS, verified(database_url), strict=True):
        assert report.valid == (other is not build)
        if report.valid:
            continue
        assert {n for n, compared in report.tables.items() if compared.different} == {name}
        [difference] = report.differences
        assert difference.table == name
        assert (difference.expected is None) == (what == "added")
        assert (difference.found is None) == (what == "removed")
        if what == "changed":
            assert difference.columns == [column]
        assert "never said" not in str(report.kept())
        assert report.finding.startswith(f"{name} {difference.key}: ")


def test_a_missing_event_and_a_torn_one_are_found(database_url: str, ledger: Ledger) -> None:
    write(ledger, SOME)
    follow(database_url)
    torn(database_url, SOME[60])
    gap = next(e for e in SOME if e.stream_id != SOME[60].stream_id and e.version == 2)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "delete from bichat.stored_events where originator_id = %s and originator_version = 2",
            (gap.stream_id,),
        )
    for report in of_dialogues(verified(database_url)):
        assert not report.valid
        found = {(one.dialogue_id, one.version) for one in report.undigestible}
        assert found == {(SOME[60].stream_id, SOME[60].version), (gap.stream_id, 3)}


def test_a_parked_dialogue_is_right_as_far_as_it_goes(database_url: str, ledger: Ledger) -> None:
    write(ledger, SOME)
    torn(database_url, SOME[40])
    follow(database_url)
    for report in of_dialogues(verified(database_url)):
        assert report.valid
        assert report.parked == 1


def test_it_is_one_moment_while_everything_goes_on(database_url: str, ledger: Ledger) -> None:
    write(ledger, SOME)
    follow(database_url)

    class Bell:
        def wait(self, timeout: float) -> bool:
            return False

    with opened(database_url) as mine:
        tail = Tail(Feed(mine.keys), Bell())
        runners = [Runner(build, database_url, tail) for build in BUILDS]
        threads = [threading.Thread(target=runner.run) for runner in runners]
        writer = threading.Thread(target=slowly, args=(ledger, REST))
        for thread in (*threads, writer):
            thread.start()
        positions = set()
        while writer.is_alive():
            found = verified(database_url)
            assert all(report.valid for report in found)
            positions |= {report.position for report in found}
        for runner in runners:
            runner.stop()
        for thread in threads:
            thread.join()
    assert len(positions) > 1


def slowly(ledger: Ledger, log: list[Event]) -> None:
    for event in log:
        write(ledger, [event])
        time.sleep(0.01)


def test_a_sample_is_some_dialogues_and_no_sums(database_url: str, ledger: Ledger) -> None:
    write(ledger, LOG)
    follow(database_url)
    dialogues = len({event.stream_id for event in LOG})
    named = {report.build.partition("_v")[0]: report for report in verified(database_url, sample=3)}
    transcripts, usage = named["transcripts"], named["usage"]
    assert transcripts.valid
    assert transcripts.tables["transcripts"].rows == 3 < dialogues
    assert 0 < transcripts.events < len(LOG)
    assert usage.tables.keys() == {"usage_dialogues"}
    with psycopg.connect(database_url) as connection:
        connection.execute("update bichat.transcripts_v2_g1 set label = 'never said'")
    [transcripts, *_] = verified(database_url, sample=3)
    assert transcripts.tables["transcripts"].different == 3


def test_reports_are_kept_without_what_people_wrote(database_url: str, ledger: Ledger) -> None:
    write(ledger, SOME)
    follow(database_url)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("update bichat.transcripts_v2_g1 set label = 'never said'")
        for build, report in zip(BUILDS, verified(database_url), strict=True):
            reports.keep(connection, build, report)
        kept = reports.newest(connection, ["transcripts", "usage"], 10)
        assert [one.valid for one in kept] == [True, False]
        assert kept[1].line()["verdict"] == "DIFFERS"
        assert kept[1].whole()["differences"][0]["found"] == {"label": None}
        assert "never said" not in str(connection.execute("select * from bichat.reports").fetchall())
