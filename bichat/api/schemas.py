"""What goes in and out over HTTP, as structs; unknown fields are refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from msgspec import UNSET, Meta, Struct, UnsetType

from bichat.events.dialogue import Role
from bichat.events.dialogue_state import QuestionStatus

# `(?!\n)$` is the very end in Python and in ECMAScript; `$` alone also matches before a last newline.
TEXT = r"^(?=[\s\S]*\S)[^\x00-\x08\x0B\x0C\x0E-\x1F\x7F-\x9F]+$"
LINE = r"^[^\x00-\x1F\x7F-\x9F]*(?!\n)$"
MODEL = r"^[\x21-\x7E]+(?!\n)$"

REASONS = {
    TEXT: "must not be blank nor contain control characters but tab and line ends",
    LINE: "must be one line without control characters",
    MODEL: "must be printable ASCII without spaces",
}
"""What a person is told when a text does not match."""

Text = Annotated[str, Meta(min_length=1, pattern=TEXT)]
Label = Annotated[str, Meta(max_length=255, pattern=LINE)]
Name = Annotated[str, Meta(min_length=1, max_length=128, pattern=LINE)]
ModelName = Annotated[str, Meta(min_length=1, max_length=128, pattern=MODEL)]
MaxTokens = Annotated[int, Meta(ge=1, le=1_000_000)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
TopP = Annotated[float, Meta(ge=0, le=1)]
Time = Annotated[datetime, Meta(tz=True)]


# --- in: `omit_defaults` makes the canonical form of a request, so null and not given are the same ---


class Settings(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """What a question may ask of the model; not given means the installation's default."""

    model: ModelName | None = None
    max_tokens: MaxTokens | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None


class NewDialogue(Settings, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A dialogue and its first question."""

    message: Text
    label: Label | None = None
    schedule: Literal["now", "off_peak"] = "now"


class GivenMessage(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """One of several messages added at once."""

    role: Literal["user", "system"]
    content: Text
    name: Name | None = None


class NewMessages(Settings, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A question as `content`, or several `messages` of which the last asks."""

    content: Text | UnsetType = UNSET
    name: Name | None = None
    messages: Annotated[list[GivenMessage], Meta(min_length=1, max_length=100)] | UnsetType = UNSET
    schedule: Literal["now", "off_peak"] = "now"


class NewLabel(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The dialogue's new label; an empty one takes it away."""

    label: Label


# --- out --------------------------------------------------------------------------------------------


class Accepted(Struct, frozen=True, kw_only=True):
    """A question is in the log and will be answered."""

    dialogue_id: UUID
    message_id: UUID
    version: int
    position: int


class Changed(Struct, frozen=True, kw_only=True):
    """A command is in the log, or had nothing to change."""

    dialogue_id: UUID
    version: int
    position: int


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens that an answer took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Message(Struct, frozen=True, kw_only=True):
    """One message; `content` and `name` are null once its person was forgotten, `status` is a question's."""

    id: UUID
    seq: int
    role: Role
    content: str | None
    at: Time
    name: str | UnsetType | None = UNSET
    reply_to: UUID | UnsetType = UNSET
    model: str | UnsetType = UNSET
    finish_reason: str | UnsetType = UNSET
    usage: Usage | UnsetType = UNSET
    status: QuestionStatus | UnsetType = UNSET
    call_id: str | UnsetType = UNSET
    """Of a function: the model called `name` with `arguments`, or it returned `content`."""
    arguments: str | UnsetType | None = UNSET
    failed: bool | UnsetType = UNSET


class Header(Struct, frozen=True, kw_only=True):
    """A dialogue without its messages but the last; `status` is that of its newest question."""

    id: UUID
    tenant_id: UUID
    user_id: str
    label: str | None
    state: Literal["active", "archived", "deleted"]
    version: int
    created_at: Time
    updated_at: Time
    message_count: int
    status: QuestionStatus | UnsetType = UNSET
    last_message: Message | None


class Dialogue(Header, frozen=True, kw_only=True):
    """A dialogue with its newest 50 messages, oldest first."""

    messages: list[Message]


class Dialogues(Struct, frozen=True, kw_only=True):
    """A page of dialogues, last updated first; `next` goes on after it, `total` counts all pages."""

    data: list[Header]
    next: str | None
    total: int | UnsetType = UNSET


class Messages(Struct, frozen=True, kw_only=True):
    """A page of messages; `next` goes on after it."""

    data: list[Message]
    next: str | None
