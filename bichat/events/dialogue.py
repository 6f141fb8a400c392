"""The facts of a dialogue, and the two states folded from them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import immutables
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
    """An attempt ended without an answer; unless `final`, the question waits for the next one."""

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


@fact()
class ReplyRequeued(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """A failed or cancelled question waits for a reply again."""

    message_id: UUID


# --- the deciding state: no text, small at any length --------------------------------------------

Lifecycle = Literal["none", "active", "archived", "deleted"]
QuestionStatus = Literal["waiting", "running", "answered", "failed", "cancelled"]


class Question(Struct, frozen=True):
    """A question without an answer."""

    version: int
    """Of its MessageAdded."""
    status: QuestionStatus = "waiting"
    attempt: int = 0
    """The last one started."""
    tries: int = 0
    """Attempts since it was asked or requeued."""
    cancel_requested: bool = False


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
        case ReplyCancelled(message_id=asked):
            return _ended(state, asked, "cancelled")
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


def _ended(state: DialogueState, asked: UUID, status: QuestionStatus) -> DialogueState:
    ended = replace(
        state.unanswered[asked],
        status=status,
        # A wish to cancel outlives an attempt that failed on the way, not the reply's end.
        cancel_requested=status == "waiting" and state.unanswered[asked].cancel_requested,
    )
    running = None if state.running == asked else state.running
    return replace(state, unanswered=state.unanswered.set(asked, ended), running=running)


# --- the transcript: the immutable Dialogue that people read --------------------------------------


class Message(Struct, frozen=True, kw_only=True):
    """One message; `seq` counts from 1 in its dialogue, `version` is its event's."""

    id: UUID
    seq: int
    version: int
    role: Role
    content: str | None
    at: datetime
    name: str | None = ""
    asks: bool = False
    reply_to: UUID | None = None
    attempt: int = 0
    model: str = ""
    finish_reason: str = ""
    usage: Usage | None = None


class Turn(Struct, frozen=True, kw_only=True):
    """How the reply to one question stands; `version` is that of the event that last changed it."""

    message_id: UUID
    seq: int
    version: int
    at: datetime
    status: QuestionStatus = "waiting"
    attempt: int = 0
    model: str = ""
    code: str = ""
    detail: str | None = ""
    partial: str | None = ""
    usage: Usage = Usage()
    """Summed over every attempt."""


class Dialogue(Struct, frozen=True, kw_only=True):
    """A dialogue as people read it. A projection holds only the messages and turns it touches."""

    id: UUID
    tenant_id: UUID
    user_id: str
    label: str | None
    state: Lifecycle
    version: int
    created_at: datetime
    updated_at: datetime
    message_count: int = 0
    messages: tuple[Message, ...] = ()
    turns: immutables.Map[UUID, Turn] = immutables.Map()

    @property
    def last_message(self) -> Message | None:
        """The newest message held."""
        return self.messages[-1] if self.messages else None


def transcribe(dialogue: Dialogue | None, event: Event) -> Dialogue:
    """The dialogue after `event`: the one fold that both the read models and the audit use.

    Raises `ValueError` when the event does not follow the dialogue's version.
    """
    if isinstance(event.fact, DialogueStarted):
        return Dialogue(
            id=event.stream_id, tenant_id=event.tenant_id, user_id=event.fact.user_id, label=event.fact.label,
            state="active", version=event.version, created_at=event.at, updated_at=event.at,
        )
    if dialogue is None or event.version != dialogue.version + 1:
        held = dialogue.version if dialogue else 0
        raise ValueError(f"event {event.version} of {event.stream_id} does not follow version {held}")
    return replace(_transcribed(dialogue, event), version=event.version, updated_at=event.at)


def _transcribed(dialogue: Dialogue, event: Event) -> Dialogue:
    match event.fact:
        case MessageAdded() as said:
            return _written(dialogue, said, event)
        case DialogueRenamed(label=label):
            return replace(dialogue, label=label)
        case DialogueDeleted():
            return replace(dialogue, state="deleted")
        case DialogueArchived():
            return replace(dialogue, state="archived")
        case DialogueRestored() | DialogueUnarchived():
            return replace(dialogue, state="active")
        case ReplyStarted() | ReplyFailed() | ReplyCancelled() | ReplyRequeued():
            turn = _turned(dialogue.turns[event.fact.message_id], event.fact)
            turn = replace(turn, version=event.version, at=event.at)
            return replace(dialogue, turns=dialogue.turns.set(turn.message_id, turn))
    return dialogue


def _written(dialogue: Dialogue, said: MessageAdded, event: Event) -> Dialogue:
    answers = said.answers
    message = Message(
        id=said.message_id, seq=dialogue.message_count + 1, version=event.version, role=said.role,
        content=said.content, at=event.at, name=said.name, asks=said.asks is not None,
        reply_to=answers.message_id if answers else None, attempt=answers.attempt if answers else 0,
        model=answers.model if answers else "", finish_reason=answers.finish_reason if answers else "",
        usage=answers.usage if answers else None,
    )  # fmt: skip
    turns = dialogue.turns
    if message.asks:
        turn = Turn(message_id=message.id, seq=message.seq, version=event.version, at=event.at)
        turns = turns.set(message.id, turn)
    if answers:
        turn = replace(
            turns[answers.message_id], status="answered", attempt=answers.attempt, model=answers.model,
            usage=turns[answers.message_id].usage + answers.usage, version=event.version, at=event.at,
        )  # fmt: skip
        turns = turns.set(turn.message_id, turn)
    messages = (*dialogue.messages, message)
    return replace(dialogue, message_count=message.seq, messages=messages, turns=turns)


def _turned(turn: Turn, fact: ReplyStarted | ReplyFailed | ReplyCancelled | ReplyRequeued) -> Turn:
    match fact:
        case ReplyStarted():
            return replace(turn, status="running", attempt=fact.attempt, model=fact.model)
        case ReplyFailed():
            return replace(
                turn, status="failed" if fact.final else "waiting", code=fact.code, detail=fact.detail,
                partial=fact.partial, usage=turn.usage + fact.usage,
            )  # fmt: skip
        case ReplyCancelled():
            return replace(turn, status="cancelled", partial=fact.partial, usage=turn.usage + fact.usage)
        case ReplyRequeued():
            return replace(turn, status="waiting", code="", detail="", partial="")
