"""Chat with a model over OpenAI's protocol: one stream of words that ends well or says plainly why not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec
import openai
from msgspec.structs import replace

from bichat import metrics
from bichat.config import Config
from bichat.errors.model import (
    ModelCutOff,
    ModelError,
    ModelRefused,
    ModelUnavailable,
)
from bichat.model import wire
from bichat.model.calls import Calls
from bichat.model.request import ChatRequest, Chunk
from bichat.model.server import Server
from bichat.model.wire import Wire

LONGEST_ANSWER = 400_000
"""Characters; a model that goes on is cut there, with `finish` "length"."""

AFTER_FINISH = 2.0
"""Seconds that a finished answer waits for its usage."""


class Model:
    """One OpenAI-compatible server. Never tries again by itself: that is the worker's, in the log."""

    def __init__(self, config: Config, *, silence: float = 60, longest: float = 900) -> None:
        """`silence`: seconds without a chunk, `longest`: seconds of one answer, before giving up."""
        self._silence, self._longest, self._nobody = silence, longest, config.brings_model
        # OpenAI's newer models refuse the old name of the limit; many other servers know only that one.
        self._limit = "max_tokens" if config.openai_base_url else "max_completion_tokens"
        self._server = Server(config, silence)

    async def close(self) -> None:
        """Closes the connections."""
        await self._server.close()

    @metrics.calls
    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """The answer's words as they come, then one chunk with `finish`; raises `ModelError`."""
        if self._nobody:  # the client would send people's text to its default server
            raise ModelRefused(detail="there is none; OPENAI_API_KEY or OPENAI_BASE_URL bring one")
        deadline = asyncio.get_running_loop().time() + self._longest
        with self._server.plainly(ModelUnavailable, offered=bool(request.tools)):
            async with asyncio.timeout(self._silence):
                response = await self._open(request)
        heard, last, calls = 0, Chunk(), Calls()
        async with aclosing(response):
            async for chunk in self._chunks(response, deadline):
                text, last = wire.clean(chunk.text)[: LONGEST_ANSWER - heard], chunk.after(last)
                calls.take(chunk.calls)
                heard += len(text)
                if text:
                    yield Chunk(text)
                if heard >= LONGEST_ANSWER:
                    last = Chunk(finish="length", usage=last.usage)
                    break
        last = replace(last, calls=calls.whole())
        wire.expect_an_answer(heard, last)
        yield last

    async def _open(self, request: ChatRequest) -> openai.AsyncStream[object]:
        body = {name: value for name, value in msgspec.to_builtins(request).items() if value is not None}
        if "max_tokens" in body:
            body[self._limit] = body.pop("max_tokens")
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        # The client's plain `post`: its typed models would be built for every word, and checked for none.
        return await self._server.client.post(
            "/chat/completions", cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )

    async def _chunks(self, response: openai.AsyncStream[object], deadline: float) -> AsyncIterator[Wire]:
        """Every chunk, checked; once the answer has finished, a broken rest no longer matters."""
        clock, finished = asyncio.get_running_loop().time, False
        while True:
            patience = AFTER_FINISH if finished else self._silence
            try:
                with self._server.plainly(ModelCutOff):
                    async with asyncio.timeout_at(min(clock() + patience, deadline)):
                        chunk = await anext(response, None)
                    if chunk is None:
                        return
                    told = msgspec.convert(chunk, Wire)
            except ModelError:
                if finished:
                    return
                if clock() >= deadline:
                    raise ModelCutOff(detail=f"no end after {self._longest:g} s") from None
                raise
            finished = finished or bool(told.finish)
            yield told
