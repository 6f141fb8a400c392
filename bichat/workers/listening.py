"""Listening to the model for one attempt: its words, how it ended, and what it cost, whatever happens."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

from bichat import tracing
from bichat.errors.model import ModelError, ModelRefused, ModelUnavailable
from bichat.events.dialogue import Usage
from bichat.model import ChatRequest, Chunk, Model
from bichat.tokens import count
from bichat.workers.speaker import Speaker


class NotWanted(Exception):
    """Nobody waits for this reply any more: it was cancelled, or its question has ended otherwise."""


class Listening:
    """One call to the model; `interrupt` stops it from outside, and what was heard by then is kept."""

    def __init__(self) -> None:
        self._words: list[str] = []
        self._end = Chunk()
        self._task: asyncio.Task[None] | None = None
        self._reason: NotWanted | ModelError | None = None
        self._reached = False

    @property
    def text(self) -> str:
        """What was heard so far."""
        return "".join(self._words)

    @property
    def finish_reason(self) -> str:
        """Why the answer ended there; empty before it has."""
        return self._end.finish

    def usage(self, prompt_tokens: int) -> Usage:
        """As the server counted; else estimated, with `prompt_tokens`, unless the model was never reached."""
        told = self._end.usage
        if told:
            return Usage(
                prompt_tokens=told.prompt_tokens,
                completion_tokens=told.completion_tokens,
                total_tokens=told.total_tokens,
            )
        if not self._reached:
            return Usage()
        said = count(self.text)
        total = prompt_tokens + said
        return Usage(prompt_tokens=prompt_tokens, completion_tokens=said, total_tokens=total)

    def interrupt(self, reason: NotWanted | ModelError) -> None:
        """Ends the call with `reason`; too late once the model has finished."""
        self._reason = self._reason or reason
        if self._task:
            self._task.cancel()

    @property
    def interrupted(self) -> bool:
        """Whether somebody did."""
        return self._reason is not None

    async def hear(self, model: Model, request: ChatRequest, speaker: Speaker) -> None:
        """Returns when the answer is whole; raises `ModelError` or `NotWanted`."""
        if self._reason:
            raise self._reason
        self._task = asyncio.create_task(self._hear(model, request, speaker))
        try:
            await self._task
        except asyncio.CancelledError:
            if self._reason:
                raise self._reason from None
            raise

    async def _hear(self, model: Model, request: ChatRequest, speaker: Speaker) -> None:
        self._reached = True
        with tracing.span(f"chat {request.model}", "client") as span:
            try:
                async with aclosing(model.stream(request)) as chunks:
                    async for chunk in chunks:
                        if chunk.text:
                            self._words.append(chunk.text)
                            speaker.add(chunk.text)
                        self._end = chunk
            except (ModelUnavailable, ModelRefused):
                self._reached = bool(self._words)
                raise
            finally:
                if span:
                    span.set_attributes(_call(request, self._end))


def _call(request: ChatRequest, end: Chunk) -> dict[str, Any]:
    """A call as OpenTelemetry names its parts, without a word of it."""
    told = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",  # the protocol, whoever speaks it
        "gen_ai.request.model": request.model,
        "gen_ai.request.max_tokens": request.max_tokens,
        "gen_ai.request.temperature": request.temperature,
        "gen_ai.request.top_p": request.top_p,
        "gen_ai.response.finish_reasons": [end.finish] if end.finish else None,
        "gen_ai.usage.input_tokens": end.usage and end.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": end.usage and end.usage.completion_tokens,
    }
    return {name: value for name, value in told.items() if value is not None}
