"""Labels: made by the model after an answer, never over a person's, and never in anybody's way."""

from __future__ import annotations

import asyncio
import logging
import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as some
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail, Reply, SlowFirstToken
from msgspec.structs import replace

from bichat.commands.dialogue import EraseText, RenameDialogue
from bichat.events.dialogue import DialogueLabelled, DialogueRenamed, MessageAdded, ReplyFailed
from bichat.workers.labels import LONGEST, READ, TRIES, cleaned
from tests.examples import by, question, start
from tests.workers.world import World, streaming, worker


@pytest.fixture
def settings() -> dict[str, object]:
    return {"bichat_auto_label": True}


async def ask(live: World, content: str = "How much?", label: str = "") -> tuple[UUID, UUID]:
    """Opens a dialogue with one question."""
    command = replace(start(None, question(content)), label=label)
    await live.tell(command)
    return command.dialogue_id, command.messages[0].message_id


def labels(live: World, dialogue_id: UUID) -> list[str | None]:
    kinds = (DialogueLabelled, DialogueRenamed)
    return [fact.label for fact in live.facts(dialogue_id) if isinstance(fact, kinds)]


async def labelled(live: World, dialogue_id: UUID) -> DialogueLabelled:
    """Waits for a label."""
    async with asyncio.timeout(10):
        while True:
            for fact in live.facts(dialogue_id):
                if isinstance(fact, DialogueLabelled):
                    return fact
            await asyncio.sleep(0.02)


def test_the_first_answer_brings_a_label_and_the_next_no_other(live: World, llmock: LLMock) -> None:
    for said in ("The answer.", '**"Sales in May"**\n', "Another answer."):
        llmock.reply(said)

    async def story() -> None:
        async with worker(live):
            dialogue_id, asked = await ask(live, "How much? " + "x" * 5000)
            await live.answer(dialogue_id, asked)
            label = await labelled(live, dialogue_id)
            (again,) = await live.ask_more(dialogue_id, "And in June?")
            await live.answer(dialogue_id, again)
        assert labels(live, dialogue_id) == ["Sales in May"]
        assert (label.model, label.usage.completion_tokens > 0) == ("first", True)
        (event,) = (e for e in live.ledger.read(dialogue_id) if isinstance(e.fact, DialogueLabelled))
        assert (event.actor.kind, event.cause and event.cause.stream_id) == ("worker", dialogue_id)
        assert len(llmock.requests) == 3
        body = llmock.requests[1].body
        assert body["max_tokens"] <= 40
        read = body["messages"][-1]["content"]
        assert read.startswith("How much? xx")
        assert read.endswith("\n\nThe answer.")
        assert len(read) == READ + len("\n\nThe answer.")

    asyncio.run(story())


@pytest.mark.parametrize("off", ["by its setting", "by a person"])
def test_nobody_asks_for_a_label_that_is_not_wanted(live: World, llmock: LLMock, off: str) -> None:
    llmock.reply("The answer.", times=None)

    async def story(live: World) -> None:
        async with worker(live):
            asked = await ask(live, label="" if off == "by its setting" else "Mine")
            await live.answer(*asked)
        assert labels(live, asked[0]) == []
        assert len(llmock.requests) == 1

    unwanted = replace(live, config=replace(live.config, bichat_auto_label=False))
    asyncio.run(story(unwanted if off == "by its setting" else live))


def test_what_a_person_says_meanwhile_wins(live: World, llmock: LLMock) -> None:
    llmock.add(Reply("The answer."), Reply("The model's own label"))

    async def story() -> None:
        async with worker(live):
            dialogue_id, asked = await ask(live)
            await live.answer(dialogue_id, asked)
            async with asyncio.timeout(10):
                while len(llmock.requests) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            await live.tell(RenameDialogue(dialogue_id=dialogue_id, label=""))  # none is a choice too
        assert labels(live, dialogue_id) == [""]

    llmock.pace(5)
    asyncio.run(story())


@pytest.mark.parametrize("trouble", [Fail(500), Reply("\n"), Reply('  "**"  ')])
def test_what_goes_wrong_is_tried_again_after_the_next_answer(
    live: World, llmock: LLMock, trouble: Fail | Reply, caplog: pytest.LogCaptureFixture
) -> None:
    llmock.reply(" ".join(["word"] * 10)).pace(20)

    async def story() -> None:
        async with worker(live):
            dialogue_id, asked = await ask(live)
            await streaming(live, dialogue_id, asked)
            llmock.add(trouble)
            await live.answer(dialogue_id, asked)
            async with asyncio.timeout(10):
                while len(llmock.requests) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            llmock.pace(0).add(Reply("The next."), Reply("Sales"))
            (again,) = await live.ask_more(dialogue_id, "More?")
            await live.answer(dialogue_id, again)
            await labelled(live, dialogue_id)
        assert labels(live, dialogue_id) == ["Sales"]
        assert not any(isinstance(fact, ReplyFailed) for fact in live.facts(dialogue_id))
        assert len(llmock.requests) == 4

    with caplog.at_level(logging.INFO, logger="bichat.workers.labels"):
        asyncio.run(story())
    told = [record for record in caplog.records if record.name == "bichat.workers.labels"]
    assert [(r.levelname, r.exc_info) for r in told] == [("INFO", None)] * (trouble == Fail(500))


