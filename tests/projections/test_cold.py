"""Pages of archived dialogues lie in a partition of their own, and nobody who reads can tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec.structs import replace
from psycopg.errors import InsufficientPrivilege

from bichat.events.ledger import Ledger
from bichat.events.transcript import Dialogue
from bichat.projections import transcripts
from bichat.projections.reads import Reads
from bichat.projections.runner import Runner, connect
from bichat.projections.sql import statement
from tests.examples import OTHER_TENANT, TENANT, opened
from tests.projections.histories import BUILDS, history
from tests.projections.logs import write
from tests.projections.test_rebuild import follow, rebuilt, small
from tests.projections.test_runner import Script
from tests.projections.test_verify import of_dialogues, verified

__all__ = ["small"]

ASK, START, ANSWER, ERASE, CHANGE = 0, 3, 6, 18, 14
ARCHIVE, UNARCHIVE = (0, CHANGE, 2), (0, CHANGE, 3)
FIRST = UUID(int=1)
TALK = [(0, w, 0) for _ in range(40) for w in (ASK, START, ANSWER)]
REST = [(0, START, 0), (0, ANSWER, 0)]
TRANSCRIPTS = BUILDS[0]
LOG = history([*TALK, (0, ASK, 0), (0, START, 0), ARCHIVE, (0, ANSWER, 0), (2, ASK, 0), UNARCHIVE])
ARCHIVED = next(n for n, event in enumerate(LOG) if type(event.fact).__name__ == "DialogueArchived")


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


def apply(url: str, first: int, end: int) -> None:
    with connect(url) as connection:
        before = LOG[first - 1].position if first else 0
        Runner(TRANSCRIPTS, url, Script()).apply(connection, before, LOG[first:end])


def pages(url: str, partition: str) -> list[int]:
    """The pages of the first dialogue that lie there."""
    with psycopg.connect(url) as connection:
        table = f"bichat.transcripts_pages_v2_g1_{partition}"
        query = f"select page from {table} where dialogue_id = %s order by 1".encode()
        return [page for (page,) in connection.execute(query, (FIRST,))]


async def shown(reads: Reads) -> list[Dialogue]:
    """All that there is to be read of the first dialogue, but for its state."""
    async with reads.tenant(TENANT) as connection:
        whose = (connection, TENANT, FIRST, "user 0")
        newest = await transcripts.newest(*whose)
        found = [newest, await transcripts.messages(*whose, after_seq=3, limit=100)]
        since = 0
        while changed := await transcripts.changes(*whose, since):
            found.append(changed.dialogue)
            if changed.upto == changed.dialogue.version:
                break
            since = changed.upto
        assert newest
        assert newest.message_count > 80
        answered = next(m.reply_to for m in reversed(newest.messages) if m.reply_to)
        reply = await transcripts.reply(*whose, answered)
        assert reply
        assert reply.answer in newest.messages
    return [replace(one, state="active", version=0, updated_at=one.created_at) for one in found if one]


@pytest.mark.anyio
async def test_pages_move_with_the_dialogue_and_read_the_same(database_url: str, reads: Reads) -> None:
    apply(database_url, 0, ARCHIVED)
    assert (pages(database_url, "hot"), pages(database_url, "cold")) == ([0, 1], [])
    before = await shown(reads)
    apply(database_url, ARCHIVED, ARCHIVED + 1)
    assert (pages(database_url, "hot"), pages(database_url, "cold")) == ([], [0, 1])
    assert await shown(reads) == before
    apply(database_url, ARCHIVED + 1, len(LOG) - 1)  # the answer that was under way
    assert (pages(database_url, "hot"), pages(database_url, "cold")) == ([], [0, 1])
    cold = await shown(reads)
    assert cold != before
    apply(database_url, len(LOG) - 1, len(LOG))
    assert (pages(database_url, "hot"), pages(database_url, "cold")) == ([0, 1], [])
    assert await shown(reads) == cold


@pytest.mark.parametrize("last", [[], [ARCHIVE], [ARCHIVE, UNARCHIVE], [ARCHIVE, (0, ERASE, 0)]])
def test_a_rebuild_puts_pages_where_they_belong_however_late_it_learns_it(
    database_url: str, ledger: Ledger, last: list[tuple[int, int, int]]
) -> None:
    write(ledger, history([*TALK, ARCHIVE, UNARCHIVE, *TALK[:9], *last]))
    follow(database_url)
    assert all(report.valid for report in of_dialogues(verified(database_url)))
    [done] = rebuilt(database_url, "transcripts")
    assert done.report.valid
    with psycopg.connect(database_url) as connection:
        for table in TRANSCRIPTS.tables:
            both = [
                connection.execute(f"select t::text from {name} t order by 1".encode()).fetchall()
                for name in (table, table.replace("_g1", "_g2"))
            ]
            assert both[0] == both[1]
        found = connection.execute("select distinct cold from bichat.transcripts_pages_v2_g2").fetchall()
    assert found == [(bool(last) and last[-1] != UNARCHIVE,)]


def test_a_partition_is_read_through_its_table_and_by_its_tenant_only(database_url: str) -> None:
    apply(database_url, 0, ARCHIVED + 1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set role bichat_reader")
        for tenant, seen in ((TENANT, 2), (OTHER_TENANT, 0)):
            connection.execute(statement("reads", "bind"), (str(tenant),))
            for name in ("transcripts_pages_v2", "transcripts_pages_v2_g1"):
                found = connection.execute(f"select count(*) from bichat.{name}".encode()).fetchone()
                assert found == (seen,)
        for partition in ("hot", "cold"):
            with pytest.raises(InsufficientPrivilege):
                connection.execute(f"select from bichat.transcripts_pages_v2_g1_{partition}".encode())


@pytest.mark.parametrize("block", ["newest", "slice", "changes", "reply"])
@pytest.mark.parametrize(("end", "other"), [(ARCHIVED, "cold"), (ARCHIVED + 1, "hot")])
def test_a_read_touches_one_partition(database_url: str, block: str, end: int, other: str) -> None:
    apply(database_url, 0, end)
    values = {
        "tenant_id": TENANT, "dialogue_id": FIRST, "user_id": "user 0", "limit": 50, "first": 0, "last": 1,
        "since": 3, "pages": 4, "message_id": LOG[0].stream_id,
    }  # fmt: skip
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("set role bichat_reader")
        connection.execute("set plan_cache_mode = force_generic_plan")
        connection.execute(statement("reads", "bind"), (str(TENANT),))
        query = b"explain (analyze, costs off, timing off) " + transcripts.MODEL.sql(block)
        plan = [row[0] for row in connection.execute(query, values)]
    scans = [line for line in plan if f"_g1_{other}" in line and " on " in line]
    assert scans
    assert all("never executed" in line for line in scans)


def test_dropping_a_build_takes_its_partitions(database_url: str, ledger: Ledger) -> None:
    write(ledger, LOG)
    for _ in range(3):  # of which one is kept for a way back
        rebuilt(database_url, "transcripts")
    with psycopg.connect(database_url) as connection:
        query = "select relname from pg_class where relname ~ '^transcripts_pages.*_(hot|cold)$' order by 1"
        left: list[Any] = connection.execute(query).fetchall()
    partitions = [f"transcripts_pages_v2_g{n}_{p}" for n in (3, 4) for p in ("cold", "hot")]
    assert [name for (name,) in left] == partitions
