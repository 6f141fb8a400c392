"""What is asked for the quiet hours waits for them, holds nobody back, and has places of its own."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from llmock.pytest_plugin import LLMock
from msgspec.structs import replace

from bichat.commands.dialogue import AddMessage, CancelReply, RetryReply
from bichat.events.dialogue import (
    Asked,
    MessageAdded,
    ReplyCancelled,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
)
from bichat.model import canonical
from bichat.shown import rebuild
from tests.examples import by_worker, question, start_reply
from tests.workers.world import World, streaming, worker

LATER = Asked(schedule="off_peak")
WORDS = " ".join(f"word{n}" for n in range(40))


class Clock:
    """Noon, until it is night."""

    def __init__(self, hour: int = 12) -> None:
        self.hour = hour

    def __call__(self) -> datetime:
        return datetime(2026, 11, 22, self.hour, tzinfo=UTC)


@pytest.fixture
def settings() -> dict[str, object]:
    return {"bichat_off_peak_concurrency": 1}


async def ask_later(live: World, dialogue_id: UUID, content: str) -> UUID:
    asked = replace(question(content), asks=LATER)
    await live.tell(AddMessage(dialogue_id=dialogue_id, messages=(asked,)))
    return asked.message_id


def sent(llmock: LLMock, n: int) -> list[tuple[str, Any]]:
    """What the model was shown in its nth call, without the prompt."""
    return [(said["role"], said["content"]) for said in llmock.requests[n].body["messages"][1:]]


def test_it_holds_back_no_later_question_and_sees_none(live: World, llmock: LLMock) -> None:
    for answer in ("one", "three", "two", "four"):
        llmock.reply(answer)

    async def story() -> None:
        clock = Clock()
        async with worker(live, clock=clock):
            dialogue_id, first = await live.ask("1?")
            await live.answer(dialogue_id, first)
            later = await ask_later(live, dialogue_id, "2?")
            (third,) = await live.ask_more(dialogue_id, "3?")
            assert (await live.answer(dialogue_id, third)).content == "three"
            assert live.replies(dialogue_id, later) == []
            clock.hour = 22
            assert (await live.answer(dialogue_id, later)).content == "two"
            (fourth,) = await live.ask_more(dialogue_id, "4?")
            await live.answer(dialogue_id, fourth)
        before = [("user", "1?"), ("assistant", "one")]
        assert sent(llmock, 1) == [*before, ("user", "2?"), ("user", "3?")]
        assert sent(llmock, 2) == [*before, ("user", "2?")]
        assert sent(llmock, 3) == [
            *before, ("user", "2?"), ("assistant", "two"), ("user", "3?"), ("assistant", "three"),
            ("user", "4?"),
        ]  # fmt: skip
        check_rebuilt(live, dialogue_id, later)

    asyncio.run(story())


def check_rebuilt(live: World, dialogue_id: UUID, message_id: UUID) -> None:
    """What an auditor rebuilds is what was sent, though the dialogue had gone on."""
    events = live.ledger.read(dialogue_id)
    [asked] = [e for e in events if isinstance(e.fact, MessageAdded) and e.fact.message_id == message_id]
    [started] = [f for f in live.replies(dialogue_id, message_id) if isinstance(f, ReplyStarted)]
    again = canonical(rebuild(live.ledger, dialogue_id, asked.version, started))
    person = live.ledger.keys.person(asked.tenant_id, "anna")
    assert started.request_digest == person.digest("request", again).hex()


def test_it_takes_nobodys_place_and_has_no_more_than_its_own(live: World, llmock: LLMock) -> None:
    llmock.reply(WORDS, times=None).pace(20)

    async def story() -> None:
        async with worker(live, concurrency=1, clock=Clock(3)):
            later = [await live.ask("Later?", LATER) for _ in range(2)]
            await streaming(live, *later[0])
            now = await live.ask("Now?")
            await streaming(live, *now)
            assert [type(fact) for fact in live.replies(*later[0])] == [ReplyStarted]
            assert live.replies(*later[1]) == []
            for one in (*later, now):
                await live.answer(*one)

    asyncio.run(story())


def test_a_reply_goes_on_when_the_window_closes_and_the_dialogues_next_question_waits_for_it(
    live: World, llmock: LLMock
) -> None:
    llmock.reply(WORDS, times=None).pace(40)

    async def story() -> None:
        clock = Clock(23)
        async with worker(live, clock=clock):
            dialogue_id, later = await live.ask("Later?", LATER)
            await streaming(live, dialogue_id, later)
            clock.hour = 12
            (now,) = await live.ask_more(dialogue_id, "Now?")
            await live.answer(dialogue_id, now)
        happened = [f for f in live.facts(dialogue_id) if isinstance(f, ReplyStarted | ReplyFailed)]
        assert [fact.message_id for fact in happened] == [later, now]
        answers = [f.answers.message_id for f in live.facts(dialogue_id)
                   if isinstance(f, MessageAdded) and f.answers]  # fmt: skip
        assert answers == [later, now]

    asyncio.run(story())


def test_what_lost_its_worker_by_day_waits_for_the_night_and_holds_nobody_back(
    live: World, llmock: LLMock
) -> None:
    llmock.reply("An answer.", times=None)

    async def story() -> None:
        clock = Clock()
        dialogue_id, later = await live.ask("Later?", LATER)
        # What a worker that was killed leaves in the log.
        await live.executor.execute(start_reply(dialogue_id, later), by_worker())
        async with worker(live, clock=clock):
            (now,) = await live.ask_more(dialogue_id, "Now?")
            await live.answer(dialogue_id, now)
            failed = live.replies(dialogue_id, later)[-1]
            assert isinstance(failed, ReplyFailed)
            assert (failed.code, failed.final, failed.attempt) == ("worker_stopped", False, 1)
            await asyncio.sleep(2.5)  # longer than what has ended is kept from the queue
            assert live.replies(dialogue_id, later)[-1] == failed
            clock.hour = 5
            answer = await live.answer(dialogue_id, later)
            assert answer.answers
            assert answer.answers.attempt == 2

    asyncio.run(story())


def test_it_can_be_cancelled_and_asked_again_and_still_waits(live: World, llmock: LLMock) -> None:
    llmock.reply("An answer.", times=None)

    async def story() -> None:
        clock = Clock()
        async with worker(live, clock=clock):
            dialogue_id, later = await live.ask("Later?", LATER)
            about = {"dialogue_id": dialogue_id, "message_id": later}
            await live.tell(CancelReply(**about))
            await live.tell(RetryReply(**about))
            (now,) = await live.ask_more(dialogue_id, "Now?")
            await live.answer(dialogue_id, now)
            assert [type(f) for f in live.replies(dialogue_id, later)] == [ReplyCancelled, ReplyRequeued]
            clock.hour = 0
            await live.answer(dialogue_id, later)

    asyncio.run(story())
