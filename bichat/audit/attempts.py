"""The attempts at answering: what each showed the model, how it ended, what it cost."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, NamedTuple
from uuid import UUID

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from bichat.events.dialogue import (
    FunctionCalled,
    FunctionReturned,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyFailed,
    ReplyStarted,
    Usage,
)
from bichat.events.envelope import Event

STARTS = ("ReplyStarted",)
KINDS = ("MessageAdded", "ReplyStarted", "ReplyFailed", "ReplyCancelled", "ReplyAccounted", "FunctionCalled")
"""What is told of an attempt, its question among it."""

CALLS = ("FunctionCalled", "FunctionReturned")

Ending = Literal["running", "answered", "failed", "cancelled", "given_up"]
"""`given_up`: another attempt was started while it ran, for its worker was lost."""


class Spent(Struct, frozen=True):
    """Tokens of one call to the model."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Point(Struct, frozen=True):
    """A message, and the version of its event."""

    message_id: UUID
    version: int


class ShownRange(Struct, frozen=True, kw_only=True):
    """The messages that the model was shown, in reading order: an answer stands right after its question.

    Without `first` and `last` they are not in the log any more.
    """

    count: int
    first: Point | None = None
    last: Point | None = None


class Attempt(Struct, frozen=True, kw_only=True):
    """One call to the model: what it was shown, of the dialogue as it stood at version `as_of`.

    `functions` are the digests of the schemas it was offered, `request_digest` is that of the whole request,
    keyed with the person's key. `calls` of functions made it more than one request. `final`: after this
    failure nobody tries again by themselves.
    """

    message_id: UUID
    attempt: int
    version: int
    at: datetime
    worker: str
    model: str
    max_tokens: int | UnsetType = UNSET
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    prompt: str
    prompt_version: int
    as_of: int
    messages: ShownRange
    functions: tuple[str, ...]
    calls: int = 0
    request_digest: str
    ended: Ending = "running"
    ended_version: int | UnsetType = UNSET
    ended_at: datetime | UnsetType = UNSET
    code: str | UnsetType = UNSET
    final: bool | UnsetType = UNSET
    answer_id: UUID | UnsetType = UNSET
    finish_reason: str | UnsetType = UNSET
    usage: Spent | None = None


class Called(Struct, frozen=True, kw_only=True):
    """A function that the model called: what it had said before, and what it was shown of it next.

    `result` is unset until it has returned, and null once its text is erased.
    """

    round: int
    version: int
    call_id: str
    name: str
    arguments: str | None
    said: str | None
    result: str | UnsetType | None = UNSET
    failed: bool = False


class Key(NamedTuple):
    """Which attempt."""

    message_id: UUID
    attempt: int


class Attempts:
    """Attempts by question and number, folded from the events of one dialogue in order."""

    def __init__(self) -> None:
        self.known: dict[Key, Attempt] = {}
        self._due: set[Key] = set()

    @property
    def due(self) -> set[UUID]:
        """The questions about whose attempts there may be more to tell."""
        return {key.message_id for key in self._due}

    def take(self, events: Iterable[Event], *, starts: bool = True) -> None:
        """What comes next; unless `starts`, no more attempts are added."""
        for event in events:
            match event.fact:
                case ReplyStarted() as started:
                    self._given_up(Key(started.message_id, started.attempt - 1), event)
                    if starts:
                        self._start(started, event)
                case MessageAdded(answers=answers) if answers:
                    key = Key(answers.message_id, answers.attempt)
                    self._end(key, event, "answered", answers.usage)
                    self._note(key, answer_id=event.fact.message_id, finish_reason=answers.finish_reason)
                case ReplyFailed() as failed:
                    key = Key(failed.message_id, failed.attempt)
                    self._end(key, event, "failed", failed.usage)
                    self._note(key, code=failed.code, final=failed.final)
                case ReplyCancelled() as cancelled:
                    key = Key(cancelled.message_id, cancelled.attempt)
                    usage = None if cancelled.account_due else cancelled.usage
                    self._end(key, event, "cancelled", usage)
                case FunctionCalled() as call:
                    key = Key(call.message_id, call.attempt)
                    if key in self.known:
                        self._note(key, calls=self.known[key].calls + 1)
                case ReplyAccounted() as accounted:
                    key = Key(accounted.message_id, accounted.attempt)
                    self._note(key, usage=_spent(accounted.usage))
                    self._due.discard(key)

    def _start(self, started: ReplyStarted, event: Event) -> None:
        key = Key(started.message_id, started.attempt)
        self._due.add(key)
        self.known[key] = attempted(started, event)

    def _given_up(self, key: Key, event: Event) -> None:
        if key in self._due and self.known[key].ended == "running":
            self._end(key, event, "given_up", None)
            self._due.discard(key)

    def _end(self, key: Key, event: Event, how: Ending, usage: Usage | None) -> None:
        self._note(key, ended=how, ended_version=event.version, ended_at=event.at)
        if usage is not None:
            self._note(key, usage=_spent(usage))
            self._due.discard(key)

    def _note(self, key: Key, **told: object) -> None:
        if key in self.known:
            self.known[key] = replace(self.known[key], **told)


def called(events: Iterable[Event], key: Key) -> list[Called]:
    """The calls of one attempt, in order, with what they returned."""
    found: list[Called] = []
    waiting: dict[str, int] = {}
    for event in events:
        match event.fact:
            case FunctionCalled() as call if Key(call.message_id, call.attempt) == key:
                waiting[call.call_id] = len(found)
                found.append(Called(
                    round=call.round, version=event.version, call_id=call.call_id, name=call.name,
                    arguments=call.arguments, said=call.said,
                ))  # fmt: skip
            case FunctionReturned() as back if Key(back.message_id, back.attempt) == key:
                n = waiting.pop(back.call_id)  # models use their ids again in later rounds
                found[n] = replace(found[n], result=back.result, failed=back.failed)
    return found


def attempted(started: ReplyStarted, event: Event) -> Attempt:
    """An attempt as its start tells of it."""
    shown = started.shown
    return Attempt(
        message_id=started.message_id,
        attempt=started.attempt,
        version=event.version,
        at=event.at,
        worker=event.actor.id,
        model=started.model,
        max_tokens=UNSET if started.max_tokens is None else started.max_tokens,
        temperature=UNSET if started.temperature is None else started.temperature,
        top_p=UNSET if started.top_p is None else started.top_p,
        prompt=shown.prompt,
        prompt_version=shown.prompt_version,
        as_of=shown.as_of,
        messages=ShownRange(count=shown.messages),
        functions=shown.functions,
        request_digest=started.request_digest,
    )


def _spent(usage: Usage) -> Spent:
    return Spent(usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
