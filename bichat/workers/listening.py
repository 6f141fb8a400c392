"""Listening to the model for one round: its words, its calls, how it ended, and what it cost, in any case."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import msgspec

from bichat import tracing
from bichat.errors.model import FunctionsRefused, ModelRefused, ModelUnavailable
from bichat.events.dialogue import Usage
from bichat.model import ChatRequest, Chunk, Model, ToolCall
from bichat.tokens import count
from bichat.workers.context import cost


class Listening:
    """One call to the model; what was heard is kept, however it ends."""

    def __init__(self, request: ChatRequest) -> None:
        self._request = request
        self._words: list[str] = []
        self._end = Chunk()
        self._reached = False

    @property
    def text(self) -> str:
        """What was heard so far."""
        return "".join(self._words)

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The functions that it wants to be called."""
        return self._end.calls

    @property
    def finish_reason(self) -> str:
        """Why it ended there; empty before it has."""
        return self._end.finish

    def usage(self) -> Usage:
        """As the server counted; else estimated, unless the model was never reached."""
        told = self._end.usage
        if told:
            return Usage(
                prompt_tokens=told.prompt_tokens,
                completion_tokens=told.completion_tokens,
                total_tokens=told.total_tokens,
            )
        if not self._reached:
            return Usage()
        shown, said = tokens(self._request), count(self.text)
        said += sum(count(call.function.arguments) for call in self.calls)
        return Usage(prompt_tokens=shown, completion_tokens=said, total_tokens=shown + said)

    async def hear(self, model: Model, say: Callable[[str], None]) -> None:
        """Returns when the answer is whole, or the calls are; raises `ModelError`."""
        self._reached = True
        with tracing.span(f"chat {self._request.model}", "client") as span:
            try:
                async with aclosing(model.stream(self._request)) as chunks:
                    async for chunk in chunks:
                        if chunk.text:
                            self._words.append(chunk.text)
                            say(chunk.text)
                        self._end = chunk
            except (ModelUnavailable, ModelRefused, FunctionsRefused):
                self._reached = bool(self._words)
                raise
            finally:
                if span:
                    span.set_attributes(_call(self._request, self._end))


def tokens(request: ChatRequest) -> int:
    """About how many the model reads."""
    shown = [
        msgspec.json.encode(message.tool_calls).decode() for message in request.messages if message.tool_calls
    ]
    shown += [msgspec.json.encode(request.tools).decode()] if request.tools else []
    return cost(request.messages) + sum(map(count, shown))


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
