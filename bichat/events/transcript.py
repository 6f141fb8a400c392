"""The transcript: the immutable `Dialogue` that people read, folded from the facts of a dialogue."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

import immutables
from msgspec import Struct
from msgspec.structs import replace

from bichat.events.dialogue import (
    DialogueArchived,
    DialogueDeleted,
    DialogueLabelled,
    DialogueRenamed,
    DialogueRestored,
    DialogueStarted,
    DialogueUnarchived,
    FunctionCalled,
    FunctionReturned,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
    Role,
    TextErased,
    Usage,
)
from bichat.events.dialogue_state import Lifecycle, QuestionStatus
from bichat.events.envelope import Event

_HELD = 64
"""Messages that a fold of many events carries along at most."""


class Message(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
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
    call_id: str = ""
    """Of a function that was called, or has returned: then `name` is its name, `content` what it returned."""
    arguments: str | None = ""
    failed: bool = False


class Turn(Struct, frozen=True, kw_only=True, gc=False):
    """How the reply to one question stands; `version`, `position` and `at` are of the last change."""

    message_id: UUID
    seq: int
    version: int
    position: int = 0
    at: datetime
    status: QuestionStatus = "waiting"
    attempt: int = 0
    model: str = ""
    code: str = ""
    detail: str | None = ""
    partial: str | None = ""
    usage: Usage = Usage()
    """Summed over every attempt."""
    started: int = 0
    """The version of the last attempt's start."""
    calls: int = 0
    """Messages about functions in that attempt."""


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
    erased: int = 0
    """The version of the last erasure: text from before it is gone."""
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
            id=event.stream_id,
            tenant_id=event.tenant_id,
            user_id=event.fact.user_id,
            label=event.fact.label,
            state="active",
            version=event.version,
            created_at=event.at,
            updated_at=event.at,
        )
    if dialogue is None or event.version != dialogue.version + 1:
        held = dialogue.version if dialogue else 0
        raise ValueError(f"event {event.version} of {event.stream_id} does not follow version {held}")
    return replace(_transcribed(dialogue, event), version=event.version, updated_at=event.at)


def transcribed(dialogue: Dialogue | None, events: Iterable[Event]) -> Dialogue | None:
    """The dialogue after all of `events`, whole; the time grows with their number, not its square."""
    said: list[Message] = []
    for event in events:
        if dialogue and said and isinstance(event.fact, TextErased):
            dialogue, said = replace(dialogue, messages=(*said, *dialogue.messages)), []
        dialogue = transcribe(dialogue, event)
        if len(dialogue.messages) > _HELD:  # each message added copies those that are held
            said += dialogue.messages
            dialogue = replace(dialogue, messages=())
    return replace(dialogue, messages=(*said, *dialogue.messages)) if dialogue and said else dialogue


def _transcribed(dialogue: Dialogue, event: Event) -> Dialogue:  # noqa: PLR0911 - one arm per fact
    match event.fact:
        case MessageAdded() as said:
            return _written(dialogue, said, event)
        case DialogueRenamed(label=label) | DialogueLabelled(label=label):
            return replace(dialogue, label=label)
        case FunctionCalled() | FunctionReturned() as call:
            return _called(dialogue, call, event)
        case DialogueDeleted():
            return replace(dialogue, state="deleted")
        case DialogueArchived():
            return replace(dialogue, state="archived")
        case DialogueRestored() | DialogueUnarchived():
            return replace(dialogue, state="active")
        case TextErased():
            return blanked(dialogue, event.version)
        case ReplyStarted() | ReplyFailed() | ReplyCancelled() | ReplyRequeued():
            turn = _turned(dialogue.turns[event.fact.message_id], event.fact)
            if isinstance(event.fact, ReplyStarted):
                turn = replace(turn, started=event.version, calls=0)
            turn = replace(turn, version=event.version, position=event.position, at=event.at)
            return replace(dialogue, turns=dialogue.turns.set(turn.message_id, turn))
        case ReplyAccounted(message_id=asked, attempt=attempt, partial=partial, usage=usage):
            # Its end was told before: the turn's version, which streams go by, stays.
            turn = dialogue.turns[asked]
            if turn.status == "cancelled" and turn.attempt == attempt:
                turn = replace(turn, partial=partial)
            turn = replace(turn, usage=turn.usage + usage)
            return replace(dialogue, turns=dialogue.turns.set(asked, turn))
    return dialogue


def blank(text: str | None) -> str | None:
    """What is left of a text that is erased: nothing, but that one was given."""
    return None if text else text


def blanked(dialogue: Dialogue, erased: int) -> Dialogue:
    """The dialogue without a word of all that is in it, which was said before the version `erased`."""
    messages = tuple(
        replace(m, content=blank(m.content), name=blank(m.name), arguments=blank(m.arguments))
        for m in dialogue.messages
    )
    turns = dialogue.turns.mutate()
    for turn in dialogue.turns.values():
        if turn.detail or turn.partial:
            bare = replace(turn, detail=blank(turn.detail), partial=blank(turn.partial))
            turns[turn.message_id] = bare
    return replace(
        dialogue, label=blank(dialogue.label), erased=erased, messages=messages, turns=turns.finish()
    )


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
        turn = Turn(
            message_id=message.id, seq=message.seq, version=event.version, position=event.position,
            at=event.at,
        )  # fmt: skip
        turns = turns.set(message.id, turn)
    if answers:
        turn = replace(
            turns[answers.message_id], status="answered", attempt=answers.attempt, model=answers.model,
            usage=turns[answers.message_id].usage + answers.usage, version=event.version,
            position=event.position, at=event.at,
        )  # fmt: skip
        turns = turns.set(turn.message_id, turn)
    messages = (*dialogue.messages, message)
    return replace(dialogue, message_count=message.seq, messages=messages, turns=turns)


def _called(dialogue: Dialogue, call: FunctionCalled | FunctionReturned, event: Event) -> Dialogue:
    """A call and its return are a message each; what streams go by, the turn's version, stays."""
    message = Message(
        id=call.id, seq=dialogue.message_count + 1, version=event.version, role="tool", at=event.at,
        content=call.result if isinstance(call, FunctionReturned) else "",
        name=call.name, reply_to=call.message_id, attempt=call.attempt, call_id=call.call_id,
        arguments=call.arguments if isinstance(call, FunctionCalled) else "",
        failed=isinstance(call, FunctionReturned) and call.failed,
    )  # fmt: skip
    turn = dialogue.turns[call.message_id]
    turn = replace(turn, calls=turn.calls + 1)
    messages, turns = (*dialogue.messages, message), dialogue.turns.set(turn.message_id, turn)
    return replace(dialogue, message_count=message.seq, messages=messages, turns=turns)


def _turned(turn: Turn, fact: ReplyStarted | ReplyFailed | ReplyCancelled | ReplyRequeued) -> Turn:
    match fact:
        case ReplyStarted():
            return replace(turn, status="running", attempt=fact.attempt, model=fact.model)
        case ReplyFailed():
            return replace(
                turn, status="failed" if fact.final else "waiting", attempt=fact.attempt, code=fact.code,
                detail=fact.detail, partial=fact.partial, usage=turn.usage + fact.usage,
            )  # fmt: skip
        case ReplyCancelled():
            return replace(turn, status="cancelled", partial=fact.partial, usage=turn.usage + fact.usage)
        case ReplyRequeued():
            return replace(turn, status="waiting", code="", detail="", partial="")