def test_who_finds_no_label_is_not_asked_for_ever(live: World, llmock: LLMock) -> None:
    for _ in range(TRIES):
        llmock.add(Reply("An answer."), Reply('""'))
    llmock.reply("An answer.", times=None)

    async def story() -> None:
        async with worker(live, concurrency=1):  # so that each label is over when the next answer comes
            dialogue_id, asked = await ask(live)
            await live.answer(dialogue_id, asked)
            for n in range(TRIES + 2):
                (again,) = await live.ask_more(dialogue_id, f"More? {n}")
                await live.answer(dialogue_id, again)
        assert labels(live, dialogue_id) == []
        assert len(llmock.requests) == TRIES + 3 + TRIES

    asyncio.run(story())


def test_a_slow_label_holds_back_neither_the_next_question_nor_the_worker(
    live: World, llmock: LLMock
) -> None:
    llmock.reply(" ".join(["word"] * 10), times=None).pace(20)

    async def story() -> None:
        async with worker(live, silence=60):
            dialogue_id, asked = await ask(live)
            await streaming(live, dialogue_id, asked)
            llmock.add(SlowFirstToken(30))
            await live.answer(dialogue_id, asked)
            await asyncio.sleep(0.5)  # the label has been asked for
            began = time.monotonic()
            (again,) = await live.ask_more(dialogue_id, "More?")
            await live.answer(dialogue_id, again)
            await labelled(live, dialogue_id)  # by the next answer
            assert time.monotonic() - began < 4
            stopping = time.monotonic()
        assert time.monotonic() - stopping < 5
        assert len(labels(live, dialogue_id)) == 1

    asyncio.run(story())


def test_a_label_is_in_the_place_of_its_reply(live: World, llmock: LLMock) -> None:
    llmock.reply("The answer.", times=None)

    async def story() -> None:
        async with worker(live, concurrency=1):
            for one in [await ask(live), await ask(live)]:
                await live.answer(*one)
                await labelled(live, one[0])
        answered, named, *_ = prompts = [call.body["messages"][0] for call in llmock.requests]
        assert prompts == [answered, named, answered, named]
        assert answered != named

    asyncio.run(story())


def test_whose_text_was_erased_gets_no_label(live: World, llmock: LLMock) -> None:
    llmock.reply("The answer.", times=None)

    async def story() -> None:
        dialogue_id, _ = await ask(live)
        await live.executor.execute(EraseText(dialogue_id=dialogue_id), by("olga"))
        async with worker(live):
            (again,) = await live.ask_more(dialogue_id, "Who am I?")
            await live.answer(dialogue_id, again)
        assert labels(live, dialogue_id) == []
        assert len(llmock.requests) == 1

    asyncio.run(story())


def test_a_label_that_was_asked_for_before_an_erasure_comes_too_late(live: World, llmock: LLMock) -> None:
    async def story() -> None:
        async with worker(live):
            dialogue_id, asked = await ask(live)
            llmock.add(Reply("The answer."), Reply("About a secret, a secret, a secret"))
            await live.answer(dialogue_id, asked)
            async with asyncio.timeout(10):
                while len(llmock.requests) < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            await live.executor.execute(EraseText(dialogue_id=dialogue_id), by("olga"))
        assert labels(live, dialogue_id) == []
        assert any(isinstance(fact, MessageAdded) and fact.answers for fact in live.facts(dialogue_id))

    llmock.pace(10)
    asyncio.run(story())


@pytest.mark.parametrize(
    ("said", "label"),
    [
        ("Sales in May", "Sales in May"),
        ('"Sales in May."', "Sales in May"),
        ("\n\n## **Umsatz im Mai**\nIch hoffe, das hilft!", "Umsatz im Mai"),
        ("« Les ventes »", "Les ventes"),
        ("„Umsätze“", "Umsätze"),
        ("<think>Hm, a title.\nSales?</think>\nSales", "Sales"),
        ("<think>Hm, a tit", ""),
        ("Sales\tin\x00 \x1b[2JMay", "Sales in [2JMay"),
        ("", ""),
        ('"" ** \n\n ##', ""),
        ("五月的销售额" * 20, ("五月的销售额" * 20)[:79] + "…"),
        ("word " * 40, "word " * 15 + "word…"),
    ],
)
def test_a_label_is_cleaned(said: str, label: str) -> None:
    assert cleaned(said) == label


@given(some.text())
def test_whatever_a_model_says_a_label_is_one_short_line(said: str) -> None:
    label = cleaned(said)
    assert len(label) <= LONGEST
    assert label.isprintable()
    assert label == label.strip()
