"""The rounds of one attempt: the model is heard, what it calls is called, until it has answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial, reduce
from operator import add

from bichat.errors.model import ModelError, ModelNonsense, RoundsExhausted
from bichat.events.dialogue import Usage
from bichat.events.envelope import Fact
from bichat.model import ChatRequest, Model
from bichat.shown import ROUNDS, following
from bichat.workers.calling import Calling, NotWanted
from bichat.workers.listening import Listening
from bichat.workers.speaker import Speaker

BETWEEN = "\n\n"
"""Said between the words of two rounds."""


class Rounds:
    """All that happens in an attempt; `interrupt` stops it from outside, and what was heard is kept."""

    def __init__(self, model: Model, calling: Calling) -> None:
        self._model, self._calling = model, calling
        self._heard: list[Listening] = []
        self._said: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._reason: NotWanted | ModelError | None = None

    @property
    def text(self) -> str:
        """What was said so far, in all rounds."""
        return "".join(self._said)

    @property
    def finish_reason(self) -> str:
        """Why the last round ended there."""
        return self._heard[-1].finish_reason if self._heard else ""

    def usage(self) -> Usage:
        """Of every call to the model."""
        return reduce(add, (heard.usage() for heard in self._heard), Usage())

    def interrupt(self, reason: NotWanted | ModelError) -> None:
        """Ends the attempt with `reason`; too late once the model has answered."""
        self._reason = self._reason or reason
        if self._task:
            self._task.cancel()

    @property
    def interrupted(self) -> bool:
        """Whether somebody did."""
        return self._reason is not None

    async def answer(
        self, attempt: int, request: ChatRequest, offered: Sequence[str], speaker: Speaker
    ) -> None:
        """Returns when the answer is whole; raises `ModelError` or `NotWanted`."""
        if self._reason:
            raise self._reason
        self._task = asyncio.create_task(self._answer(attempt, request, offered, speaker))
        try:
            await self._task
        except asyncio.CancelledError:
            if self._reason:
                raise self._reason from None
            raise

    async def _answer(
        self, attempt: int, request: ChatRequest, offered: Sequence[str], speaker: Speaker
    ) -> None:
        facts: list[Fact] = []
        for number in range(1, ROUNDS + 1):
            heard = Listening(following(request, facts))
            self._heard.append(heard)
            await heard.hear(self._model, partial(self._say, heard, speaker))
            if not heard.calls or (heard.text and number == ROUNDS):
                return
            if not offered:
                raise ModelNonsense(detail="it calls functions that it was not offered")
            if number < ROUNDS:
                facts += await self._calling.round(attempt, number, heard, offered)
                speaker.after(self._calling.version)
        raise RoundsExhausted(rounds=ROUNDS)

    def _say(self, heard: Listening, speaker: Speaker, words: str) -> None:
        if self._said and heard.text == words:  # the first of a further round
            words = BETWEEN + words
        self._said.append(words)
        speaker.add(words)
