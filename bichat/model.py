"""Chat with a model over OpenAI's protocol: one stream of words that ends well or says plainly why not."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import openai
from msgspec import Meta, Struct

from bichat import metrics
from bichat.config import Config
from bichat.errors.model import (
    ModelCutOff,
    ModelError,
    ModelNonsense,
    ModelRefused,
    ModelSilent,
    ModelUnavailable,
)

if TYPE_CHECKING:
    import httpx2  # openai's

LONGEST_ANSWER = 400_000
"""Characters; a model that goes on is cut there, with `finish` "length"."""

LONGEST_LINE, LONGEST_RESPONSE = 4_000_000, 64_000_000
"""Bytes; the client would collect a line without end until the memory is full."""

AFTER_FINISH = 2.0
"""Seconds that a finished answer waits for its usage."""


class ChatMessage(Struct, frozen=True, omit_defaults=True):
    """One message as the model sees it."""

    role: str
    content: str
    name: str = ""


class ChatRequest(Struct, frozen=True, omit_defaults=True):
    """One call to the model, whole; its `canonical` bytes are what the log's digest covers."""

    model: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None


class Tokens(Struct, frozen=True):
    """Tokens of one call, as its server counted them."""

    prompt_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    completion_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    total_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0


class Chunk(Struct, frozen=True):
    """Some words, or the end: only the last chunk has a `finish`, and `usage` if the server told."""

    text: str = ""
    finish: str = ""
    usage: Tokens | None = None


def canonical(request: ChatRequest) -> bytes:
    """The request as bytes that are the same whenever the request is."""
    return msgspec.json.encode(request)


class Model:
    """One OpenAI-compatible server. Never tries again by itself: that is the worker's, in the log."""

    def __init__(self, config: Config, *, silence: float = 60, longest: float = 900) -> None:
        """`silence`: seconds without a chunk, `longest`: seconds of one answer, before giving up."""
        self._secret, base_url = config.openai_api_key, config.openai_base_url
        self._silence, self._longest, self._nobody = silence, longest, config.brings_model
        # OpenAI's newer models refuse the old name of the limit; many other servers know only that one.
        self._limit = "max_tokens" if base_url else "max_completion_tokens"
        self._client = openai.AsyncOpenAI(
            api_key=self._secret or "none",
            base_url=base_url,
            max_retries=0,
            timeout=openai.Timeout(None, connect=10.0),  # silence is measured from chunk to chunk, below
            # People's text goes to the server that was named, not where that one points.
            http_client=openai.DefaultAsyncHttpxClient(
                follow_redirects=False, event_hooks={"response": [_bound]}
            ),
        )

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.close()

    @metrics.calls
    async def stream(self, request: ChatRequest) -> AsyncGenerator[Chunk, None]:
        """The answer's words as they come, then one chunk with `finish`; raises `ModelError`."""
        if self._nobody:  # the client would send people's text to its default server
            raise ModelRefused(detail="there is none; OPENAI_API_KEY or OPENAI_BASE_URL bring one")
        deadline = asyncio.get_running_loop().time() + self._longest
        with self._plainly(ModelUnavailable):
            async with asyncio.timeout(self._silence):
                response = await self._open(request)
        heard, last = 0, Chunk()
        async with aclosing(response):
            async for wire in self._chunks(response, deadline):
                text, last = _clean(wire.text)[: LONGEST_ANSWER - heard], wire.after(last)
                heard += len(text)
                if text:
                    yield Chunk(text)
                if heard >= LONGEST_ANSWER:
                    last = Chunk(finish="length", usage=last.usage)
                    break
        _expect_an_answer(heard, last)
        yield last

    async def _open(self, request: ChatRequest) -> openai.AsyncStream[object]:
        body = {name: value for name, value in msgspec.to_builtins(request).items() if value is not None}
        if "max_tokens" in body:
            body[self._limit] = body.pop("max_tokens")
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        # The client's plain `post`: its typed models would be built for every word, and checked for none.
        return await self._client.post(
            "/chat/completions", cast_to=object, body=body, stream=True, stream_cls=openai.AsyncStream[object]
        )

    async def _chunks(self, response: openai.AsyncStream[object], deadline: float) -> AsyncIterator[_Wire]:
        """Every chunk, checked; once the answer has finished, a broken rest no longer matters."""
        clock, finished = asyncio.get_running_loop().time, False
        while True:
            patience = AFTER_FINISH if finished else self._silence
            try:
                with self._plainly(ModelCutOff):
                    async with asyncio.timeout_at(min(clock() + patience, deadline)):
                        chunk = await anext(response, None)
                    if chunk is None:
                        return
                    wire = msgspec.convert(chunk, _Wire)
            except ModelError:
                if finished:
                    return
                if clock() >= deadline:
                    raise ModelCutOff(detail=f"no end after {self._longest:g} s") from None
                raise
            finished = finished or bool(wire.finish)
            yield wire

    @contextmanager
    def _plainly(self, broken: type[ModelError]) -> Iterator[None]:
        """Turns what the client raises into errors of ours, without a secret or a trace in them."""
        try:
            yield
        except ModelError:
            raise
        except openai.APIStatusError as error:
            wait = _retry_after(error.response.headers.get("retry-after", ""))
            raise _refusal(error.status_code, self._told(_message(error)), wait) from None
        except TimeoutError:
            raise ModelSilent(seconds=f"{self._silence:g}") from None
        except openai.APIConnectionError as error:
            cause = error.__cause__ or error
            raise broken(detail=self._told(str(cause) or type(cause).__name__)) from None
        except openai.APIError as error:  # an error object where a chunk should be
            raise _refusal(_status_in(error.body), self._told(_message(error)), None) from None
        except Exception as error:  # bytes can be wrong in more ways than the client has names for
            raise ModelNonsense(detail=type(error).__name__) from None

    def _told(self, said: str) -> str:
        """What the server said, fit for a person's eyes: one short line, no key."""
        if self._secret and len(self._secret) > 7:  # a made-up key like "local" is a word as well
            said = said.replace(self._secret, "***")
        said = re.sub(r"\b(sk-|key-|Bearer )[\w.*-]{6,}", "***", " ".join(_clean(said).split()))
        return said if len(said) <= 300 else said[:299] + "…"


