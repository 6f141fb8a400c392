"""Functions in the middle of which somebody changes their mind, or a worker dies."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

import psycopg
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Reply
from msgspec.structs import replace

from bichat.commands.dialogue import CancelReply, DeleteDialogue, EraseText
from bichat.config import environment
from bichat.events.dialogue import (
    FunctionCalled,
    FunctionReturned,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyFailed,
    ReplyStarted,
)
from bichat.workers import life
from tests.examples import by
from tests.workers.functions import ENDED, calls, query, results, toolbox
from tests.workers.world import World, worker

BOMB = "select count(*) from sales a, sales b, sales c, sales d"


async def calling(live: World, dialogue_id: UUID, name: str) -> None:
    """Waits until the log has that this function is called, and it is."""
    async with asyncio.timeout(10):
        while not any(  # noqa: ASYNC110
            isinstance(fact, FunctionCalled) and fact.name == name for fact in live.facts(dialogue_id)
        ):
            await asyncio.sleep(0.02)
    await asyncio.sleep(0.1)


@contextmanager
def process(live: World, sales_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """`bichat worker` with functions and the sales."""
    config = replace(live.config, bichat_functions=True, analytics_database_url=sales_url)
    running = subprocess.Popen(
        [sys.executable, "-m", "bichat", "worker"], env=environment(config, os.environ)
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def test_a_reply_is_cancelled_in_the_middle_of_a_function(live: World, llmock: LLMock) -> None:
    llmock.add(calls(("slow", {}), text="One moment."))
    ENDED.clear()

    async def story() -> None:
        async with worker(live, toolbox=toolbox()):
            dialogue_id, message_id = await live.ask()
            await calling(live, dialogue_id, "slow")
            await live.tell(CancelReply(dialogue_id=dialogue_id, message_id=message_id))
            began = time.monotonic()
            cancelled = await live.until(dialogue_id, message_id, ReplyCancelled)
            assert time.monotonic() - began < 1.5
            assert isinstance(cancelled, ReplyCancelled)
            assert cancelled.partial == "One moment."
            assert cancelled.usage.total_tokens > 0
            assert ENDED.is_set(), "the function does not go on for nobody"
            assert results(live.facts(dialogue_id)) == []
            (following,) = await live.ask_more(dialogue_id, "And now?")
            await live.answer(dialogue_id, following)

    asyncio.run(story())


def test_deleting_the_dialogue_ends_the_function_and_what_it_cost_is_told(
    live: World, llmock: LLMock
) -> None:
    llmock.add(calls(("slow", {}), text="One moment."))

    async def story() -> None:
        async with worker(live, toolbox=toolbox()):
            dialogue_id, message_id = await live.ask()
            await calling(live, dialogue_id, "slow")
            await live.tell(DeleteDialogue(dialogue_id=dialogue_id))
            account = await live.until(dialogue_id, message_id, ReplyAccounted)
        assert isinstance(account, ReplyAccounted)
        assert (account.partial, account.usage.total_tokens > 0) == ("One moment.", True)
        assert results(live.facts(dialogue_id)) == []

    asyncio.run(story())


def test_what_returns_after_its_person_was_forgotten_does_not_get_into_the_log(
    live: World, llmock: LLMock
) -> None:
    """A short function: it comes back before the worker has heard that it is not wanted."""
    llmock.add(calls(("slow", {}), ("current_time", {})), Reply(text="Too late."))

    async def story() -> None:
        async with worker(live, toolbox=toolbox(longest=0.6)):
            dialogue_id, message_id = await live.ask()
            await calling(live, dialogue_id, "slow")
            await live.executor.execute(EraseText(dialogue_id=dialogue_id), by("olga"))
            account = await live.until(dialogue_id, message_id, ReplyAccounted)
        assert isinstance(account, ReplyAccounted)
        assert account.partial == ""
        assert results(live.facts(dialogue_id)) == []

    asyncio.run(story())


def test_a_stopping_worker_ends_its_query_and_another_starts_afresh(
    live: World, llmock: LLMock, sales_url: str
) -> None:
    llmock.add(calls(query(BOMB)))

    async def story() -> None:
        async with worker(live, toolbox=toolbox(sales_url, seconds=30)) as stop:
            dialogue_id, message_id = await live.ask()
            await calling(live, dialogue_id, "query")
            began = time.monotonic()
            stop.set()
        assert time.monotonic() - began < 10
        failed = live.replies(dialogue_id, message_id)[-1]
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, failed.final) == ("worker_stopped", False)
        llmock.add(calls(("current_time", {})), Reply(text="Noon."))
        async with worker(live, toolbox=toolbox()):
            answer = await live.answer(dialogue_id, message_id)
        assert answer.content == "Noon."
        rounds = [f.round for f in live.facts(dialogue_id) if isinstance(f, FunctionCalled)]
        assert rounds == [1, 1], "the second attempt knows nothing of the first one's calls"
        assert len(llmock.last_request.body["messages"]) == 4

    asyncio.run(story())


def test_a_worker_killed_in_a_query_costs_an_attempt_and_the_query_ends(
    live: World, llmock: LLMock, sales_url: str
) -> None:
    llmock.add(calls(query(BOMB)))

    def queries() -> int:
        watching = "select count(*) from pg_stat_activity where application_name = 'bichat functions'"
        with psycopg.connect(live.config.database_url or "") as connection:
            found = connection.execute(watching).fetchone()
        return int(found[0]) if found else 0

    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        with process(live, sales_url) as first:
            await calling(live, dialogue_id, "query")
            first.kill()
        llmock.add(calls(("current_time", {})), Reply(text="Noon."))
        async with worker(live, toolbox=toolbox()):
            answer = await live.answer(dialogue_id, message_id, seconds=life.LEFT + 7)
        assert answer.content == "Noon."
        happened = live.replies(dialogue_id, message_id)
        assert [type(fact) for fact in happened] == [ReplyStarted, ReplyStarted, MessageAdded]
        tools = [f for f in live.facts(dialogue_id) if isinstance(f, FunctionCalled | FunctionReturned)]
        assert [(type(f).__name__, f.attempt) for f in tools] == [
            ("FunctionCalled", 1), ("FunctionCalled", 2), ("FunctionReturned", 2),
        ]  # fmt: skip
        async with asyncio.timeout(5):
            while await asyncio.to_thread(queries):  # noqa: ASYNC110 - it would go on for ten seconds
                await asyncio.sleep(0.1)

    asyncio.run(story())
