"""Nobody waits for ever: what cannot be queued ends as failed, and is answered once it can be."""

from __future__ import annotations

import asyncio
import logging
from datetime import date
from uuid import UUID, uuid4

import psycopg
import pytest
from llmock.pytest_plugin import LLMock
from psycopg_pool import AsyncConnectionPool

from bichat.commands.dialogue import CancelReply, RetryFailedReply, RetryReply
from bichat.events import schema
from bichat.events.dialogue import ReplyCancelled, ReplyFailed, ReplyStarted
from bichat.events.feed import Feed
from bichat.projections import parking, replies, transcripts, usage
from bichat.projections.read_model import Build
from bichat.projections.reads import Reads
from bichat.workers.parked import ParkedQuestions
from tests.examples import TENANT, by, by_worker, start_reply
from tests.workers.world import World, streaming, worker

POISON = "alter table bichat.replies_v2_g1 add constraint poison check (user_id <> 'anna') not valid"
CURE = "alter table bichat.replies_v2_g1 drop constraint poison"


def run(live: World, query: str, *values: object) -> None:
    with psycopg.connect(live.config.database_url or "", autocommit=True) as connection:
        connection.execute(query.encode(), values)


def park(live: World, dialogue_id: UUID) -> None:
    run(
        live,
        "insert into bichat.parked (name, shape, build, dialogue_id, tenant_id, position, version, error)"
        " values ('replies', 2, 1, %s, %s, 1, 1, 'CheckViolation') on conflict do nothing",
        dialogue_id, TENANT,
    )  # fmt: skip


def cure(live: World) -> None:
    """What an operator does after a fix."""
    run(live, CURE)
    with schema.connect(live.config.database_url or "") as connection:
        for retried in parking.retry(connection, Build(replies.MODEL, 1), Feed(live.ledger.keys)):
            assert retried.parked is None


async def failed(live: World, dialogue_id: UUID, message_id: UUID) -> ReplyFailed:
    fact = await live.until(dialogue_id, message_id, ReplyFailed)
    assert isinstance(fact, ReplyFailed)
    return fact


def test_a_question_that_was_never_queued_fails_and_is_answered_after_the_cure(
    live: World, llmock: LLMock
) -> None:
    async def story() -> None:
        run(live, POISON)
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            told = await failed(live, dialogue_id, message_id)
            assert (told.attempt, told.code, told.final) == (0, "parked", True)
            assert "ask again later" in (told.detail or "")
            assert await standing(live, dialogue_id, message_id) == ("failed", "parked", 0)
            cure(live)
            await live.tell(RetryReply(dialogue_id=dialogue_id, message_id=message_id))
            assert await live.answer(dialogue_id, message_id)
        assert len(llmock.requests) == 1

    asyncio.run(story())


async def queued(live: World) -> None:
    """Returns once the queue has everything."""
    reads = Reads(live.config.database_url or "")
    await reads.open()
    try:
        await reads.caught_up("replies", await reads.head())
    finally:
        await reads.close()


async def standing(live: World, dialogue_id: UUID, message_id: UUID) -> tuple[str, str, int]:
    """Status and code of the reply as its person reads them, and the calls to the model that are counted."""
    reads = Reads(live.config.database_url or "")
    await reads.open()
    try:
        for name in ("transcripts", "usage"):
            await reads.caught_up(name, await reads.head())
        async with reads.tenant(TENANT) as connection:
            turn = await transcripts.turn(connection, TENANT, dialogue_id, "anna", message_id)
            spent = await usage.usage(connection, TENANT, None, since=date.min, until=date.max)
    finally:
        await reads.close()
    assert turn
    return turn.status, turn.code, sum(used.calls for used in spent)


def test_what_was_queued_before_its_dialogue_was_parked_fails_too_and_others_are_answered(
    live: World, llmock: LLMock
) -> None:
    async def story() -> None:
        dialogue_id, first = await live.ask()
        await queued(live)
        run(live, POISON.replace("user_id <> 'anna'", f"dialogue_id <> '{dialogue_id}'"))
        (second,) = await live.ask_more(dialogue_id, "And?")
        healthy = await live.ask()
        await queued(live)
        async with worker(live):
            assert await live.answer(*healthy)
            for message_id in (first, second):
                assert (await failed(live, dialogue_id, message_id)).attempt == 0
            cure(live)
            for message_id in (first, second):
                await live.tell(RetryReply(dialogue_id=dialogue_id, message_id=message_id))
                assert await live.answer(dialogue_id, message_id)
        assert len(llmock.requests) == 3

    asyncio.run(story())


