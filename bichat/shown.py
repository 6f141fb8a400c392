"""What the model is shown of a dialogue: the reading order, and the request rebuilt from the log.

The reading order is not the log's: an earlier answer stands right after its own question, wherever it
was appended, and what was said after the question being answered is left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from itertools import groupby, takewhile
from typing import Any, Protocol
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bichat import prompts
from bichat.errors import EventUnreadable
from bichat.events.dialogue import FunctionCalled, FunctionReturned, MessageAdded, ReplyStarted, TextErased
from bichat.events.envelope import Event, Fact
from bichat.events.function import FunctionDescribed, stream_of
from bichat.model import ChatMessage, ChatRequest, Named, ToolCall
from bichat.prompts import Log

ROUNDS = 8
"""Calls to the model in one attempt; in the last it has to answer."""

PAGE = 32
"""Messages read from the log at once."""

_SAID = ("MessageAdded",)
_SAID_OR_ERASED = ("MessageAdded", "TextErased")

Unit = tuple[MessageAdded, ...]
"""What is shown whole or not at all: a question with its answer, or a message of its own."""


class Place(Struct, frozen=True):
    """A question in its dialogue: what is read, and as of when."""

    dialogue_id: UUID
    question: int
    """The version of its event."""
    as_of: int
    """The version up to which the dialogue is looked at."""


def rebuild(log: Log, dialogue_id: UUID, question: int, started: ReplyStarted) -> ChatRequest:
    """The request that `started` says was made, out of the log as it stood then: the same bytes."""
    place = Place(dialogue_id, question, started.shown.as_of)
    [asked] = log.read(dialogue_id, after=question - 1, upto=question, limit=1, kinds=_SAID)
    return showing(log, asked.tenant_id, started, shown_messages(log, place, started.shown.messages))


def showing(log: Log, tenant_id: UUID, started: ReplyStarted, said: Iterable[MessageAdded]) -> ChatRequest:
    """The request that `started` says was made, of the messages that it showed.

    Raises `EventUnreadable` when the log has not what it names, and what the log raises.
    """
    shown = started.shown
    text = prompts.text_of(log, tenant_id, shown.prompt, shown.prompt_version)
    tools = functions(log, tenant_id, shown.functions)
    return request(started, (ChatMessage("system", text), *map(message, said)), tools)


def functions(log: Log, tenant_id: UUID, digests: Iterable[str]) -> tuple[dict[str, Any], ...]:
    """What the digests stood for when the tenant's models were offered them; raises `EventUnreadable`."""
    found = []
    for digest in digests:
        stream_id = stream_of(tenant_id, digest)
        described = [event.fact for event in log.read(stream_id, limit=1)]
        if not described or not isinstance(described[0], FunctionDescribed):
            raise EventUnreadable(
                kind="FunctionDescribed", version=1, stream=stream_id, reason="it is not there"
            )
        found.append(msgspec.json.decode(described[0].schema, type=dict[str, Any]))
    return tuple(found)


def shown_messages(log: Log, place: Place, number: int) -> list[MessageAdded]:
    """The `number` messages that end at the question, in the order in which the model saw them."""
    units = list[Unit]()
    for unit in reading(log, place, ()):
        if sum(map(len, units)) >= number:
            break
        units.append(unit)
    return in_order(units)


class Called(Protocol):
    """What calls the model: `ReplyStarted`, or the command that leads to it."""

    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def max_tokens(self) -> int | None: ...  # noqa: D102
    @property
    def temperature(self) -> float | None: ...  # noqa: D102
    @property
    def top_p(self) -> float | None: ...  # noqa: D102


def request(
    called: Called, messages: tuple[ChatMessage, ...], tools: tuple[dict[str, Any], ...] = ()
) -> ChatRequest:
    """The first call to the model, whole; `tools` are the functions offered."""
    return ChatRequest(called.model, messages, called.max_tokens, called.temperature, called.top_p, tools)


