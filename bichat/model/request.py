"""What a model is asked, and what it says: plain values, the same for every provider."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct


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
