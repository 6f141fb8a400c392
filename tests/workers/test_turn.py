"""One turn, while others look at it."""

from __future__ import annotations

import asyncio
import threading
from uuid import UUID

import pytest
from llmock.pytest_plugin import LLMock

from bichat.deltas import Deltas
from bichat.doorbell import Doorbell
from bichat.events.dialogue import ReplyStarted
from bichat.events.dialogue_state import DialogueState
from bichat.events.ledger import Ledger, Stream
from bichat.limits import Limits
from bichat.model import Model
from bichat.projections.replies import Claim
from bichat.workers.kit import Kit
from bichat.workers.prompts import Prompts
from bichat.workers.toolbox import Toolbox
from bichat.workers.turn import Turn
from tests.examples import TENANT
from tests.workers.world import world


def test_a_reply_that_starts_while_the_log_is_looked_at_is_still_wanted(
    database_url: str, redis_url: str, llmock: LLMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    llmock.reply(" ".join(["word"] * 40)).pace(50)
    doorbell = Doorbell(redis_url)

    async def story() -> None:
        with world(database_url, redis_url, llmock.base_url(), doorbell) as live:
            dialogue_id, message_id = await live.ask()
            claim = Claim(
                message_id=message_id, dialogue_id=dialogue_id, tenant_id=TENANT, user_id="anna", version=2,
                status="waiting", attempt=0, tries=0, cancel_requested=False, off_peak=False,
            )  # fmt: skip
            deltas, model = Deltas(redis_url), Model(live.config, silence=5)
            kit = Kit(
                executor=live.executor, ledger=live.ledger, model=model, deltas=deltas, toolbox=Toolbox(()),
                prompts=Prompts(live.ledger),
                models=("first",), budget=1000, quiet=lambda: True, limits=Limits(live.config),
            )  # fmt: skip
            turn = Turn(kit, claim, "test")
            load, looked, started = Ledger.load, threading.Event(), threading.Event()

            def slow(ledger: Ledger, stream_id: UUID) -> Stream[DialogueState]:
                stream = load(ledger, stream_id)
                if not looked.is_set():
                    looked.set()
                    started.wait(10)
                return stream

            monkeypatch.setattr(Ledger, "load", slow)
            looking = asyncio.create_task(turn.wanted())
            await asyncio.to_thread(looked.wait, 10)
            answering = asyncio.create_task(turn.run())
            await live.until(dialogue_id, message_id, ReplyStarted)
            await asyncio.sleep(0.1)
            started.set()
            assert await looking
            await answering
            await live.answer(dialogue_id, message_id)
            await deltas.close()
            await model.close()

    asyncio.run(story())
    doorbell.close()