def following(request: ChatRequest, facts: Iterable[Fact]) -> ChatRequest:
    """The call to the model after the rounds that `facts` of one attempt tell of; its first was `request`.

    In the last round functions may not be called any more. They stay described, for there are servers that
    understand no earlier calls without.
    """
    told = list(facts)
    results = {fact.call_id: fact.result for fact in told if isinstance(fact, FunctionReturned)}
    calls = [fact for fact in told if isinstance(fact, FunctionCalled)]
    messages, rounds = list(request.messages), 0
    for _, group in groupby(calls, key=lambda call: call.round):
        made, rounds = list(group), rounds + 1
        tool_calls = tuple(ToolCall(call.call_id, Named(call.name, call.arguments or "")) for call in made)
        messages.append(ChatMessage("assistant", made[0].said or "", tool_calls=tool_calls))
        messages += [
            ChatMessage("tool", results.get(call.call_id) or "", tool_call_id=call.call_id) for call in made
        ]
    choice = "none" if request.tools and rounds >= ROUNDS - 1 else ""
    return replace(request, messages=tuple(messages), tool_choice=choice)


# --- the reading order ----------------------------------------------------------------------------


def reading(log: Log, place: Place, unanswered: Collection[UUID]) -> Iterator[Unit]:
    """Units from the question backwards to an erasure or the start, read from the log a page at a time.

    What was said before an erasure is not read, whatever keys there are: so the same is read at any time.
    """
    upto, answers = place.question, dict[UUID, MessageAdded]()
    later = _Later(log, place)
    while upto > 0:
        found = log.read(place.dialogue_id, upto=upto, limit=PAGE, desc=True, kinds=_SAID_OR_ERASED)
        page = _said(takewhile(lambda event: not isinstance(event.fact, TextErased), found))
        answers |= {said.answers.message_id: said for _, said in page if said.answers}
        asked = [said.message_id for version, said in page if said.asks and version != place.question]
        answers |= later.find({a for a in asked if a not in answers and a not in unanswered})
        for _, said in page:
            if not said.answers:
                answer = answers.pop(said.message_id, None)
                yield (said, answer) if answer else (said,)
        upto = page[-1][0] - 1 if len(page) == PAGE else 0


class _Later:
    """Answers to earlier questions that were given after the question.

    They stand right after it (the questions came quickly), or at the log's end (an old question was
    retried just now), so that is where they are looked for, from both ends.
    """

    def __init__(self, log: Log, place: Place) -> None:
        self._log, self._dialogue_id = log, place.dialogue_id
        self._low, self._high, self._from_end = place.question, place.as_of, False
        self._found: dict[UUID, MessageAdded] = {}

    def find(self, wanted: set[UUID]) -> dict[UUID, MessageAdded]:
        """The answers to `wanted`; reads no more pages than that takes."""
        while wanted - self._found.keys() and self._low < self._high:
            page = self._page(desc=self._from_end)
            self._found |= {said.answers.message_id: said for _, said in page if said.answers}
            if len(page) < PAGE:
                self._low = self._high
            elif self._from_end:
                self._high = page[-1][0] - 1
            else:
                self._low = page[-1][0]
            self._from_end = not self._from_end
        return {asked: said for asked, said in self._found.items() if asked in wanted}

    def _page(self, *, desc: bool) -> list[tuple[int, MessageAdded]]:
        bounds = {"after": self._low, "upto": self._high}
        return _said(self._log.read(self._dialogue_id, **bounds, limit=PAGE, desc=desc, kinds=_SAID))


def _said(events: Iterable[Event]) -> list[tuple[int, MessageAdded]]:
    return [(event.version, event.fact) for event in events if isinstance(event.fact, MessageAdded)]


def in_order(units: list[Unit]) -> list[MessageAdded]:
    """The messages of units that were read backwards."""
    return [said for unit in reversed(units) for said in unit]


def message(said: MessageAdded) -> ChatMessage:
    """A message as the model sees it."""
    # Providers refuse a whole request over a name with a space in it.
    name = said.name if said.name and re.fullmatch(r"[\w-]{1,64}", said.name, re.ASCII) else ""
    return ChatMessage(said.role, said.content or "", name)
