"""How servers that speak OpenAI's protocol say it: chunks checked, errors made ours, sizes bounded."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import openai
from msgspec import Struct

from bichat.errors.model import (
    FunctionsRefused,
    ModelCutOff,
    ModelError,
    ModelNonsense,
    ModelRefused,
    ModelUnavailable,
)
from bichat.model.request import Chunk, Tokens

if TYPE_CHECKING:
    import httpx2  # openai's

LONGEST_LINE, LONGEST_RESPONSE = 4_000_000, 64_000_000
"""Bytes; the client would collect a line without end until the memory is full."""


async def bound(response: httpx2.Response) -> None:
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


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class CallPart(Struct):
    """A piece of a call."""

    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Delta(Struct):
    content: str | None = None
    tool_calls: list[CallPart] | None = None


class _Choice(Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None
    index: int = 0


class Wire(Struct):
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
    def calls(self) -> Sequence[CallPart]:
        """The pieces of calls in it."""
        return (self._choice.delta and self._choice.delta.tool_calls) or ()

    @property
    def finish(self) -> str:
        """Why the answer ends here, if it does."""
        return clean(self._choice.finish_reason or "")[:40]

    def after(self, last: Chunk) -> Chunk:
        """The end as known with this chunk."""
        return Chunk(finish=self.finish or last.finish, usage=self.usage or last.usage)


def expect_an_answer(heard: int, last: Chunk) -> None:
    """Raises `ModelCutOff` or `ModelNonsense` when what was heard is no answer."""
    if not last.finish:
        raise ModelCutOff(detail="it ended without a finish_reason")
    if not heard and not last.calls:
        raise ModelNonsense(detail=f"it finished ({last.finish}) without a word")


def message(error: openai.APIError) -> str:
    """What the server says went wrong."""
    body = error.body if isinstance(error.body, dict) else {}
    code = body.get("code")
    return f"{body.get('message') or ''}" + (f" ({code})" if code and isinstance(code, str) else "")


def refusal(status: int, told: str, retry_after: float | None, *, offered: bool = False) -> ModelError:
    """The error that a status stands for; whether it is worth another try, perhaps without functions."""
    if 300 <= status < 400:
        told = "it redirects, which is not followed; OPENAI_BASE_URL must be the address itself"
    detail = f"HTTP {status}: {told}" if told else f"HTTP {status}"
    if status == 404 and "model" not in told.lower():
        detail += "; OPENAI_BASE_URL: is it the address with its /v1?"
    overloaded = status in (408, 409, 425, 429) or status >= 500
    if overloaded and "insufficient_quota" not in told:
        return ModelUnavailable(detail=detail, retry_after=retry_after)
    if offered and _ABOUT_FUNCTIONS.search(told) and not _ABOUT_LENGTH.search(told):
        return FunctionsRefused(detail=detail)
    return ModelRefused(detail=detail)


_FUNCTIONS = r"\b(?:tools?|functions?)\b|\b(?:tool|function)[ _-]?(?:call(?:s|ing)?|choice|use)\b"
_CANNOT = (
    r"\b(?:not|no|never)\b[\w ]{0,20}\b(?:support\w*|enabled|available|implemented|capable)"
    r"|\bno endpoints found that support"
    r"|doesn't support|\bunsupported|\bunrecogni[sz]ed|\bunknown (?:parameter|argument|field)|requires --"
)
_ABOUT_FUNCTIONS = re.compile(
    f"(?:{_CANNOT}).{{0,40}}?(?:{_FUNCTIONS})|(?:{_FUNCTIONS}).{{0,40}}?(?:{_CANNOT})", re.IGNORECASE
)
"""What servers say whose model cannot call any; there is no code for it that they agree on."""
_ABOUT_LENGTH = re.compile(r"context (?:length|window|size)|maximum context|reduce the length", re.IGNORECASE)
"""Of too long a request some say how much of it the functions are."""


def status_in(body: object) -> int:
    """The status that an error object in mid-stream carries; 500 when it says none."""
    code = str(body.get("code")) if isinstance(body, dict) else ""
    return int(code) if re.fullmatch("[45][0-9][0-9]", code) else 500


def retry_after(value: str) -> float | None:
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


def clean(text: str) -> str:
    """Without control characters (Postgres stores no NUL, terminals obey ESC) and lone surrogates."""
    text = text.translate(_CONTROL)
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
