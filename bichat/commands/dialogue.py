"""What people ask of a dialogue, and what is decided on it: pure functions of state and command."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from msgspec import Struct

from bichat.commands.command import Command, DialogueCommand, Facts, OpsCommand
from bichat.errors import IsArchived, IsDeleted, NotFailed, NotFound, NotRetryable
from bichat.events.dialogue import (
    Asked,
    DialogueArchived,
    DialogueDeleted,
    DialogueLabelled,
    DialogueRenamed,
    DialogueRestored,
    DialogueStarted,
    DialogueUnarchived,
    MessageAdded,
    ReplyCancelled,
    ReplyCancelRequested,
    ReplyRequeued,
    Role,
    TextErased,
    Usage,
)
from bichat.events.dialogue_state import DialogueState, Question


class NewMessage(Struct, frozen=True, kw_only=True):
    """A message to be said; `asks` wants a reply."""

    message_id: UUID
    role: Role
    content: str
    name: str = ""
    asks: Asked | None = None


class StartDialogue(DialogueCommand, frozen=True, kw_only=True):
    """Opens a dialogue of `user_id` with its first messages."""

    user_id: str
    messages: tuple[NewMessage, ...]
    label: str = ""


class AddMessage(DialogueCommand, frozen=True, kw_only=True):
    """Says one or several messages, all or none."""

    messages: tuple[NewMessage, ...]


class RenameDialogue(DialogueCommand, frozen=True, kw_only=True):
    """Gives the dialogue another label."""

    label: str


class LabelDialogue(DialogueCommand, frozen=True, kw_only=True):
    """Gives the dialogue the label that a model made, unless it has one, is put away or was forgotten."""

    label: str
    model: str
    usage: Usage


class DeleteDialogue(DialogueCommand, frozen=True, kw_only=True):
    """Takes the dialogue away and ends its replies; nothing leaves the log."""


class RestoreDialogue(DialogueCommand, frozen=True, kw_only=True):
    """Brings a deleted dialogue back."""


class ArchiveDialogue(DialogueCommand, frozen=True, kw_only=True):
    """Puts the dialogue away; replies under way still end."""


class ArchiveIdleDialogue(OpsCommand, frozen=True, kw_only=True):
    """Puts away a dialogue that nobody uses, unless something in it waits or runs."""

    says: ClassVar[bool] = False


class UnarchiveDialogue(DialogueCommand, frozen=True, kw_only=True):
    """Brings an archived dialogue back into use."""


class CancelReply(DialogueCommand, frozen=True, kw_only=True):
    """Ends the reply to a question: at once if it waits, by its worker if it runs."""

    message_id: UUID


class RetryReply(DialogueCommand, frozen=True, kw_only=True):
    """Queues a failed or cancelled question again."""

    message_id: UUID


class RetryFailedReply(OpsCommand, frozen=True, kw_only=True):
    """Queues a failed question again, whoever asked it; what its person cancelled stays so."""

    message_id: UUID


class EraseText(OpsCommand, frozen=True, kw_only=True):
    """Ends the dialogue's replies and lets everybody drop its text: its person is forgotten."""

    says: ClassVar[bool] = False


# --- decisions ------------------------------------------------------------------------------------


def start(state: DialogueState, command: StartDialogue) -> Facts:
    """What opens a dialogue; an id is used once."""
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


def change(state: DialogueState, command: Command) -> Facts:  # noqa: PLR0911, PLR0912 - one arm per command
    """What a person's command makes of a dialogue that they may change."""
    match command:
        case EraseText():
            return [*_ended(state), TextErased()] if state.has_text else []
        case LabelDialogue(label=label, model=model, usage=usage):
            labelled = DialogueLabelled(label=label, model=model, usage=usage)
            return [labelled] if state.wants_label else []
        case ArchiveIdleDialogue():
            busy = any(q.status in ("waiting", "running") for q in state.unanswered.values())
            return [] if busy or state.lifecycle != "active" else [DialogueArchived()]
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
            return [*_ended(state), DialogueDeleted()]
        case CancelReply(message_id=asked):
            return _cancel(asked, state.unanswered.get(asked))
        case RetryReply(message_id=asked):
            return _retry(asked, _askable(state, asked))
        case RetryFailedReply(message_id=asked):
            return _retry_failed(asked, _askable(state, asked))
    raise TypeError(type(command).__name__)


def _askable(state: DialogueState, asked: UUID) -> Question | None:
    question = state.unanswered.get(asked)
    if question and question.version < state.erased:
        raise NotRetryable(status="erased")
    return question


def _ended(state: DialogueState) -> Facts:
    """Ends the replies that wait or run; the worker of one that runs has still to say what it cost."""
    return [
        ReplyCancelled(message_id=asked, attempt=question.attempt, account_due=True)
        if question.status == "running"
        else ReplyCancelled(message_id=asked, attempt=0)
        for asked, question in sorted(state.unanswered.items(), key=lambda item: item[1].version)
        if question.status in ("waiting", "running")
    ]


def _cancel(asked: UUID, question: Question | None) -> Facts:
    if question is None or question.cancel_requested:
        return []
    if question.status == "waiting":
        return [ReplyCancelled(message_id=asked, attempt=0)]
    return [ReplyCancelRequested(message_id=asked)] if question.status == "running" else []


def _retry(asked: UUID, question: Question | None) -> Facts:
    if question is None:
        raise NotRetryable(status="answered, or not a question of this dialogue")
    if question.status in ("failed", "cancelled"):
        return [ReplyRequeued(message_id=asked)]
    if question.cancel_requested:
        # Its worker has not said yet that it has stopped; the person does not have to wait for that.
        ended = ReplyCancelled(message_id=asked, attempt=question.attempt, account_due=True)
        return [ended, ReplyRequeued(message_id=asked)]
    return []  # it waits or runs already, which is what was asked for


def _retry_failed(asked: UUID, question: Question | None) -> Facts:
    status = question.status if question else "answered, or not a question of this dialogue"
    if status != "failed":
        raise NotFailed(status=status)
    return [ReplyRequeued(message_id=asked)]
