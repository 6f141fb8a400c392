"""Commands on a dialogue and what is decided on them: pure functions of state and command."""

from __future__ import annotations

from uuid import UUID

from msgspec import Struct

from bichat.errors import (
    IsArchived,
    IsDeleted,
    NotFound,
    NotRetryable,
    ReplyBusy,
    ReplyNotDue,
    StaleAttempt,
)
from bichat.events.dialogue import (
    AnswerTo,
    Asked,
    DialogueArchived,
    DialogueDeleted,
    DialogueRenamed,
    DialogueRestored,
    DialogueStarted,
    DialogueState,
    DialogueUnarchived,
    MessageAdded,
    Question,
    ReplyCancelled,
    ReplyCancelRequested,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
    Role,
    Shown,
    Usage,
)
from bichat.events.envelope import Fact, Metadata

Facts = list[Fact]


class Command(Struct, frozen=True, kw_only=True):
    """Something asked of one dialogue; ids are minted by whoever sends it."""

    dialogue_id: UUID


class NewMessage(Struct, frozen=True, kw_only=True):
    """A message to be said; `asks` wants a reply."""

    message_id: UUID
    role: Role
    content: str
    name: str = ""
    asks: Asked | None = None


class StartDialogue(Command, frozen=True, kw_only=True):
    """Opens a dialogue of `user_id` with its first messages."""

    user_id: str
    messages: tuple[NewMessage, ...]
    label: str = ""


class AddMessage(Command, frozen=True, kw_only=True):
    """Says one or several messages, all or none."""

    messages: tuple[NewMessage, ...]


class RenameDialogue(Command, frozen=True, kw_only=True):
    """Gives the dialogue another label."""

    label: str


class DeleteDialogue(Command, frozen=True, kw_only=True):
    """Takes the dialogue away and ends its replies; nothing leaves the log."""


class RestoreDialogue(Command, frozen=True, kw_only=True):
    """Brings a deleted dialogue back."""


class ArchiveDialogue(Command, frozen=True, kw_only=True):
    """Puts the dialogue away; replies under way still end."""


class UnarchiveDialogue(Command, frozen=True, kw_only=True):
    """Brings an archived dialogue back into use."""


class CancelReply(Command, frozen=True, kw_only=True):
    """Ends the reply to a question: at once if it waits, by its worker if it runs."""

    message_id: UUID


class RetryReply(Command, frozen=True, kw_only=True):
    """Queues a failed or cancelled question again."""

    message_id: UUID


class WorkerCommand(Command, frozen=True, kw_only=True):
    """What a worker records on one attempt at a question."""

    message_id: UUID
    attempt: int


