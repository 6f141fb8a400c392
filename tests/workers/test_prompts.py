"""Replies are made with the tenant's newest system prompt, and the log tells for ever which one that was."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

import pytest
from llmock.pytest_plugin import LLMock

from bichat.commands.prompt import ChangePrompt, RemovePrompt
from bichat.deltas import Deltas
from bichat.errors import EventUnreadable
from bichat.events.dialogue import ReplyStarted
from bichat.events.envelope import Event
from bichat.model import canonical
from bichat.prompts import BUILT_IN, Prompt, text_of
from bichat.shown import rebuild
from bichat.workers.prompts import KEPT, Prompts
from tests.examples import OTHER_TENANT, TENANT, by, opened, writing
from tests.workers.world import World, worker


def changed(text: str, tenant: UUID = TENANT) -> ChangePrompt:
    return ChangePrompt(tenant_id=tenant, name="system", template=text)


def started(live: World, dialogue_id: UUID) -> ReplyStarted:
    return next(fact for fact in live.facts(dialogue_id) if isinstance(fact, ReplyStarted))


def digest(live: World, dialogue_id: UUID) -> str:
    """That of the request as the log gives it now."""
    request = rebuild(live.ledger, dialogue_id, 2, started(live, dialogue_id))
    return live.ledger.keys.person(TENANT, "anna").digest("request", canonical(request)).hex()


def test_each_reply_is_made_with_the_newest_prompt_and_records_it(live: World, llmock: LLMock) -> None:
    llmock.reply("Well.")

    async def answered(expected: str) -> UUID:
        dialogue_id, message_id = await live.ask()
        await live.answer(dialogue_id, message_id)
        assert llmock.last_request.body["messages"][0] == {"role": "system", "content": expected}
        return dialogue_id

    async def story() -> None:
        async with worker(live):
            dialogues = [await answered(BUILT_IN.text)]
            for text in ("Be {{ brief }}.", "Be kind."):
                await live.tell(changed(text))
                await asyncio.sleep(0.5)
                dialogues.append(await answered(text))
            await live.tell(RemovePrompt(tenant_id=TENANT, name="system"))
            await asyncio.sleep(0.5)
            dialogues.append(await answered(BUILT_IN.text))
            await live.tell(changed("Once more."))
        shown = [started(live, one).shown for one in dialogues]
        assert [(one.prompt, one.prompt_version) for one in shown] == [
            ("built-in", 1), ("system", 1), ("system", 2), ("built-in", 1),
        ]  # fmt: skip
        for one in dialogues:
            assert digest(live, one) == started(live, one).request_digest, "whatever became of it since"

    asyncio.run(story())


class Counted:
    """The real log, and how often it is read."""

    def __init__(self, live: World) -> None:
        self._ledger, self.reads = live.ledger, 0

    def read(self, stream_id: UUID, **asked: object) -> list[Event]:
        self.reads += 1
        return self._ledger.read(stream_id, **asked)  # type: ignore[arg-type]


def test_a_prompt_is_read_once_until_it_rings(live: World, redis_url: str) -> None:
    log, now = Counted(live), time.monotonic()
    prompts = Prompts(log, lambda: now)

    async def story() -> None:
        deltas = Deltas(redis_url)
        hearing = asyncio.create_task(prompts.listen(deltas))
        await live.tell(changed("One."))
        await asyncio.sleep(0.5)
        assert [prompts.system(TENANT) for _ in range(9)] == [Prompt("system", 1, "One.")] * 9
        assert prompts.system(OTHER_TENANT) == BUILT_IN
        assert log.reads == 2
        await live.tell(changed("Two."))
        rang = time.monotonic()
        while prompts.system(TENANT).text != "Two.":
            assert time.monotonic() - rang < 1
            await asyncio.sleep(0.01)
        hearing.cancel()
        await deltas.close()

    asyncio.run(story())


def test_without_a_ring_it_is_read_again_after_some_seconds(database_url: str) -> None:
    now = 0.0
    with opened(database_url) as ledger, writing(ledger) as executor:
        prompts = Prompts(ledger, lambda: now)
        assert prompts.system(TENANT) == BUILT_IN
        asyncio.run(executor.execute(changed("One."), by()))
        assert prompts.system(TENANT) == BUILT_IN
        now = KEPT
        assert prompts.system(TENANT).text == "One."


def test_what_changes_while_it_is_read_is_read_again(database_url: str) -> None:
    class Slow:
        def read(self, stream_id: UUID, **asked: object) -> list[Event]:
            found = ledger.read(stream_id, **asked)  # type: ignore[arg-type]
            prompts.drop()
            return found

    with opened(database_url) as ledger, writing(ledger) as executor:
        prompts = Prompts(Slow())
        assert prompts.system(TENANT) == BUILT_IN
        asyncio.run(executor.execute(changed("One."), by()))
        assert prompts.system(TENANT).text == "One."


def test_a_version_that_never_was_is_said(database_url: str) -> None:
    with opened(database_url) as ledger, writing(ledger) as executor:
        asyncio.run(executor.execute(changed("One."), by()))
        asyncio.run(executor.execute(RemovePrompt(tenant_id=TENANT, name="system"), by()))
        assert text_of(ledger, TENANT, "system", 1) == "One."
        for tenant, version in ((TENANT, 2), (TENANT, 3), (OTHER_TENANT, 1)):
            with pytest.raises(EventUnreadable):
                text_of(ledger, tenant, "system", version)
