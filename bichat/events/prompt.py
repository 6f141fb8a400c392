"""The facts about a tenant's prompts, and the small state that decisions on one are made on.

Each prompt is a stream, so that its version is that of the text. What a company tells its assistant is no
person's text: it is not sealed, and stays when its author is forgotten.
"""

from __future__ import annotations

from hashlib import sha256
from typing import ClassVar
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct

from bichat.events.envelope import Event, Fact, Subject, fact

SYSTEM = "system"
"""The prompt that models are shown before every dialogue, as it is: no template."""

_NAMES = UUID("0b0f6c5e-8f0e-5c07-9a57-1d6a3d5f2c02")
"""Under which the ids of prompts' streams are made; final."""


def stream_of(tenant_id: UUID, name: str) -> UUID:
    """The stream of a tenant's prompt."""
    return uuid5(_NAMES, f"{tenant_id}/{name}")


@fact()
class PromptChanged(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """The prompt has another text from here on."""

    subject: ClassVar[Subject] = "prompt"

    name: str
    template: str


@fact()
class PromptRemoved(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """There is no such prompt any more; where one must be, the built-in one is used."""

    subject: ClassVar[Subject] = "prompt"

    name: str


class PromptState(Struct, frozen=True):
    """What decisions on a prompt need to know."""

    tenant_id: UUID | None = None
    there: bool = False
    digest: bytes = b""
    """SHA-256 of its text: the same text again changes nothing."""

    fold_version: ClassVar[int] = 1
    owner: ClassVar[str] = ""
    weight: ClassVar[int] = 0

    def after(self, event: Event) -> PromptState:
        """The state after `event`."""
        match event.fact:
            case PromptChanged(template=template):
                return PromptState(event.tenant_id, True, digest(template))
            case PromptRemoved():
                return PromptState(event.tenant_id)
        return self

    def frozen(self) -> bytes:
        """The state as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def thawed(cls, data: bytes) -> PromptState:
        """What `frozen` wrote."""
        return _frozen.decode(data)


def digest(template: str) -> bytes:
    """SHA-256 of a text."""
    return sha256(template.encode()).digest()


_frozen = msgspec.json.Decoder(PromptState)
UNWRITTEN = PromptState()
