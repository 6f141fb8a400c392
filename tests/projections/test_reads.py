"""Reading for who asks: nothing of others, whole pages, no row twice, and waiting for the log."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator, Sequence
from datetime import date
from typing import Any
from uuid import UUID

import psycopg
import pytest
from msgspec.structs import replace

from bichat.errors import Invalid, ReadModelBehind, ReadsUnavailable, Stopping
from bichat.events.envelope import Event
from bichat.events.transcript import Dialogue, Message, Turn
from bichat.projections import cursor, dialogues, transcripts, usage
from bichat.projections.reads import Reads
from bichat.projections.runner import Runner, connect
from tests.examples import NOON, OTHER_TENANT, TENANT
from tests.projections.histories import BUILDS, history, transcribed
from tests.projections.test_runner import Script

pytestmark = pytest.mark.anyio
ASK, NOTE, START, ANSWER, FAIL, RENAME, DELETE = 0, 2, 3, 6, 9, 13, 14
FIRST = UUID(int=1)


def apply(
    url: str, log: Sequence[Event], names: Sequence[str] = ("transcripts", "dialogues", "usage")
) -> None:
    with connect(url) as connection:
        for build in BUILDS:
            if build.model.name in names:
                Runner(build, url, Script()).apply(connection, 0, log)


@pytest.fixture
async def reads(database_url: str) -> AsyncIterator[Reads]:
    reads = Reads(database_url, size=2)
    await reads.open()
    yield reads
    await reads.close()


def whole(log: Sequence[Event]) -> Dialogue:
    found = transcribed(log)[FIRST]
    messages = (
        replace(m, content=m.content.replace("\x00", "\ufffd") if m.content else m.content)
        for m in found.messages
    )
    return replace(found, messages=tuple(messages))


LONG = [(0, w, 0) for _ in range(45) for w in (ASK, START, ANSWER, NOTE, START, ANSWER)]


async def test_newest_is_the_last_fifty_with_their_turns(database_url: str, reads: Reads) -> None:
    log = history(LONG)
    apply(database_url, log)
    expected = whole(log)
    assert expected.message_count > 200
    async with reads.tenant(TENANT) as connection:
        found = await transcripts.newest(connection, TENANT, FIRST, "user 0")
    assert found
    assert found.messages == expected.messages[-50:]
    for message in found.messages:
        if message.asks:
            assert found.turns[message.id] == expected.turns[message.id]
    assert replace(found, messages=(), turns=None) == replace(expected, messages=(), turns=None)


@pytest.mark.parametrize("limit", [1, 7, 50, 100])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_of_messages_neither_skip_nor_repeat(
    database_url: str, reads: Reads, limit: int, order: Any
) -> None:
    log = history(LONG[:120] if limit > 1 else LONG[:30])
    apply(database_url, log)
    expected = whole(log)
    told: list[Message] = []
    after = None
    async with reads.tenant(TENANT) as connection:
        while True:
            found = await transcripts.messages(
                connection, TENANT, FIRST, "user 0", after_seq=after, order=order, limit=limit
            )
            assert found
            if not found.messages:
                break
            assert len(found.messages) <= limit
            assert all(m.id in found.turns for m in found.messages if m.asks)
            told += found.messages
            after = told[-1].seq
    assert told == list(expected.messages if order == "asc" else expected.messages[::-1])


async def test_changes_since_any_version_make_the_whole_again(database_url: str, reads: Reads) -> None:
    picks = LONG[:120]
    log = history([*picks, (0, ASK, 0), (0, START, 0), (0, FAIL, 0), *picks, (0, 12, 0), (0, START, 0)])
    apply(database_url, log)
    expected = whole(log)
    async with reads.tenant(TENANT) as connection:
        for since in (0, 1, 2, 49, 50, 51, 52, 99, 101, expected.version - 1, expected.version):
            upto, messages, turns, pieces = since, list[Message](), dict[UUID, Turn](), 0
            while pieces == 0 or upto < expected.version:
                found = await transcripts.changes(connection, TENANT, FIRST, "user 0", upto)
                assert found
                assert found.dialogue.version == expected.version
                assert all(upto < m.version <= found.upto for m in found.dialogue.messages)
                assert all(upto < t.version <= found.upto for t in found.dialogue.turns.values())
                upto, pieces = found.upto, pieces + 1
                messages += found.dialogue.messages
                turns |= found.dialogue.turns
            assert messages == [m for m in expected.messages if m.version > since]
            assert turns == {i: t for i, t in expected.turns.items() if t.version > since}
            assert pieces <= 2 + len(messages) // 200


async def test_a_reply_is_found_with_its_answer_at_any_distance(database_url: str, reads: Reads) -> None:
    log = history([(0, ASK, 0), *[(0, ASK, 0)] * 120, (0, START, 0), (0, ANSWER, 0)])
    apply(database_url, log)
    expected = whole(log)
    answer = expected.messages[-1]
    assert answer.reply_to == expected.messages[0].id
    async with reads.tenant(TENANT) as connection:
        found = await transcripts.reply(connection, TENANT, FIRST, "user 0", expected.messages[0].id)
        assert found == (expected.turns[expected.messages[0].id], answer)
        waits = await transcripts.reply(connection, TENANT, FIRST, "user 0", expected.messages[1].id)
        assert waits == (expected.turns[expected.messages[1].id], None)
        turn = await transcripts.turn(connection, TENANT, FIRST, "user 0", expected.messages[1].id)
        assert turn == expected.turns[expected.messages[1].id]
        assert await transcripts.reply(connection, TENANT, FIRST, "user 0", answer.id) is None


async def test_nobody_reaches_what_is_not_theirs(database_url: str, reads: Reads) -> None:
    log = history([(0, ASK, 0), (1, ASK, 0), (2, ASK, 0)])
    apply(database_url, log)
    question = whole(log).messages[0].id
    for bound, tenant, user in (
        (TENANT, TENANT, "user 1"),
        (TENANT, OTHER_TENANT, "user 0"),
        (OTHER_TENANT, OTHER_TENANT, "user 0"),
        (OTHER_TENANT, TENANT, "user 0"),  # what a slip in a query would be
    ):
        async with reads.tenant(bound) as connection:
            who = (connection, tenant, FIRST, user)
            assert await transcripts.newest(*who) is None
            assert await transcripts.messages(*who) is None
            assert await transcripts.changes(*who, 0) is None
            assert await transcripts.reply(*who, question) is None
            page = await dialogues.page(connection, tenant, user)
            assert FIRST not in {listed.id for listed in page.data}
            if bound != tenant:
                assert (page.data, page.total) == ((), 0)


MANY = [(2 * n, ASK, 0) for n in range(25)] + [(2 * n, RENAME, n) for n in (3, 9, 4)]


def of_one_user(log: Sequence[Event]) -> list[Event]:
    return [
        replace(e, fact=replace(e.fact, user_id="anna")) if hasattr(e.fact, "user_id") else e for e in log
    ]


@pytest.mark.parametrize("limit", [1, 4, 25, 30])
async def test_the_list_neither_skips_nor_repeats(database_url: str, reads: Reads, limit: int) -> None:
    # All at one moment: the id decides, and the cursor must know.
    log = [replace(e, at=NOON) if e.position % 2 else e for e in of_one_user(history(MANY))]
    apply(database_url, log)
    expected = sorted(transcribed(log).values(), key=lambda d: (d.updated_at, d.id), reverse=True)
    told: list[dialogues.Listed] = []
    after = None
    async with reads.tenant(TENANT) as connection:
        while True:
            page = await dialogues.page(connection, TENANT, "anna", limit=limit, after=after)
            assert page.total == 25
            told += page.data
            after = page.next
            if after is None:
                break
        assert [d.id for d in told] == [d.id for d in expected]
        again = await dialogues.page(connection, TENANT, "anna", limit=5, offset=7)
        assert list(again.data) == told[7:12]


async def test_the_list_knows_states_totals_and_the_newest_question(database_url: str, reads: Reads) -> None:
    log = of_one_user(history([*MANY, (2, START, 0), (2, ANSWER, 0), (4, DELETE, 0), (6, DELETE, 2)]))
    apply(database_url, log)
    async with reads.tenant(TENANT) as connection:
        pages = {
            state: await dialogues.page(connection, TENANT, "anna", state=state)
            for state in ("active", "archived", "deleted")
        }
        assert {state: page.total for state, page in pages.items()} == {
            "active": 23, "archived": 1, "deleted": 1,
        }  # fmt: skip
        assert pages["archived"].data[0].id == UUID(int=7)
        answered = pages["active"].data[0]
        assert (answered.id, answered.status, answered.message_count) == (UUID(int=3), "answered", 2)
        assert answered.last_message
        assert answered.last_message.content == "Yes."
        assert (await dialogues.page(connection, TENANT, "nobody")).total == 0


@pytest.mark.parametrize(
    ("q", "found"),
    [("label 3", {7}), ("LABEL", {7, 9, 19}), ("First", set(range(1, 50, 2))), ("%", set()), ("_", set()),
     ("\\", set()), ("\x00", set(range(1, 50, 2)))],
)  # fmt: skip
async def test_a_search_looks_in_labels_and_last_messages(
    database_url: str, reads: Reads, q: str, found: set[int]
) -> None:
    log = of_one_user(history(MANY))
    apply(database_url, log)
    async with reads.tenant(TENANT) as connection:
        page = await dialogues.page(connection, TENANT, "anna", q=q, limit=100)
    assert {listed.id.int for listed in page.data} == found
    assert page.total is None


@pytest.mark.parametrize(
    "after",
    ["x", "!", "ü", "a" * 500, base64.urlsafe_b64encode(b"\x93").decode(), cursor.write((1, 2)), "AAAA="],
)
async def test_a_word_that_is_no_cursor_is_refused_by_name(reads: Reads, after: str) -> None:
    async with reads.tenant(TENANT) as connection:
        with pytest.raises(Invalid, match=r"^after: "):
            await dialogues.page(connection, TENANT, "anna", after=after)


async def test_usage_is_split_as_asked(database_url: str, reads: Reads) -> None:
    turns = [(START, 0), (ANSWER, 0), (ASK, 0), (START, 0), (FAIL, 0)]
    log = history([(d, w, n) for d in (0, 1, 2) for w, n in [(ASK, 0), *turns]])
    apply(database_url, log)
    async with reads.tenant(TENANT) as connection:

        async def used(user: str | None, *by: Any, since: date = date.min) -> list[Any]:
            found = await usage.usage(connection, TENANT, user, since=since, until=date.max, by=by)
            return [(u.day, u.model, u.user_id, u.calls, u.total_tokens) for u in found]

        assert await used("user 0") == [(None, None, None, 2, 34)]
        assert await used(None) == [(None, None, None, 4, 68)]
        assert await used(None, "user") == [
            (None, None, "user 0", 2, 34), (None, None, "user 1", 2, 34),
        ]  # fmt: skip
        assert await used("user 0", "model") == [
            (None, "m-2026", None, 1, 17), (None, "small", None, 1, 17),
        ]  # fmt: skip
        assert await used("user 0", "day", "model", since=date(2030, 1, 1)) == []


async def test_who_waits_is_told_as_soon_as_the_read_model_is_there(database_url: str, reads: Reads) -> None:
    log = history(LONG[:9])
    end = log[-1].position
    waiting = [asyncio.create_task(reads.caught_up("transcripts", p)) for p in (log[0].position, end, end)]
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in waiting)
    apply(database_url, log, ["transcripts"])
    began = time.monotonic()
    await asyncio.gather(*waiting)
    assert time.monotonic() - began < 1
    await reads.caught_up("transcripts", end)
    with pytest.raises(ReadModelBehind):
        await reads.caught_up("transcripts", end + 1, timeout=0.1)
    with pytest.raises(ReadModelBehind):
        await reads.caught_up("dialogues", end, timeout=0.1)
    assert (await reads.positions())["transcripts"] == end
    assert await reads.head() == 0


async def test_cut_connections_are_noticed_before_they_are_used(database_url: str, reads: Reads) -> None:
    async def read() -> None:
        async with reads.tenant(TENANT) as connection:
            assert await transcripts.newest(connection, TENANT, FIRST, "user 0") is None

    await asyncio.gather(*(read() for _ in range(8)))
    with psycopg.connect(database_url, autocommit=True) as killer:
        killer.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and application_name = 'bichat-reads'"
        )
    await asyncio.sleep(0.1)
    await asyncio.gather(*(read() for _ in range(8)))


async def test_a_dead_database_is_unavailable_and_a_closed_pool_is_stopping(reads: Reads) -> None:
    dead = Reads("postgresql://postgres@127.0.0.1:9/none", size=1, patience=0.2)
    await dead.open()
    with pytest.raises(ReadsUnavailable):
        async with dead.tenant(TENANT):
            pass
    with pytest.raises(ReadsUnavailable):
        await dead.head()
    with pytest.raises(ReadModelBehind):
        await dead.caught_up("transcripts", 1, timeout=0.3)
    await dead.close()
    await reads.close()
    with pytest.raises(Stopping):
        async with reads.tenant(TENANT):
            pass


async def test_one_connection_serves_tenants_in_turn(database_url: str) -> None:
    log = history([(0, ASK, 0), (1, ASK, 0)])
    apply(database_url, log)
    reads = Reads(database_url, size=1)
    await reads.open()
    for tenant, dialogue in ((TENANT, 1), (OTHER_TENANT, 2)) * 3:
        async with reads.tenant(tenant) as connection:
            rows = await (await connection.execute("select id from bichat.transcripts_v1")).fetchall()
            assert rows == [(UUID(int=dialogue),)]
    await reads.close()