class StartReply(WorkerCommand, frozen=True, kw_only=True):
    """Claims the next attempt, before the model is called."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    shown: Shown
    request_digest: str


class CompleteReply(WorkerCommand, frozen=True, kw_only=True):
    """Appends the answer."""

    answer_id: UUID
    content: str
    model: str
    finish_reason: str
    usage: Usage


class FailReply(WorkerCommand, frozen=True, kw_only=True):
    """Ends an attempt without an answer; unless `final` the question waits for the next."""

    code: str
    detail: str
    partial: str
    usage: Usage
    final: bool


class EndCancelledReply(WorkerCommand, frozen=True, kw_only=True):
    """Says that a reply has stopped because a person wanted it to."""

    partial: str
    usage: Usage


def decide(state: DialogueState, command: Command, by: Metadata) -> Facts:
    """The facts that `command` makes of `state`; none when it changes nothing.

    Raises a `Refused` kind. A person only ever reaches dialogues of their own: another's, another
    tenant's and none at all are the same `NotFound`.
    """
    if isinstance(command, StartDialogue):
        return _start(state, command)
    foreign = state.lifecycle == "none" or state.tenant_id != by.tenant_id
    if foreign or (by.actor.kind == "user" and state.user_id != by.actor.id):
        raise NotFound(what="dialogue")
    if isinstance(command, WorkerCommand):
        return _reply(state, command)
    return _change(state, command)


def _start(state: DialogueState, command: StartDialogue) -> Facts:
    if state.lifecycle != "none":
        raise NotFound(what="dialogue")  # ids are ours and new: an old one is nobody's business
    return [DialogueStarted(user_id=command.user_id, label=command.label), *map(_message, command.messages)]


def _message(message: NewMessage) -> MessageAdded:
    return MessageAdded(
        message_id=message.message_id,
        role=message.role,
        content=message.content,
        name=message.name,
        asks=message.asks,
    )


# --- what people ask for --------------------------------------------------------------------------


def _change(state: DialogueState, command: Command) -> Facts:  # noqa: PLR0911 - one arm per command
    match command:
        case RestoreDialogue():
            return [DialogueRestored()] if state.lifecycle == "deleted" else []
        case UnarchiveDialogue() if state.lifecycle != "deleted":
            return [DialogueUnarchived()] if state.lifecycle == "archived" else []
    if state.lifecycle == "deleted":
        raise IsDeleted()
    if state.lifecycle == "archived":
        raise IsArchived()
    match command:
        case AddMessage(messages=messages):
            return list(map(_message, messages))
        case RenameDialogue(label=label):
            return [DialogueRenamed(label=label)]
        case ArchiveDialogue():
            return [DialogueArchived()]
        case DeleteDialogue():
            return _delete(state)
        case CancelReply(message_id=asked):
            return _cancel(asked, state.unanswered.get(asked))
        case RetryReply(message_id=asked):
            return _retry(asked, state.unanswered.get(asked))
    raise TypeError(type(command).__name__)


def _delete(state: DialogueState) -> Facts:
    ended: Facts = [
        ReplyCancelled(message_id=asked, attempt=question.attempt if question.status == "running" else 0)
        for asked, question in sorted(state.unanswered.items(), key=lambda item: item[1].version)
        if question.status in ("waiting", "running")
    ]
    return [*ended, DialogueDeleted()]


def _cancel(asked: UUID, question: Question | None) -> Facts:
    if question is None or question.cancel_requested:
        return []
    if question.status == "waiting":
        return [ReplyCancelled(message_id=asked, attempt=0)]
    return [ReplyCancelRequested(message_id=asked)] if question.status == "running" else []


def _retry(asked: UUID, question: Question | None) -> Facts:
    if question is None:
        raise NotRetryable(status="answered, or not a question of this dialogue")
    # One that waits or runs already is what was asked for.
    return [ReplyRequeued(message_id=asked)] if question.status in ("failed", "cancelled") else []


# --- what workers record --------------------------------------------------------------------------


def _reply(state: DialogueState, command: WorkerCommand) -> Facts:
    question = state.unanswered.get(command.message_id)
    if question is None:
        raise ReplyNotDue(status="answered")
    if isinstance(command, StartReply):
        return [_started(state, question, command)]
    if question.attempt != command.attempt or question.status != "running":
        return _late(question, command)
    match command:
        case CompleteReply():
            return [_answer(command)]
        case FailReply(final=False) if question.cancel_requested:
            # There is no next attempt: the person does not want one.
            return [_cancelled(command)]
        case FailReply():
            return [
                ReplyFailed(
                    message_id=command.message_id,
                    attempt=command.attempt,
                    code=command.code,
                    detail=command.detail,
                    partial=command.partial,
                    usage=command.usage,
                    final=command.final,
                )
            ]
        case EndCancelledReply():
            return [_cancelled(command)]
    raise TypeError(type(command).__name__)


def _started(state: DialogueState, question: Question, command: StartReply) -> ReplyStarted:
    if question.status not in ("waiting", "running") or question.cancel_requested:
        raise ReplyNotDue(status="to be cancelled" if question.cancel_requested else question.status)
    if state.running not in (None, command.message_id):
        raise ReplyBusy()
    if command.attempt != question.attempt + 1:
        raise StaleAttempt(attempt=command.attempt)
    return ReplyStarted(
        message_id=command.message_id,
        attempt=command.attempt,
        model=command.model,
        max_tokens=command.max_tokens,
        temperature=command.temperature,
        top_p=command.top_p,
        shown=command.shown,
        request_digest=command.request_digest,
    )


def _answer(command: CompleteReply) -> MessageAdded:
    return MessageAdded(
        message_id=command.answer_id,
        role="assistant",
        content=command.content,
        answers=AnswerTo(
            message_id=command.message_id,
            attempt=command.attempt,
            model=command.model,
            finish_reason=command.finish_reason,
            usage=command.usage,
        ),
    )


def _cancelled(command: FailReply | EndCancelledReply) -> ReplyCancelled:
    return ReplyCancelled(
        message_id=command.message_id,
        attempt=command.attempt,
        partial=command.partial,
        usage=command.usage,
    )


def _late(question: Question, command: WorkerCommand) -> Facts:
    if isinstance(command, EndCancelledReply) and question.status == "cancelled":
        return []
    raise StaleAttempt(attempt=command.attempt)
