"""The facts of a dialogue."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

from msgspec import Struct

from bichat.events.envelope import Fact, Private, fact

Role = Literal["user", "assistant", "system", "tool"]


# --- facts ----------------------------------------------------------------------------------------


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of one call to the model."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            total_tokens=self.total_tokens + other.total_tokens,
        )


class Asked(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a question asks of the model; not given means the installation's default."""

    model: str = ""
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    schedule: Literal["now", "off_peak"] = "now"


class AnswerTo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which question and attempt an assistant's message answers, and what it took."""

    message_id: UUID
    attempt: int
    model: str
    finish_reason: str = ""
    usage: Usage = Usage()


class Shown(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the model was shown, exactly enough to build the request again from the log.

    The newest `messages` messages of the reading order that ends at the question, in the dialogue
    as it stood at version `as_of`; `prompt` at `prompt_version` before them; `functions` are the
    digests of the schemas offered.
    """

    as_of: int
    messages: int
    prompt: str
    prompt_version: int
    functions: tuple[str, ...] = ()


@fact()
class DialogueStarted(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A person opened a dialogue; it is theirs."""

    user_id: str
    label: Private = ""


@fact()
class MessageAdded(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A message was said; `asks` makes it a question, `answers` an answer."""

    message_id: UUID
    role: Role
    content: Private
    name: Private = ""
    asks: Asked | None = None
    answers: AnswerTo | None = None


@fact()
class DialogueRenamed(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """The dialogue has another label; the envelope's actor says whether a person gave it."""

    label: Private


@fact()
class DialogueLabelled(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A model gave the dialogue, which had none, a label; `usage` is what that took."""

    label: Private
    model: str
    usage: Usage = Usage()


@fact()
class DialogueDeleted(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """The dialogue is gone for its user, until restored."""


@fact()
class DialogueRestored(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A deleted dialogue is back."""


@fact()
class DialogueArchived(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """The dialogue was put away and takes no commands."""


@fact()
class DialogueUnarchived(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """An archived dialogue is in use again."""


@fact()
class TextErased(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """Its person was forgotten: no text from before this is shown any more, nor can it be opened."""


@fact()
class ReplyStarted(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A worker is about to call the model; an earlier attempt at this question is given up."""

    message_id: UUID
    attempt: int
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    shown: Shown
    request_digest: str
    """Keyed with the person's key over the canonical request, hexadecimal."""


@fact()
class FunctionCalled(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """The model wants a function to be called, in a round of a reply; rounds count from 1."""

    id: UUID
    message_id: UUID
    """The question's."""
    attempt: int
    round: int
    call_id: str
    """As the model names it."""
    name: str
    arguments: Private
    """As the model wrote them: JSON, if it did well."""
    said: Private = ""
    """What it said in this round before its calls; with the first of them."""


@fact()
class FunctionReturned(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A call has come back; the model is shown `result` in the next round."""

    id: UUID
    message_id: UUID
    attempt: int
    call_id: str
    name: str
    result: Private
    """JSON."""
    failed: bool = False


@fact()
class ReplyFailed(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """An attempt (0: none was under way) ended without an answer; unless `final`, the question waits on."""

    message_id: UUID
    attempt: int
    code: str
    detail: Private = ""
    partial: Private = ""
    usage: Usage = Usage()
    final: bool = True


@fact()
class ReplyCancelRequested(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A person wants the running reply to stop; its worker will say when it has."""

    message_id: UUID


@fact()
class ReplyCancelled(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A reply ended because a person wanted it to; `attempt` is 0 if none ever started."""

    message_id: UUID
    attempt: int
    partial: Private = ""
    usage: Usage = Usage()
    account_due: bool = False
    """Ended while it ran: its worker has still to say what it had said and cost."""


@fact()
class ReplyAccounted(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """What a reply had said and cost when its dialogue was deleted under it."""

    message_id: UUID
    attempt: int
    partial: Private = ""
    usage: Usage = Usage()


@fact()
class ReplyRequeued(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A failed or cancelled question waits for a reply again."""

    message_id: UUID
