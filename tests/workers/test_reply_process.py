"""Reply workers as processes of their own, killed, stopped, and outlived by the questions they held."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from llmock.pytest_plugin import LLMock
from msgspec.structs import replace
from psycopg_pool.base import AttemptWithBackoff

from bichat import wiring
from bichat.config import Config, environment
from bichat.doorbell import Doorbell
from bichat.embedded import owned
from bichat.embedded.part import Part
from bichat.events.dialogue import MessageAdded, ReplyFailed, ReplyStarted
from bichat.workers import life, reply
from tests.examples import MASTER_KEY
from tests.workers.world import World, streaming, worker, world

WORDS = " ".join(f"word{n}" for n in range(40))


@contextmanager
def process(live: World) -> Iterator[subprocess.Popen[bytes]]:
    """`bichat worker`, killed in the end."""
    running = subprocess.Popen(
        [sys.executable, "-m", "bichat", "worker"], env=environment(live.config, os.environ)
    )
    try:
        yield running
    finally:
        running.kill()
        running.wait()


def test_kill_9_in_mid_stream_costs_an_attempt_and_nothing_else(live: World, llmock: LLMock) -> None:
    llmock.reply(WORDS, times=None).pace(100)

    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        with process(live) as first:
            await streaming(live, dialogue_id, message_id)
            first.kill()
        llmock.pace(5)
        async with worker(live):
            # Long before its lease has run out: the server knows that its session is gone.
            answer = await live.answer(dialogue_id, message_id, seconds=life.LEFT + 7)
        assert answer.content == WORDS
        assert answer.answers
        assert answer.answers.attempt == 2
        happened = live.replies(dialogue_id, message_id)
        assert [type(fact) for fact in happened] == [ReplyStarted, ReplyStarted, MessageAdded]

    asyncio.run(story())


def test_sigterm_hands_back_within_ten_seconds(live: World, llmock: LLMock) -> None:
    llmock.reply(" ".join([WORDS] * 10), times=None).pace(100)

    async def story() -> None:
        dialogue_id, message_id = await live.ask()
        with process(live) as first:
            await streaming(live, dialogue_id, message_id)
            first.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(first.wait, 10) == 0
        failed = live.replies(dialogue_id, message_id)[-1]
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, failed.final) == ("worker_stopped", False)
        llmock.pace(0)
        async with worker(live):
            await live.answer(dialogue_id, message_id, seconds=5)

    asyncio.run(story())


def test_workers_killed_again_and_again_lose_and_double_nothing(live: World, llmock: LLMock) -> None:
    """Twenty dialogues of two questions."""
    llmock.reply(WORDS, times=None).pace(10)
    seed = random.randrange(10**6)
    logging.getLogger(__name__).warning("seed %d", seed)
    rand = random.Random(seed)

    async def kill_now_and_then(until: asyncio.Event) -> None:
        for _ in range(3):
            with process(live) as victim:
                await asyncio.sleep(1.5 + rand.random())
                victim.kill()
        until.set()

    async def story() -> None:
        asked = await asyncio.gather(*(live.ask(f"the first question about region {n}") for n in range(20)))
        second = [
            (await live.ask_more(d, f"the second question about region {n}"))[0]
            for n, (d, _) in enumerate(asked)
        ]
        killed = asyncio.Event()
        killing = asyncio.create_task(kill_now_and_then(killed))
        async with worker(live, concurrency=2):
            await killing
        async with worker(live):
            for (dialogue_id, first), then in zip(asked, second, strict=True):
                for message_id in (first, then):
                    await live.answer(dialogue_id, message_id, seconds=60)
        for (dialogue_id, first), then in zip(asked, second, strict=True):
            answers = [f for f in live.facts(dialogue_id) if isinstance(f, MessageAdded) and f.answers]
            assert [f.answers.message_id for f in answers if f.answers] == [first, then]
            assert [f.content for f in answers] == [WORDS, WORDS]

    asyncio.run(story())


def test_a_silent_model_does_not_cost_the_lease(
    live: World, llmock: LLMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "LEASE", 1.0)
    monkeypatch.setattr(reply, "RENEWED", 0.3)
    llmock.reply(WORDS).slow_first_token(3)

    async def story() -> None:
        async with worker(live), worker(live):
            dialogue_id, message_id = await live.ask()
            answer = await live.answer(dialogue_id, message_id)
        assert answer.answers
        assert answer.answers.attempt == 1

    asyncio.run(story())


def test_a_worker_that_lost_its_lease_stops(
    live: World, llmock: LLMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reply, "RENEWED", 0.2)
    llmock.reply(WORDS).pace(200)

    async def story() -> None:
        async with worker(live):
            dialogue_id, message_id = await live.ask()
            await streaming(live, dialogue_id, message_id)
            with psycopg.connect(live.config.database_url or "", autocommit=True) as connection:
                connection.execute("update bichat.reply_leases set holder = 'another'")
            failed = await live.until(dialogue_id, message_id, ReplyFailed, seconds=3)
        assert isinstance(failed, ReplyFailed)
        assert (failed.code, failed.final) == ("worker_stopped", False)

    asyncio.run(story())


def test_a_postgres_that_is_killed_and_comes_back_costs_no_answer(
    tmp_path: Path, redis_url: str, llmock: LLMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As after half a minute without it: a pool left to itself waits twice as long after each try.
    monkeypatch.setattr(AttemptWithBackoff, "INITIAL_DELAY", 32.0)
    llmock.reply(WORDS, times=None).pace(30)

    async def story(live: World, postgres: Part) -> None:
        async with worker(live):
            asked = [await live.ask(f"{n}?") for n in range(4)]
            await streaming(live, *asked[-1])
            os.kill(postgres.pid or 0, signal.SIGKILL)
            await asyncio.sleep(1.5)  # the answers end while there is no log
            postgres.start()
            late = await live.ask("And now?")
            assert (await live.answer(*late, seconds=12)).content == WORDS
            for dialogue_id, message_id in asked:
                assert (await live.answer(dialogue_id, message_id)).content == WORDS
                happened = live.replies(dialogue_id, message_id)
                assert [type(fact) for fact in happened].count(MessageAdded) == 1

    config = Config(bichat_data_dir=tmp_path, redis_url=redis_url, openai_base_url=llmock.base_url())
    with owned(config) as servers:
        url = servers.config.database_url or ""
        wiring.migrate(replace(servers.config, bichat_master_key=MASTER_KEY))
        doorbell = Doorbell(redis_url)
        with world(url, redis_url, llmock.base_url(), doorbell) as live:
            asyncio.run(story(live, servers.parts[0]))
        doorbell.close()
