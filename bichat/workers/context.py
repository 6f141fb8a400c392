"""Chooses what the model is shown: the prompt, then the newest history that fits, ending at the question."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from uuid import UUID

from msgspec import Struct

from bichat.errors.model import ContextTooLong, QuestionErased
from bichat.events.dialogue import MessageAdded, Shown
from bichat.model import ChatMessage
from bichat.prompts import BUILT_IN, Log, Prompt
from bichat.shown import Place, Unit, in_order, message, reading
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


def build(
    log: Log, place: Place, unanswered: Collection[UUID], budget: int, prompt: Prompt = BUILT_IN
) -> Context:
    """The newest units that fit `budget` tokens with the prompt; the question is always among them.

    `unanswered` are the questions that have no answer as of then: nobody looks for theirs. Raises
    `QuestionErased` when the question has no text any more.
    """
    first = ChatMessage("system", prompt.text)
    tokens, units = cost([first]), list[Unit]()
    for unit in reading(log, place, unanswered):
        if any(said.content is None for said in unit):
            break  # its key is gone: from here back, as before an erasure that the log tells of
        needed = cost(map(message, unit))
        if units and tokens + needed > budget:
            break
        units.append(unit)
        tokens += needed
    if not units:
        raise QuestionErased()
    said = in_order(units)
    shown = Shown(as_of=place.as_of, messages=len(said), prompt=prompt.name, prompt_version=prompt.version)
    return Context(units[0][0], (first, *map(message, said)), shown, tokens, budget)


def cost(messages: Iterable[ChatMessage]) -> int:
    """About how many tokens messages take."""
    return sum(OVERHEAD + count(message.content) + count(message.name) for message in messages)
