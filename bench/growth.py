"""P7: what a turn costs in a long dialogue: with 1,000 and 100,000 messages, beside one of ten.

Three things, in dialogues of each length by turns: a question is added and the newest page is read, both over
HTTP, and what a worker needs before it calls the model is taken from the log: the deciding state, and what
was said last. Pages have ten messages and the model is shown ten everywhere: only the length differs.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Callable
from typing import TypeVar
from uuid import UUID

import httpx
from uuid_utils.compat import uuid7

from bench.line import Line, Rounds
from bench.place import NO_MODEL, Place
from bench.stack import TENANT, stack
from bench.writer import opened
from bichat import shown
from bichat.commands.command import Command
from bichat.commands.dialogue import AddMessage, NewMessage, StartDialogue
from bichat.commands.execute import Executor
from bichat.commands.reply import CompleteReply, StartReply
from bichat.events.dialogue import Asked, Shown, Usage
from bichat.events.envelope import Actor, Metadata
from bichat.workers import context
from bichat.workers.context import Context

FEW, SIZES, TARGET = 10, (1_000, 100_000), 1.5
ROUNDS, TIMES = 6, 10
LARGE = 10**6
RECENT, AT_ONCE, NOTES = 1_000, 80, 100
"""Messages that are questions and answers; turns that the writer is given together; notes in a command."""
MODEL, USER = "gpt-4o-mini", "u"
QUESTION = "Which region sold most of the new line in the second quarter, and by how much?"
ANSWER = (
    "The north sold most of it, a fifth more than the south, and that mainly in the very last month. " * 2
)
ADD, PAGE, CONTEXT = "add a message", "newest page", "next answer's context"
T = TypeVar("T")


class Talk:
    """Dialogues of one person, whose questions are asked and answered here."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor

    async def grow(self, messages: int) -> UUID:
        """A new dialogue of so many messages: the last ones questions and answers, those before notes."""
        dialogue_id, turns = uuid7(), min(messages, RECENT) // 2
        await self._execute(StartDialogue(dialogue_id=dialogue_id, user_id=USER, messages=()))
        for first in range(0, messages - 2 * turns, NOTES):
            number = min(NOTES, messages - 2 * turns - first)
            notes = tuple(
                NewMessage(message_id=uuid7(), role="system", content=ANSWER) for _ in range(number)
            )
            await self._execute(AddMessage(dialogue_id=dialogue_id, messages=notes))
        for first in range(0, turns, AT_ONCE):
            some = [command for _ in range(min(AT_ONCE, turns - first)) for command in turn(dialogue_id)]
            await asyncio.gather(*map(self._execute, some))
        return dialogue_id

    async def answer(self, dialogue_id: UUID, asked: UUID) -> None:
        """Answers a question."""
        for command in answered(dialogue_id, asked):
            await self._execute(command)

    async def _execute(self, command: Command) -> None:
        actor = (
            Actor("user", USER) if isinstance(command, StartDialogue | AddMessage) else Actor("worker", "w")
        )
        await self.executor.execute(command, Metadata(tenant_id=TENANT, actor=actor, command_id=uuid7()))


def turn(dialogue_id: UUID) -> list[Command]:
    """A question and its answer."""
    asked = NewMessage(message_id=uuid7(), role="user", content=QUESTION, asks=Asked())
    return [AddMessage(dialogue_id=dialogue_id, messages=(asked,)), *answered(dialogue_id, asked.message_id)]


def answered(dialogue_id: UUID, asked: UUID) -> list[Command]:
    """What a worker records of an answer."""
    what = Shown(as_of=1, messages=FEW, prompt="chat", prompt_version=1)
    return [
        StartReply(
            dialogue_id=dialogue_id, message_id=asked, attempt=1, model=MODEL, shown=what,
            request_digest="0" * 64,
        ),
        CompleteReply(
            dialogue_id=dialogue_id, message_id=asked, attempt=1, answer_id=uuid7(), content=ANSWER,
            model=MODEL, finish_reason="stop", usage=Usage(),
        ),
    ]  # fmt: skip


