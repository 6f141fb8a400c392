"""The read model `prompts` is made of prompts alone: followed, rebuilt, checked and parked like others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec.structs import replace

from bichat.errors import EventUnreadable
from bichat.events.feed import Feed
from bichat.events.ledger import Ledger
from bichat.events.prompt import stream_of
from bichat.projections import parking, prompts, verify
from bichat.projections.processes import Pool
from bichat.projections.read_model import Build
from bichat.projections.reads import Reads
from bichat.projections.runner import Runner, connect
from tests.examples import NOON, OTHER_TENANT, TENANT, opened
from tests.projections.logs import prompts as history
from tests.projections.logs import write
from tests.projections.test_rebuild import LOG, NoSource, follow, place, quiet, rebuilt, rows, small, torn

__all__ = ["small"]

BUILD = Build(prompts.MODEL, 1)
PROMPTS = history(
    [("system", "Be brief."), ("weekly", "{{ week }}"), ("gone", "x"), ("system", "Be kind."), ("gone", None)]
)
SYSTEM = stream_of(TENANT, "system")


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


def texts(url: str, build: Build = BUILD) -> list[Any]:
    found = rows(url, build)["prompts"]
    return sorted((row["name"], row["version"], row["template"]) for (row,) in found)


def parked(url: str) -> list[Any]:
    with psycopg.connect(url) as connection:
        return connection.execute("select name, dialogue_id, version from bichat.parked").fetchall()


ALL = [
    ("gone", 1, "x"), ("gone", 2, None), ("system", 1, "Be brief."), ("system", 2, "Be kind."),
    ("weekly", 1, "{{ week }}"),
]  # fmt: skip


def test_a_rebuild_leaves_what_following_left(database_url: str, ledger: Ledger) -> None:
    write(ledger, [*LOG, *PROMPTS])
    follow(database_url)
    [done] = rebuilt(database_url, "prompts")
    assert texts(database_url) == texts(database_url, done.build) == ALL
    assert rows(database_url, BUILD) == rows(database_url, done.build)
    assert done.report.valid
    assert done.report.tables["prompts"].rows == len(ALL)


def test_all_are_rebuilt_together(database_url: str, ledger: Ledger) -> None:
    write(ledger, [*LOG, *PROMPTS])
    follow(database_url)
    for done in rebuilt(database_url, jobs=2):
        assert rows(database_url, done.build) == rows(database_url, replace(done.build, number=1))


def test_what_cannot_be_read_parks_its_prompt_and_no_dialogue(database_url: str, ledger: Ledger) -> None:
    write(ledger, [*LOG, *PROMPTS])
    [bad] = [event for event in PROMPTS if event.stream_id == SYSTEM and event.version == 2]
    whole = stored(database_url, SYSTEM, 2)
    torn(database_url, bad)
    follow(database_url)
    assert parked(database_url) == [("prompts", SYSTEM, 2)]
    assert ("system", 1, "Be brief.") in texts(database_url)
    with pytest.raises(EventUnreadable):
        ledger.read(SYSTEM)
    pool = Pool(place(database_url), 0)
    [report] = verify.verify(place(database_url), [BUILD], pool, quiet)
    assert report.valid
    mended(database_url, SYSTEM, 2, whole)
    with connect(database_url) as connection:
        [again] = parking.retry(connection, BUILD, Feed(ledger.keys))
    assert again.events == 1
    assert parked(database_url) == []
    assert texts(database_url) == ALL


def stored(url: str, stream_id: UUID, version: int) -> bytes:
    with psycopg.connect(url) as connection:
        row = connection.execute(
            "select state from bichat.stored_events where originator_id = %s and originator_version = %s",
            (stream_id, version),
        ).fetchone()
    assert row
    return bytes(row[0])


def mended(url: str, stream_id: UUID, version: int, state: bytes) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(
            "update bichat.stored_events set state = %s where originator_id = %s and originator_version = %s",
            (state, stream_id, version),
        )


def test_what_the_projector_died_of_is_parked(database_url: str, ledger: Ledger) -> None:
    write(ledger, PROMPTS)
    with connect(database_url) as connection:
        connection.execute(
            "update bichat.checkpoints set runner = 'dead', trying = %s where name = 'prompts'",
            (SYSTEM,),
        )
        source = Once(Feed(ledger.keys))
        source.runner = Runner(BUILD, database_url, source)
        source.runner.run()
    assert parked(database_url) == [("prompts", SYSTEM, 1)]
    assert [row for row in ALL if row[0] != "system"] == texts(database_url)


class Once(NoSource):
    """All there is, and then the end."""

    runner: Runner

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def next(self, connection: Any, after: int, limit: int, timeout: float) -> Sequence[Any]:
        entries = self._feed.read(connection, after, limit)
        if not entries:
            self.runner.stop()
        return entries


@pytest.mark.anyio
async def test_readers_see_their_tenants_prompts(database_url: str, ledger: Ledger, reads: Reads) -> None:
    write(ledger, PROMPTS)
    follow(database_url)
    async with reads.tenant(TENANT) as connection:
        listed = await prompts.page(connection, TENANT, after=None, limit=9)
        assert [(one.name, one.version, one.author) for one in listed] == [
            ("system", 2, "anna"), ("weekly", 1, "anna"),
        ]  # fmt: skip
        assert [one.name for one in await prompts.page(connection, TENANT, after="system", limit=9)] == [
            "weekly"
        ]
        newest, first = await prompts.versions(connection, TENANT, "system")
        assert (newest.version, newest.template, first.template) == (2, "Be kind.", None)
        assert first.changed_at > NOON
        _, first = await prompts.versions(connection, TENANT, "system", 1)
        assert first.template == "Be brief."
        removed, _ = await prompts.versions(connection, TENANT, "gone")
        assert removed.removed
    async with reads.tenant(OTHER_TENANT) as connection:
        assert await prompts.page(connection, TENANT, after=None, limit=9) == [], "row-level security"
