"""Chooses what the model is shown: the prompt, then the newest history that fits, ending at the question."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from msgspec import Struct

from bichat.errors.model import ContextTooLong, QuestionErased
from bichat.events.dialogue import MessageAdded, Shown
from bichat.model import ChatMessage
from bichat.shown import PROMPT, PROMPTS, Log, Place, Unit, in_order, message, reading
from bichat.tokens import count

OVERHEAD = 4
"""Tokens that the chat format adds to a message."""


class Context(Struct, frozen=True):
    """What the model is shown, and how it is recorded."""

    question: MessageAdded
    messages: tuple[ChatMessage, ...]
    shown: Shown
    tokens: int
    budget: int

    def expect_fit(self) -> None:
        """Raises `ContextTooLong` when prompt and question alone are over the budget."""
        if self.tokens > self.budget:
            raise ContextTooLong(tokens=self.tokens, budget=self.budget)


def build(log: Log, place: Place, unanswered: Collection[UUID], budget: int) -> Context:
    """The newest units that fit `budget` tokens with the prompt; the question is always among them.

    `unanswered` are the questions that have no answer as of then: nobody looks for theirs. Raises
    `QuestionErased` when the question has no text any more.
    """
    prompt = ChatMessage("system", PROMPTS[PROMPT])
    tokens, units = _cost([prompt]), list[Unit]()
    for unit in reading(log, place, unanswered):
        if any(said.content is None for said in unit):
            break  # its key is gone: from here back, as before an erasure that the log tells of
        cost = _cost(map(message, unit))
        if units and tokens + cost > budget:
            break
        units.append(unit)
        tokens += cost
    if not units:
        raise QuestionErased()
    said = in_order(units)
    shown = Shown(as_of=place.as_of, messages=len(said), prompt=PROMPT[0], prompt_version=PROMPT[1])
    return Context(units[0][0], (prompt, *map(message, said)), shown, tokens, budget)


def _cost(messages: Iterable[ChatMessage]) -> int:
    return sum(OVERHEAD + count(message.content) + count(message.name) for message in messages)