class Length:
    """Dialogues of one length, and how long each work took in them, in milliseconds."""

    def __init__(self, size: int, talk: Talk, client: httpx.Client) -> None:
        self.size, self.took = size, defaultdict[str, list[float]](list)
        self._talk, self._client, self._ledger = talk, client, talk.executor.ledger
        self._id = UUID(int=0)

    def grow(self) -> None:
        """A new dialogue."""
        self._id = asyncio.run(self._talk.grow(self.size))
        self._path = f"/v1/dialogues/{self._id}"
        self._visible(self._ledger.load(self._id).head.version)

    def turn(self, budget: int) -> Context:
        """One question, from its way in to its answer; the model is shown `budget` tokens."""
        asked = self._timed(ADD, lambda: self._post(self._path)).json()
        found = self._timed(CONTEXT, lambda: self._context(asked["version"], budget))
        self._timed("the deciding state alone, cold", lambda: self._ledger.load(self._id))
        asyncio.run(self._talk.answer(self._id, UUID(asked["message_id"])))
        self._visible(asked["version"] + 2)
        self._timed(PAGE, lambda: self._page(FEW))
        self._timed("newest page of 50", lambda: self._page(50))
        return found

    def _timed(self, work: str, call: Callable[[], T]) -> T:
        began = time.perf_counter()
        result = call()
        self.took[work].append(1000 * (time.perf_counter() - began))
        return result

    def _post(self, path: str) -> httpx.Response:
        return self._client.post(f"{path}/messages", json={"content": QUESTION}).raise_for_status()

    def _page(self, limit: int) -> httpx.Response:
        page: dict[str, str | int] = {"order": "desc", "limit": limit}
        return self._client.get(f"{self._path}/messages", params=page).raise_for_status()

    def _context(self, question: int, budget: int) -> Context:
        stream = self._ledger.load(self._id)
        place = shown.Place(self._id, question, stream.head.version)
        return context.build(self._ledger, place, stream.state.unanswered, budget)

    def _visible(self, version: int) -> None:
        while self._client.get(self._path, params={"min_version": version}).status_code != 200:
            time.sleep(0.1)


def measure(place: Place) -> Line:
    """The worst of six: three works, each at two lengths."""
    with (
        place.database() as url,
        stack(url, place.redis_url, NO_MODEL, place.scratch / "growth") as made,
        opened(url) as executor,
    ):
        made.up(workers=0)
        with httpx.Client(base_url=made.url, headers=made.headers(USER), timeout=30) as client:
            few, *lengths = (Length(size, Talk(executor), client) for size in (FEW, *SIZES))
            few.grow()
            budget = few.turn(LARGE).tokens
            began = time.monotonic()
            for one in lengths:
                one.grow()
            grown = time.monotonic() - began
            place.say(f"{max(SIZES):,} messages after {grown:.0f} s")
            for _ in range(ROUNDS):
                few.grow()  # it is to stay short
                for one in (few, *lengths) * TIMES:
                    one.turn(budget)
    return line(few, lengths, grown)


def line(few: Length, lengths: list[Length], grown: float) -> Line:
    short = {work: statistics.median(took) for work, took in few.took.items()}
    ratios = {
        (work, one.size): statistics.median(one.took[work]) / short[work] for one in lengths for work in short
    }
    worst = max(((work, size) for work in (ADD, PAGE, CONTEXT) for size in SIZES), key=ratios.__getitem__)
    work, size = worst
    long = Rounds(next(one for one in lengths if one.size == size).took[work])
    return Line(
        id="P7", work=f"a turn in a long dialogue; worst: {work} at {size:,} messages", unit="ms",
        ours=long.median, yardstick=short[work], ratio=ratios[worst], target="≤ 1.5 x itself at 10",
        met=ratios[worst] <= TARGET,
        notes=[
            f"{work}: {short[work]:.2f} ms at {FEW}, "
            + ", ".join(
                f"{statistics.median(one.took[work]):.2f} ms ({ratios[work, one.size]:.2f} x) at {one.size:,}"
                for one in lengths
            )
            for work in short
        ]
        + [f"grown to {' and '.join(f'{size:,}' for size in SIZES)} messages in {grown:.0f} s"],
    )  # fmt: skip
