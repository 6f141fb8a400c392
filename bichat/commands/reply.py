"""What workers record of a reply, and what is decided on it: pure functions of state and command."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from msgspec import Struct

from bichat.commands.command import DialogueCommand, Facts
from bichat.errors import ReplyBusy, ReplyNotDue, StaleAttempt
from bichat.events.dialogue import (
    AnswerTo,
    FunctionCalled,
    FunctionReturned,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyFailed,
    ReplyStarted,
    Shown,
    Usage,
)
from bichat.events.dialogue_state import DialogueState, Question


class WorkerCommand(DialogueCommand, frozen=True, kw_only=True):
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


class Call(Struct, frozen=True, kw_only=True):
    """One function that the model wants to be called."""

    id: UUID
    call_id: str
    name: str
    arguments: str


class CallFunctions(WorkerCommand, frozen=True, kw_only=True):
    """Records what the model wants to be called in one round, before it is."""

    round: int
    said: str
    calls: tuple[Call, ...]


class ReturnFunction(WorkerCommand, frozen=True, kw_only=True):
    """Records what a function returned, before the model is shown it."""

    id: UUID
    call_id: str
    name: str
    result: str
    failed: bool


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


class GiveUpReply(WorkerCommand, frozen=True, kw_only=True):
    """Ends a question that no worker can come to; `attempt` is its last, 0 if none ever started."""

    code: str
    detail: str


def decide_reply(state: DialogueState, command: WorkerCommand) -> Facts:  # noqa: PLR0911 - one arm per command
    """What a worker's command makes of a question; only the newest attempt may end a reply."""
    question = state.unanswered.get(command.message_id)
    if question is None:
        raise ReplyNotDue(status="answered")
    if isinstance(command, StartReply):
        return [_started(state, question, command)]
    if isinstance(command, GiveUpReply):
        return [_given_up(question, command)]
    if question.attempt != command.attempt or question.status != "running":
        return _late(question, command, erased=question.version < state.erased)
    match command:
        case CallFunctions():
            return list(called(command))
        case ReturnFunction():
            return [returned(command)]
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


def _given_up(question: Question, command: GiveUpReply) -> ReplyFailed | ReplyCancelled:
    if question.status not in ("waiting", "running"):
        raise ReplyNotDue(status=question.status)
    if question.attempt != command.attempt:
        raise StaleAttempt(attempt=command.attempt)
    # What waits has no attempt under way that could end, and no call to the model to be counted.
    attempt = question.attempt if question.status == "running" else 0
    if question.cancel_requested:
        return ReplyCancelled(message_id=command.message_id, attempt=attempt)
    return ReplyFailed(
        message_id=command.message_id, attempt=attempt, code=command.code, detail=command.detail
    )


def called(command: CallFunctions) -> Iterator[FunctionCalled]:
    """The facts that it leads to, if it does."""
    for n, call in enumerate(command.calls):
        yield FunctionCalled(
            id=call.id, message_id=command.message_id, attempt=command.attempt, round=command.round,
            call_id=call.call_id, name=call.name, arguments=call.arguments, said="" if n else command.said,
        )  # fmt: skip


def returned(command: ReturnFunction) -> FunctionReturned:
    """The fact that it leads to, if it does."""
    return FunctionReturned(
        id=command.id, message_id=command.message_id, attempt=command.attempt, call_id=command.call_id,
        name=command.name, result=command.result, failed=command.failed,
    )  # fmt: skip


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


def _late(question: Question, command: WorkerCommand, *, erased: bool) -> Facts:
    """A word about an attempt that has ended: only what it cost, and only once; no text once it is erased."""
    if not isinstance(command, EndCancelledReply):
        raise StaleAttempt(attempt=command.attempt)
    if command.attempt == 0 or command.attempt != question.account_due:
        if question.status == "cancelled" and command.attempt == question.attempt:
            return []
        raise StaleAttempt(attempt=command.attempt)
    return [
        ReplyAccounted(
            message_id=command.message_id,
            attempt=command.attempt,
            partial="" if erased else command.partial,
            usage=command.usage,
        )
    ]
