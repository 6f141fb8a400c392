"""What is said, read in whole pages, from any point, and by nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace

from bichat.events.envelope import Event
from bichat.events.transcript import Dialogue, Message, Turn
from bichat.projections import dialogues, transcripts
from bichat.projections.reads import Reads
from tests.examples import OTHER_TENANT, TENANT
from tests.projections.histories import history, transcribed
from tests.projections.test_runner import filled

pytestmark = pytest.mark.anyio
ASK, NOTE, START, ANSWER, FAIL, CALL, RETURN = 0, 2, 3, 6, 9, 19, 20
FIRST = UUID(int=1)


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
    filled(database_url, log)
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
    filled(database_url, log)
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
    filled(database_url, log)
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
    filled(database_url, log)
    expected = whole(log)
    answer = expected.messages[-1]
    assert answer.reply_to == expected.messages[0].id
    async with reads.tenant(TENANT) as connection:
        found = await transcripts.reply(connection, TENANT, FIRST, "user 0", expected.messages[0].id)
        assert found == (expected.turns[expected.messages[0].id], answer, ())
        waits = await transcripts.reply(connection, TENANT, FIRST, "user 0", expected.messages[1].id)
        assert waits == (expected.turns[expected.messages[1].id], None, ())
        turn = await transcripts.turn(connection, TENANT, FIRST, "user 0", expected.messages[1].id)
        assert turn == expected.turns[expected.messages[1].id]
        assert await transcripts.reply(connection, TENANT, FIRST, "user 0", answer.id) is None


async def test_a_reply_is_found_with_the_calls_of_its_last_attempt(database_url: str, reads: Reads) -> None:
    lost = [(0, START, 0), (0, CALL, 0)]
    log = history([(0, ASK, 0), *lost, *lost, (0, ASK, 0), (0, RETURN, 0), (0, CALL, 2), (0, ANSWER, 0)])
    filled(database_url, log)
    expected = [m for m in whole(log).messages if m.call_id and m.attempt == 2]
    assert [bool(m.content) for m in expected] == [False, True, False]
    question = whole(log).messages[0].id
    async with reads.tenant(TENANT) as connection:
        for since, calls in ((0, expected), (expected[1].version, expected[2:])):
            found = await transcripts.reply(
                connection, TENANT, FIRST, "user 0", question, since_version=since
            )
            assert found
            assert list(found.calls) == calls


@pytest.mark.parametrize("end", [ANSWER, FAIL, None])
async def test_its_calls_are_found_however_much_was_said_meanwhile(
    database_url: str, reads: Reads, end: int | None
) -> None:
    much = [(0, NOTE, 0)] * 220  # two messages each
    story = [(0, ASK, 0), (0, START, 0), *much, (0, CALL, 0), (0, RETURN, 0), *much, (0, CALL, 441)]
    if end is not None:
        story += [(0, end, 0), *much, (0, ASK, 0), (0, START, 0), (0, CALL, 0)]
    log = history(story)
    filled(database_url, log)
    said = whole(log).messages
    calls = [m for m in said if m.call_id and m.reply_to == said[0].id]
    assert [call.seq for call in calls] == [442, 443, 884, 885]
    async with reads.tenant(TENANT) as connection:
        for since in (0, calls[0].version - 1, *(m.version for m in calls)):
            found = await transcripts.reply(
                connection, TENANT, FIRST, "user 0", said[0].id, since_version=since
            )
            assert found
            assert list(found.calls) == [m for m in calls if m.version > since]


async def test_nobody_reaches_what_is_not_theirs(database_url: str, reads: Reads) -> None:
    log = history([(0, ASK, 0), (1, ASK, 0), (2, ASK, 0)])
    filled(database_url, log)
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
