"""Places at the model: three worker processes together never call it more often at once than was set."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from llmock.pytest_plugin import LLMock

from bichat.config.spending import Rate
from bichat.doorbell import Doorbell
from bichat.errors import TokensSpent
from bichat.limits import Limits
from tests.examples import TENANT
from tests.workers.test_reply_process import process
from tests.workers.world import worker, world

QUESTIONS, PLACES, PROCESSES = 9, 3, 3


def at_once(llmock: LLMock) -> int:
    """The most calls that the model's server was at, at any time."""
    moments = [(call.started_at, 1) for call in llmock.requests]
    moments += [(call.ended_at, -1) for call in llmock.requests]
    most = now = 0
    for _, step in sorted(moments):
        now += step
        most = max(most, now)
    return most


def test_three_processes_never_call_the_model_more_often_at_once_than_was_set(
    database_url: str, redis_url: str, llmock: LLMock
) -> None:
    llmock.reply("one two three four five six", times=None).pace(60)
    doorbell = Doorbell(redis_url)
    settings = {"bichat_model_concurrency": PLACES, "bichat_auto_label": True}
    with (
        world(database_url, redis_url, llmock.base_url(), doorbell, **settings) as live,
        ExitStack() as stack,
    ):

        async def story() -> None:
            asked = [await live.ask(f"How much in {n}?") for n in range(QUESTIONS)]
            for _ in range(PROCESSES):
                stack.enter_context(process(live))
            for dialogue_id, message_id in asked:
                await live.answer(dialogue_id, message_id)

        asyncio.run(story())
    doorbell.close()
    assert len(llmock.requests) >= QUESTIONS
    assert at_once(llmock) == PLACES


def test_what_an_answer_took_is_counted_for_its_tenant(
    database_url: str, redis_url: str, llmock: LLMock
) -> None:
    llmock.reply("A few words, which are more than one token.", times=None)
    doorbell, limit = Doorbell(redis_url), Rate(3, "minute")
    with world(database_url, redis_url, llmock.base_url(), doorbell, bichat_token_limit=limit) as live:

        async def story() -> None:
            limits = Limits(live.config)
            assert await limits.asking(TENANT) is None
            async with worker(live):
                await live.answer(*await live.ask())
            refusal = await limits.asking(TENANT)
            assert isinstance(refusal, TokensSpent)
            assert 1 <= int(str(refusal.facts["seconds"])) <= 60
            await limits.close()

        asyncio.run(story())
    doorbell.close()