# --- the wire ------------------------------------------------------------------------------------


async def _bound(response: httpx2.Response) -> None:
    """What is read of the response ends at the limits."""
    whole = response.aiter_bytes

    async def bounded(chunk_size: int | None = None) -> AsyncGenerator[bytes, None]:
        line = total = 0
        async for part in whole(chunk_size):
            total += len(part)
            line = len(part) - end if (end := part.rfind(b"\n") + 1) else line + len(part)
            if line > LONGEST_LINE or total > LONGEST_RESPONSE:
                raise ModelNonsense(detail="it sends too much")
            yield part

    response.aiter_bytes = bounded  # type: ignore[method-assign]  # after unpacking: a few bytes may hold many


class _Delta(Struct):
    content: str | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None
    index: int = 0


class _Wire(Struct):
    """A chunk as servers send it, as far as it matters; anything else in its place is nonsense."""

    choices: list[_Choice] | None = None
    usage: Tokens | None = None

    @property
    def _choice(self) -> _Choice:
        return next((choice for choice in self.choices or () if choice.index == 0), _Choice())

    @property
    def text(self) -> str:
        """The words in it."""
        return (self._choice.delta and self._choice.delta.content) or ""

    @property
    def finish(self) -> str:
        """Why the answer ends here, if it does."""
        return _clean(self._choice.finish_reason or "")[:40]

    def after(self, last: Chunk) -> Chunk:
        """The end as known with this chunk."""
        return Chunk(finish=self.finish or last.finish, usage=self.usage or last.usage)


def _expect_an_answer(heard: int, last: Chunk) -> None:
    if not last.finish:
        raise ModelCutOff(detail="it ended without a finish_reason")
    if not heard:
        raise ModelNonsense(detail=f"it finished ({last.finish}) without a word")


def _message(error: openai.APIError) -> str:
    body = error.body if isinstance(error.body, dict) else {}
    code = body.get("code")
    return f"{body.get('message') or ''}" + (f" ({code})" if code and isinstance(code, str) else "")


def _refusal(status: int, told: str, retry_after: float | None) -> ModelError:
    if 300 <= status < 400:
        told = "it redirects, which is not followed; OPENAI_BASE_URL must be the address itself"
    detail = f"HTTP {status}: {told}" if told else f"HTTP {status}"
    overloaded = status in (408, 409, 425, 429) or status >= 500
    if overloaded and "insufficient_quota" not in told:
        return ModelUnavailable(detail=detail, retry_after=retry_after)
    return ModelRefused(detail=detail)


def _status_in(body: object) -> int:
    """The status that an error object in mid-stream carries; 500 when it says none."""
    code = str(body.get("code")) if isinstance(body, dict) else ""
    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500


def _retry_after(value: str) -> float | None:
    """Seconds, out of a header in seconds or an HTTP date; None when it is neither."""
    try:
        if value[:1].isdigit():
            wait = float(value)
        else:
            wait = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):
        return None
    return min(max(wait, 0.0), 86_400.0)


_CONTROL = dict.fromkeys([*range(9), 11, 12, *range(14, 32), *range(127, 160)])


def _clean(text: str) -> str:
    """Without control characters (Postgres stores no NUL, terminals obey ESC) and lone surrogates."""
    text = text.translate(_CONTROL)
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
