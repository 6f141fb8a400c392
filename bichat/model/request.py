"""What a model is asked, and what it says: plain values, the same for every provider."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct


class Named(Struct, frozen=True):
    """The function of a call, and its arguments: JSON, if the model did well."""

    name: str
    arguments: str


class ToolCall(Struct, frozen=True):
    """A function that the model wants to be called."""

    id: str
    function: Named
    type: str = "function"


class ChatMessage(Struct, frozen=True, omit_defaults=True):
    """One message as the model sees it; calls are the assistant's, what they returned is `tool`'s."""

    role: str
    content: str
    name: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""


class ChatRequest(Struct, frozen=True, omit_defaults=True):
    """One call to the model, whole; its `canonical` bytes are what the log's digest covers."""

    model: str
    messages: tuple[ChatMessage, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    tools: tuple[dict[str, Any], ...] = ()
    """The functions offered, each in the form in which the log describes it."""
    tool_choice: str = ""
    """"none": they may not be called any more."""


class Tokens(Struct, frozen=True):
    """Tokens of one call, as its server counted them."""

    prompt_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    completion_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0
    total_tokens: Annotated[int, Meta(ge=0, lt=2**31)] = 0


class Chunk(Struct, frozen=True):
    """Some words, or the end: only the last chunk has a `finish`, `calls`, and `usage` if the server told."""

    text: str = ""
    finish: str = ""
    usage: Tokens | None = None
    calls: tuple[ToolCall, ...] = ()


def canonical(request: ChatRequest) -> bytes:
    """The request as bytes that are the same whenever the request is."""
    return msgspec.json.encode(request)
