"""The facts of a dialogue, and the small state that decisions are made on."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import immutables
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bichat.events.envelope import Event, Fact, Private, fact

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


# --- the deciding state: no text, small at any length --------------------------------------------

Lifecycle = Literal["none", "active", "archived", "deleted"]
QuestionStatus = Literal["waiting", "running", "answered", "failed", "cancelled"]


class Question(Struct, frozen=True, array_like=True):
    """A question without an answer."""

    version: int
    """Of its MessageAdded."""
    status: QuestionStatus = "waiting"
    attempt: int = 0
    """The last one started."""
    tries: int = 0
    """Attempts since it was asked or requeued."""
    cancel_requested: bool = False
    account_due: int = 0
    """The attempt that was ended from outside and whose worker has still to say what it cost."""


class DialogueState(Struct, frozen=True, kw_only=True):
    """What decisions need to know; answered questions are forgotten, so it stays small."""

    lifecycle: Lifecycle = "none"
    tenant_id: UUID | None = None
    user_id: str = ""
    message_count: int = 0
    unanswered: immutables.Map[UUID, Question] = immutables.Map()
    running: UUID | None = None


NOTHING = DialogueState()


def evolve(state: DialogueState, event: Event) -> DialogueState:  # noqa: PLR0911 - one arm per fact
    """The deciding state after `event`; pure, and blind to text."""
    match event.fact:
        case DialogueStarted(user_id=user_id):
            return DialogueState(lifecycle="active", tenant_id=event.tenant_id, user_id=user_id)
        case MessageAdded() as said:
            return _said(state, said, event.version)
        case DialogueDeleted():
            return replace(state, lifecycle="deleted")
        case DialogueArchived():
            return replace(state, lifecycle="archived")
        case DialogueRestored() | DialogueUnarchived():
            return replace(state, lifecycle="active")
        case ReplyStarted(message_id=asked, attempt=attempt):
            question = state.unanswered[asked]
            started = replace(question, status="running", attempt=attempt, tries=question.tries + 1)
            return replace(state, unanswered=state.unanswered.set(asked, started), running=asked)
        case ReplyFailed(message_id=asked, final=final):
            return _ended(state, asked, "failed" if final else "waiting")
        case ReplyCancelRequested(message_id=asked):
            wanted = replace(state.unanswered[asked], cancel_requested=True)
            return replace(state, unanswered=state.unanswered.set(asked, wanted))
        case ReplyCancelled(message_id=asked, attempt=attempt, account_due=due):
            return _ended(state, asked, "cancelled", attempt if due else 0)
        case ReplyAccounted(message_id=asked):
            told = replace(state.unanswered[asked], account_due=0)
            return replace(state, unanswered=state.unanswered.set(asked, told))
        case ReplyRequeued(message_id=asked):
            again = replace(state.unanswered[asked], status="waiting", tries=0)
            return replace(state, unanswered=state.unanswered.set(asked, again))
    return state


def _said(state: DialogueState, said: MessageAdded, version: int) -> DialogueState:
    unanswered, running = state.unanswered, state.running
    if said.asks is not None:
        unanswered = unanswered.set(said.message_id, Question(version))
    if said.answers is not None:
        unanswered = unanswered.delete(said.answers.message_id)
        running = None if running == said.answers.message_id else running
    return replace(state, message_count=state.message_count + 1, unanswered=unanswered, running=running)


def _ended(state: DialogueState, asked: UUID, status: QuestionStatus, due: int = 0) -> DialogueState:
    ended = replace(
        state.unanswered[asked],
        status=status,
        account_due=due or state.unanswered[asked].account_due,
        # A wish to cancel outlives an attempt that failed on the way, not the reply's end.
        cancel_requested=status == "waiting" and state.unanswered[asked].cancel_requested,
    )
    running = None if state.running == asked else state.running
    return replace(state, unanswered=state.unanswered.set(asked, ended), running=running)


# --- the deciding state as stored in a snapshot ---------------------------------------------------

FOLD_VERSION = 1
"""Of `evolve`; raised whenever it changes, so that snapshots of the old fold are not used."""


class _Frozen(Struct, frozen=True, kw_only=True):
    lifecycle: Lifecycle
    tenant_id: UUID | None
    user_id: str
    message_count: int
    unanswered: dict[UUID, Question]
    running: UUID | None


def freeze(state: DialogueState) -> bytes:
    """The state as JSON; small, because it has neither text nor answered questions."""
    values = {name: getattr(state, name) for name in state.__struct_fields__}
    return msgspec.json.encode(_Frozen(**values | {"unanswered": dict(state.unanswered)}))


def thaw(data: bytes) -> DialogueState:
    """What `freeze` wrote."""
    frozen = msgspec.json.decode(data, type=_Frozen)
    values = {name: getattr(frozen, name) for name in frozen.__struct_fields__}
    return DialogueState(**values | {"unanswered": immutables.Map(frozen.unanswered)})
