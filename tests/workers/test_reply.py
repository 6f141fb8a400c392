"""A question becomes exactly one answer or one failure, on real servers, whatever the model does."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from uuid import UUID

import psycopg
import pytest
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail, Match, Reply
from redis.asyncio import Redis

from bichat.commands.dialogue import CancelReply, DeleteDialogue, EraseText, RetryReply
from bichat.commands.reply import StartReply
from bichat.deltas import Deltas
from bichat.doorbell import Doorbell
from bichat.events.dialogue import (
    Asked,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyCancelRequested,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
)
from bichat.events.envelope import Fact
from bichat.events.keys import data_keys
from bichat.model import canonical
from bichat.shown import rebuild
from bichat.workers.attempts import SILENT
from tests.examples import SHOWN, TENANT, by, by_worker
from tests.workers.world import World, streaming, worker, world

WORDS = " ".join(f"word{n}" for n in range(40))

Story = Callable[[World], Awaitable[None]]


@pytest.fixture
def settings() -> dict[str, object]:
    return {"bichat_fallback_model": "spare"}


def shape(facts: list[Fact]) -> list[str]:
    """Facts in short."""
    short = {
        ReplyStarted: "started",
        ReplyFailed: "failed",
        ReplyCancelled: "cancelled",
        ReplyAccounted: "accounted",
        ReplyRequeued: "requeued",
    }
    return [short.get(type(fact), "answered") for fact in facts]


def test_a_question_is_answered_and_the_log_can_show_what_the_model_saw(live: World, llmock: LLMock) -> None:
    llmock.reply(WORDS)

    async def story() -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask("How much?", Asked(max_tokens=99, temperature=0.1))
            answer = await live.answer(dialogue_id, message_id)
        assert answer.content == WORDS
        assert answer.answers
        assert (answer.answers.attempt, answer.answers.model, answer.answers.finish_reason) == (
            1,
            "first",
            "stop",
        )
        assert answer.answers.usage.total_tokens > 0
        started = live.replies(dialogue_id, message_id)[0]
        assert isinstance(started, ReplyStarted)
        assert (started.max_tokens, started.temperature, started.top_p) == (99, 0.1, None)
        again = rebuild(live.ledger, dialogue_id, 2, started)
        assert [m.__dict__ if hasattr(m, "__dict__") else m.content for m in again.messages][
            -1
        ] == "How much?"
        sent = llmock.last_request.body
        assert [m["content"] for m in sent["messages"]] == [m.content for m in again.messages]
        event = live.ledger.read(dialogue_id)[1]
        key = live.ledger.keys.person(event.tenant_id, "anna")
        assert started.request_digest == key.digest("request", canonical(again)).hex()

    asyncio.run(story())


def test_words_are_said_as_they_come_and_add_up_to_the_answer(live: World, llmock: LLMock) -> None:
    llmock.reply(WORDS).pace(10)

    async def story() -> None:
        deltas = Deltas(live.config.redis_url or "")
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            await live.answer(dialogue_id, message_id)
            said = await deltas.replay(dialogue_id, message_id, 1)
        await deltas.close()
        assert "".join(one.text for one in said) == WORDS
        assert said[0].text.strip() == "word0", "the first word does not wait for others"
        assert 5 <= len(said) <= 30, "40 words in 0.4 s are said in segments"

    asyncio.run(story())


def test_questions_of_one_dialogue_are_answered_in_order_one_at_a_time(live: World, llmock: LLMock) -> None:
    llmock.pace(2)

    async def story() -> None:
        async with worker(live), worker(live):
            dialogue_id, first = await live.ask("1?")
            asked = [first, *await live.ask_more(dialogue_id, "2?", "3?", "4?")]
            for message_id in asked:
                await live.answer(dialogue_id, message_id)
        facts = [
            f for f in live.facts(dialogue_id) if isinstance(f, ReplyStarted) or getattr(f, "answers", None)
        ]
        assert shape(facts) == ["started", "answered"] * 4
        assert [f.message_id for f in facts if isinstance(f, ReplyStarted)] == asked
        seen = [[m["content"] for m in r.body["messages"]][1:] for r in llmock.requests]
        said = [f.content for f in facts if isinstance(f, MessageAdded)]
        assert seen[3] == ["1?", said[0], "2?", said[1], "3?", said[2], "4?"]

    asyncio.run(story())


def test_many_dialogues_are_answered_at_once_by_two_workers_each_question_once(
    live: World, llmock: LLMock
) -> None:
    llmock.pace(5)

    async def story() -> None:
        async with worker(live), worker(live):
            asked = await asyncio.gather(*(live.ask(f"{n}?") for n in range(24)))
            for dialogue_id, message_id in asked:
                await live.answer(dialogue_id, message_id)
        for dialogue_id, message_id in asked:
            assert shape(live.replies(dialogue_id, message_id)) == ["started", "answered"]
        assert len(llmock.requests) == 24

    asyncio.run(story())


# --- a model that misbehaves ----------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503", "disconnect", "truncate", "corrupt", "stall"])
def test_a_fault_is_recorded_and_the_next_attempt_answers(live: World, llmock: LLMock, fault: str) -> None:
    llmock.reply(WORDS, times=None).pace(2)
    faults: dict[str, Callable[[], object]] = {
        "503": lambda: llmock.fail(503),
        "disconnect": lambda: llmock.disconnect(after_chunks=5),
        "truncate": lambda: llmock.truncate(after_chunks=5),
        "corrupt": lambda: llmock.corrupt(after_chunks=5),
        "stall": lambda: llmock.stall(after_chunks=5, seconds=3),
    }
    faults[fault]()

    async def story() -> None:
        async with worker(live, silence=0.5):
            dialogue_id, message_id = await live.ask()
            answer = await live.answer(dialogue_id, message_id)
        assert answer.content == WORDS
        happened = live.replies(dialogue_id, message_id)
        assert shape(happened) == ["started", "failed", "started", "answered"]
        failed = happened[1]
        assert isinstance(failed, ReplyFailed)
        assert not failed.final
        if fault == "503":
            assert (failed.code, failed.partial, failed.usage.total_tokens) == ("model_unavailable", "", 0)
        else:
            assert failed.partial == "word0 word1 word2 word3 "
            assert failed.usage.completion_tokens > 0

    asyncio.run(story())
    llmock.assert_resilient(strict=True)


def test_retry_after_is_kept_without_holding_a_place(live: World, llmock: LLMock) -> None:
    llmock.add(Fail(429, retry_after=2))

    async def story() -> None:
        async with worker(live, concurrency=1):
            limited = await live.ask("limited?")
            await live.until(*limited, ReplyFailed)
            began = time.monotonic()
            other = await live.ask("other?")
            await live.answer(*other)
            assert time.monotonic() - began < 1.5, "the only place is free while the first question waits"
            await live.answer(*limited)

    asyncio.run(story())
    llmock.assert_resilient()


def test_a_model_that_stays_down_is_replaced_by_the_spare_one(live: World, llmock: LLMock) -> None:
    llmock.add(Fail(500, times=None, match=Match(model="first")), Reply("spare words"))

    async def story() -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            answer = await live.answer(dialogue_id, message_id)
        assert answer.content == "spare words"
        assert answer.answers
        assert (answer.answers.model, answer.answers.attempt) == ("spare", 5)

    asyncio.run(story())


def test_a_refusal_goes_to_the_spare_model_at_once_and_then_ends(live: World, llmock: LLMock) -> None:
    llmock.fail(401, times=None, message="no such key")

    async def story() -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            failed = await live.until(dialogue_id, message_id, ReplyFailed)
            while not getattr(failed, "final", False):
                failed = await live.until(dialogue_id, message_id, ReplyFailed)
                await asyncio.sleep(0.02)
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, failed.final) == ("model_refused", True)
        assert "no such key" in (failed.detail or "")
        assert shape(live.replies(dialogue_id, message_id)) == ["started", "failed"] * 2

        llmock.reset().reply("at last")
        async with worker(live):
            await live.tell(RetryReply(dialogue_id=dialogue_id, message_id=message_id))
            answer = await live.answer(dialogue_id, message_id)
        assert answer.content == "at last"
        assert answer.answers
        assert answer.answers.model == "first"

    asyncio.run(story())


def test_a_question_that_is_too_long_is_refused_without_a_call(
    database_url: str, redis_url: str, llmock: LLMock, doorbell: Doorbell
) -> None:
    async def story(live: World) -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask("long " * 500)
            failed = await live.until(dialogue_id, message_id, ReplyFailed)
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, failed.final) == ("context_too_long", True)
        assert llmock.requests == []

    with world(database_url, redis_url, llmock.base_url(), doorbell, bichat_context_tokens=300) as live:
        asyncio.run(story(live))


# --- people who change their mind -----------------------------------------------------------------


def test_a_running_reply_is_cancelled_and_its_words_are_kept(live: World, llmock: LLMock) -> None:
    llmock.reply(WORDS).pace(50)

    async def story() -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            await streaming(live, dialogue_id, message_id)
            await live.tell(CancelReply(dialogue_id=dialogue_id, message_id=message_id))
            began = time.monotonic()
            cancelled = await live.until(dialogue_id, message_id, ReplyCancelled)
            assert time.monotonic() - began < 1.5
            assert isinstance(cancelled, ReplyCancelled)
            assert (cancelled.partial or "").startswith("word0 word1 word2 ")
            assert WORDS.startswith(cancelled.partial or "?")
            assert cancelled.usage.completion_tokens > 0
            llmock.pace(0)
            (following,) = await live.ask_more(dialogue_id, "And now?")
            await live.answer(dialogue_id, following)

    asyncio.run(story())


def test_deleting_the_dialogue_stops_the_model(live: World, llmock: LLMock) -> None:
    llmock.reply(WORDS).pace(50)

    async def story() -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            await streaming(live, dialogue_id, message_id)
            await live.tell(DeleteDialogue(dialogue_id=dialogue_id))
            account = await live.until(dialogue_id, message_id, ReplyAccounted)
        assert isinstance(account, ReplyAccounted)
        assert account.partial
        assert account.partial != WORDS
        assert WORDS.startswith(account.partial)
        assert account.usage.total_tokens > 0

    asyncio.run(story())


def test_a_wish_to_cancel_is_fulfilled_also_when_its_worker_died(live: World, llmock: LLMock) -> None:
    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        start = StartReply(
            dialogue_id=dialogue_id,
            message_id=message_id,
            attempt=1,
            model="m",
            shown=SHOWN,
            request_digest="",
        )
        await live.executor.execute(start, by_worker())  # and then that worker was never seen again
        await live.tell(CancelReply(dialogue_id=dialogue_id, message_id=message_id))
        assert isinstance(live.facts(dialogue_id)[-1], ReplyCancelRequested)
        async with worker(live):
            await live.until(dialogue_id, message_id, ReplyCancelled)
        assert llmock.requests == []

    asyncio.run(story())


# --- workers and servers that go away -------------------------------------------------------------


def test_a_question_that_kills_its_workers_ends(live: World, llmock: LLMock) -> None:
    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        for attempt in range(1, SILENT + 1):
            start = StartReply(
                dialogue_id=dialogue_id, message_id=message_id, attempt=attempt, model="first", shown=SHOWN,
                request_digest="",
            )  # fmt: skip
            await live.executor.execute(start, by_worker())
        async with worker(live):
            failed = await live.until(dialogue_id, message_id, ReplyFailed)
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, failed.final) == ("worker_lost", True)
        assert llmock.requests == []

    asyncio.run(story())


def test_a_stopping_worker_hands_its_reply_to_another_at_once(live: World, llmock: LLMock) -> None:
    llmock.reply(" ".join([WORDS] * 10), times=None).pace(20)  # eight seconds

    async def story() -> None:
        async with worker(live) as stop:
            dialogue_id, message_id = await live.ask()
            await streaming(live, dialogue_id, message_id)
            began = time.monotonic()
            stop.set()
        assert time.monotonic() - began < 10
        failed = live.replies(dialogue_id, message_id)[-1]
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, failed.final) == ("worker_stopped", False)
        assert (failed.partial or "").startswith("word0 ")
        assert failed.usage.completion_tokens > 0
        llmock.pace(0)
        async with worker(live):
            began = time.monotonic()
            answer = await live.answer(dialogue_id, message_id)
            assert time.monotonic() - began < 3, "no lease has to run out"
        assert answer.content == " ".join([WORDS] * 10)

    asyncio.run(story())


def test_a_short_reply_may_end_while_the_worker_stops(live: World, llmock: LLMock) -> None:
    llmock.reply(WORDS).pace(20)

    async def story() -> None:
        async with worker(live) as stop:
            dialogue_id, message_id = await live.ask()
            await streaming(live, dialogue_id, message_id)
            stop.set()
        assert shape(live.replies(dialogue_id, message_id)) == ["started", "answered"]

    asyncio.run(story())


def test_without_redis_replies_go_on(database_url: str, llmock: LLMock) -> None:
    llmock.reply(WORDS, times=None)

    async def story(live: World) -> None:
        async with worker(live):
            for _ in range(3):
                dialogue_id, message_id = await live.ask()
                answer = await live.answer(dialogue_id, message_id)
                assert answer.content == WORDS

    nobody = "redis://127.0.0.1:1/0"
    doorbell = Doorbell(nobody)
    with world(database_url, nobody, llmock.base_url(), doorbell) as live:
        asyncio.run(story(live))
    doorbell.close()


def test_connections_that_are_cut_cost_no_answer(
    live: World, llmock: LLMock, caplog: pytest.LogCaptureFixture
) -> None:
    llmock.reply(WORDS, times=None).pace(10)

    async def story() -> None:
        async with worker(live):
            asked = [await live.ask(f"{n}?") for n in range(6)]
            for _ in range(6):
                await asyncio.to_thread(_cut, live)
                await asyncio.sleep(0.2)
            for dialogue_id, message_id in asked:
                answer = await live.answer(dialogue_id, message_id, seconds=60)
                assert answer.content == WORDS
                happened = shape(live.replies(dialogue_id, message_id))
                assert happened.count("answered") == 1

    with caplog.at_level(logging.WARNING):
        asyncio.run(story())


def _cut(live: World) -> None:
    with psycopg.connect(live.config.database_url or "", autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )


def test_a_question_asked_again_while_its_reply_stops_is_answered_and_both_are_paid(
    live: World, llmock: LLMock
) -> None:
    llmock.reply(" ".join([WORDS] * 5)).pace(50)

    async def story() -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            await streaming(live, dialogue_id, message_id)
            llmock.reply(WORDS)
            about = {"dialogue_id": dialogue_id, "message_id": message_id}
            await live.tell(CancelReply(**about))
            await live.tell(RetryReply(**about))
            async with asyncio.timeout(20):
                while {"accounted", "answered"} - set(shape(live.replies(dialogue_id, message_id))):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
        happened = shape(live.replies(dialogue_id, message_id))
        assert happened[:2] == ["started", "cancelled"]
        assert sorted(happened[2:]) == ["accounted", "answered", "requeued", "started"]

    asyncio.run(story())


# --- persons who are forgotten ---------------------------------------------------------------------


async def erase(live: World, dialogue_id: UUID) -> None:
    """As ops."""
    await live.executor.execute(EraseText(dialogue_id=dialogue_id), by("olga"))


def test_forgetting_its_person_stops_the_model_and_its_words_do_not_come_back(
    live: World, llmock: LLMock
) -> None:
    llmock.reply(WORDS).pace(50)

    async def story() -> None:
        deltas = Deltas(live.config.redis_url or "")
        async with worker(live), Redis.from_url(live.config.redis_url or "") as redis:
            dialogue_id, message_id = await live.ask()
            await streaming(live, dialogue_id, message_id)
            await erase(live, dialogue_id)
            assert await deltas.forget([dialogue_id])
            began = time.monotonic()
            account = await live.until(dialogue_id, message_id, ReplyAccounted)
            assert time.monotonic() - began < 1.5
            assert [key async for key in redis.scan_iter(f"bichat:reply:{dialogue_id}:*")] == []
        await deltas.close()
        assert isinstance(account, ReplyAccounted)
        assert account.partial == ""
        assert account.usage.total_tokens > 0

    asyncio.run(story())


def test_a_forgotten_person_who_comes_back_is_not_told_of_what_was(live: World, llmock: LLMock) -> None:
    async def story() -> None:
        dialogue_id, message_id = await live.ask("My secret is Xylophon.")
        async with worker(live):
            await live.answer(dialogue_id, message_id)
            await erase(live, dialogue_id)  # and its key is still there
            (asked,) = await live.ask_more(dialogue_id, "Who am I?")
            await live.answer(dialogue_id, asked)
        sent = llmock.requests[-1].body["messages"]
        assert [message["role"] for message in sent] == ["system", "user"]
        assert sent[-1]["content"] == "Who am I?"
        [started] = [f for f in live.replies(dialogue_id, asked) if isinstance(f, ReplyStarted)]
        events = live.ledger.read(dialogue_id)
        [question] = [e for e in events if isinstance(e.fact, MessageAdded) and e.fact.message_id == asked]
        again = rebuild(live.ledger, dialogue_id, question.version, started)
        key = live.ledger.keys.person(question.tenant_id, "anna")
        assert started.request_digest == key.digest("request", canonical(again)).hex()

    asyncio.run(story())


def test_a_question_without_its_text_is_never_sent(live: World, llmock: LLMock) -> None:
    async def story() -> None:
        dialogue_id, message_id = await live.ask("My secret is Xylophon.")
        with live.ledger.keys.connection() as connection:  # as it is over a log that was restored
            data_keys.destroy(connection, (TENANT, "anna"))
        live.ledger.keys.look()
        async with worker(live):
            failed = await live.until(dialogue_id, message_id, ReplyFailed)
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, failed.final, failed.attempt) == ("question_erased", True, 0)
        assert llmock.requests == []

    asyncio.run(story())