def test_every_question_of_a_parked_dialogue_fails_and_no_other(live: World, llmock: LLMock) -> None:
    async def story() -> None:
        healthy = await live.ask()
        dialogue_id, first = await live.ask()
        (second,) = await live.ask_more(dialogue_id, "And?")
        park(live, dialogue_id)
        await look(live)
        for message_id in (first, second):
            assert (await failed(live, dialogue_id, message_id)).code == "parked"
        assert live.replies(*healthy) == []
        ends = live.facts(dialogue_id)
        await look(live)
        assert live.facts(dialogue_id) == ends

    asyncio.run(story())


async def look(live: World, times: int = 1) -> None:
    """What a worker does, without its other work."""
    url = live.config.database_url or ""
    async with AsyncConnectionPool(url, min_size=1, open=False, kwargs={"autocommit": True}) as pool:
        questions = ParkedQuestions(live.ledger, live.executor, pool, "w1")
        for _ in range(times):
            await questions.end()


def test_what_a_worker_is_busy_with_is_left_to_it(live: World, llmock: LLMock) -> None:
    llmock.reply(" ".join(f"word{n}" for n in range(60))).pace(20)

    async def story() -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            await streaming(live, dialogue_id, message_id)
            park(live, dialogue_id)
            await look(live)
            assert (await live.answer(dialogue_id, message_id)).content

    asyncio.run(story())


def test_an_attempt_whose_worker_is_gone_ends_with_it(live: World) -> None:
    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        await live.executor.execute(start_reply(dialogue_id, message_id), by_worker())
        park(live, dialogue_id)
        await look(live)
        assert (await failed(live, dialogue_id, message_id)).attempt == 1
        assert await standing(live, dialogue_id, message_id) == ("failed", "parked", 1)

    asyncio.run(story())


def test_what_was_to_be_cancelled_is_cancelled(live: World) -> None:
    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        await live.executor.execute(start_reply(dialogue_id, message_id), by_worker())
        await live.tell(CancelReply(dialogue_id=dialogue_id, message_id=message_id))
        park(live, dialogue_id)
        await look(live)
        assert isinstance(live.replies(dialogue_id, message_id)[-1], ReplyCancelled)

    asyncio.run(story())


def test_asked_again_while_it_is_parked_it_fails_again(live: World) -> None:
    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        park(live, dialogue_id)
        for times in (1, 2):
            await look(live)
            ends = [fact for fact in live.replies(dialogue_id, message_id) if isinstance(fact, ReplyFailed)]
            assert len(ends) == times
            retry = RetryFailedReply(dialogue_id=dialogue_id, message_id=message_id)
            await live.executor.execute(retry, by("olga"))

    asyncio.run(story())


def test_only_the_build_that_serves_counts(live: World) -> None:
    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        park(live, dialogue_id)
        for change in ("build = 2", "build = 1, shape = 3", "shape = 2, name = 'usage'"):
            run(live, f"update bichat.parked set {change}")
            await look(live)
            assert live.replies(dialogue_id, message_id) == []

    asyncio.run(story())


def test_a_dialogue_that_cannot_be_read_is_one_line_and_harms_no_other(
    live: World, caplog: pytest.LogCaptureFixture
) -> None:
    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        broken, _ = await live.ask()
        run(
            live,
            "update bichat.stored_events set state = 'x' where originator_id = %s and originator_version = 2",
            broken,
        )
        park(live, dialogue_id)
        park(live, broken)
        with caplog.at_level(logging.INFO, "bichat.workers.parked"):
            await look(live, times=3)
        assert (await failed(live, dialogue_id, message_id)).code == "parked"
        ours = [r.getMessage() for r in caplog.records if r.name == "bichat.workers.parked"]
        lines = [line for line in ours if str(broken) in line]
        assert len(lines) == 1
        assert lines[0].startswith(f"The parked dialogue {broken} cannot be read: ")

    asyncio.run(story())


def test_more_than_one_piece_is_looked_at(live: World) -> None:
    async def story() -> None:
        asked = [await live.ask() for _ in range(3)]
        for dialogue_id, _ in asked:
            park(live, dialogue_id)
        nobody = [(uuid4(), TENANT) for _ in range(600)]
        with psycopg.connect(live.config.database_url or "", autocommit=True) as connection:
            connection.cursor().executemany(
                "insert into bichat.parked (name, shape, build, dialogue_id, tenant_id, position, version,"
                " error) values ('replies', 2, 1, %s, %s, 1, 1, 'x')",
                nobody,
            )
        await look(live)
        for one in asked:
            assert isinstance(live.replies(*one)[-1], ReplyFailed)
            assert not any(isinstance(fact, ReplyStarted) for fact in live.replies(*one))

    asyncio.run(story())
