"""A small bichat without HTTP: a log, its writer, the read models and reply workers, on real servers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from bichat.commands.command import Command
from bichat.commands.dialogue import AddMessage
from bichat.commands.execute import Executor
from bichat.config import Config
from bichat.deltas import Deltas, Said
from bichat.doorbell import Doorbell
from bichat.events.dialogue import (
    Asked,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
)
from bichat.events.envelope import Fact
from bichat.events.feed import Feed
from bichat.events.ledger import Ledger
from bichat.model import Model
from bichat.workers import project
from bichat.workers.reply import ReplyWorker
from bichat.workers.toolbox import Toolbox
from tests.examples import MASTER_KEY, by, opened, question, start


class World(Struct, frozen=True):
    """What a story works with."""

    config: Config
    ledger: Ledger
    executor: Executor

    async def tell(self, command: Command) -> None:
        """Executes a command of the dialogue's owner."""
        await self.executor.execute(command, by())

    async def ask(self, content: str = "How much?", asks: Asked | None = None) -> tuple[UUID, UUID]:
        """Opens a dialogue with one question; returns both ids."""
        asked = replace(question(content), asks=asks or Asked())
        command = start(None, asked)
        await self.tell(command)
        return command.dialogue_id, asked.message_id

    async def ask_more(self, dialogue_id: UUID, *contents: str) -> list[UUID]:
        """Asks in an open dialogue, one message each."""
        asked = [question(content) for content in contents]
        for one in asked:
            await self.tell(AddMessage(dialogue_id=dialogue_id, messages=(one,)))
        return [one.message_id for one in asked]

    def facts(self, dialogue_id: UUID) -> list[Fact]:
        """Everything that happened in a dialogue."""
        return [event.fact for event in self.ledger.read(dialogue_id)]

    def replies(self, dialogue_id: UUID, message_id: UUID) -> list[Fact]:
        """What happened to one question."""
        kinds = (ReplyStarted, ReplyFailed, ReplyCancelled, ReplyAccounted, ReplyRequeued)
        return [
            fact
            for fact in self.facts(dialogue_id)
            if (isinstance(fact, kinds) and fact.message_id == message_id)
            or (isinstance(fact, MessageAdded) and fact.answers and fact.answers.message_id == message_id)
        ]

    async def until(
        self, dialogue_id: UUID, message_id: UUID, *kinds: type[Fact], seconds: float = 30
    ) -> Fact:
        """Waits for the newest of a question's facts to be of one of `kinds`."""
        async with asyncio.timeout(seconds):
            while True:
                happened = self.replies(dialogue_id, message_id)
                if happened and isinstance(happened[-1], kinds):
                    return happened[-1]
                await asyncio.sleep(0.02)

    async def answer(self, dialogue_id: UUID, message_id: UUID, seconds: float = 30) -> MessageAdded:
        """Waits for the answer; fails at once when there will be none."""
        async with asyncio.timeout(seconds):
            while True:
                for fact in self.replies(dialogue_id, message_id)[-1:]:
                    assert not (isinstance(fact, ReplyFailed) and fact.final), fact
                    if isinstance(fact, MessageAdded):
                        return fact
                await asyncio.sleep(0.02)


@contextmanager
def world(
    database_url: str, redis_url: str, model_url: str, doorbell: Doorbell, **settings: object
) -> Iterator[World]:
    """A log, a writer and the projector."""
    values: dict[str, object] = {
        "database_url": database_url, "redis_url": redis_url, "openai_api_key": "k",
        "openai_base_url": model_url, "bichat_model": "first", "bichat_master_key": MASTER_KEY,
        "bichat_auto_label": False, "bichat_functions": False,
    }  # fmt: skip
    config = Config(**values | settings)  # type: ignore[arg-type]
    stop = threading.Event()
    with opened(database_url) as ledger:
        executor = Executor(ledger, on_commit=doorbell.ring)
        executor.start()
        projector = threading.Thread(
            target=project.run, args=(database_url, Feed(ledger.keys), doorbell, stop), daemon=True
        )
        projector.start()
        try:
            yield World(config, ledger, executor)
        finally:
            stop.set()
            projector.join()
            executor.close()


@asynccontextmanager
async def worker(
    world: World,
    *,
    silence: float = 5,
    concurrency: int = 8,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    toolbox: Toolbox | None = None,
) -> AsyncIterator[asyncio.Event]:
    """A reply worker in this loop; gives its stop event and stops it in the end."""
    stop = asyncio.Event()
    deltas, model = Deltas(world.config.redis_url or ""), Model(world.config, silence=silence)
    replying = ReplyWorker(
        world.config, world.ledger, world.executor, model, deltas,
        toolbox=toolbox, concurrency=concurrency, clock=clock,
    )  # fmt: skip
    task = asyncio.create_task(replying.run(stop))
    try:
        yield stop
    finally:
        stop.set()
        await task
        await deltas.close()
        await model.close()


async def streaming(live: World, dialogue_id: UUID, message_id: UUID, words: int = 3) -> None:
    """Waits until the model is in the middle of its answer."""
    deltas = Deltas(live.config.redis_url or "")
    async with asyncio.timeout(20), deltas.follow(dialogue_id) as follower:
        heard = ""
        while len(heard.split()) < words:
            said = await follower.next(1)
            if isinstance(said, Said) and said.message_id == message_id:
                heard += said.text
    await deltas.close()
