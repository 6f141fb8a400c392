"""Which attempt comes next: pure decisions on what the log says about the earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from msgspec import Struct

from bichat.errors.model import (
    ContextTooLong,
    FunctionsRefused,
    ModelError,
    ModelRefused,
    RoundsExhausted,
    WorkerLost,
    WorkerStopped,
)
from bichat.events.dialogue import ReplyFailed, ReplyRequeued, ReplyStarted
from bichat.events.envelope import Event

TRIES = (4, 2)
"""Attempts that may fail, on the model and on the fallback model."""

_NOT_AGAIN = {ModelRefused.code, RoundsExhausted.code}
"""After these a model is not asked again: it would say the same, or cost as much."""

SILENT = 10
"""Attempts that may end without a word from their worker, before it is taken for the question's fault."""

FIRST_WAIT, LONGEST_WAIT = 0.5, 60.0
"""Seconds before the next attempt; doubled each time."""

KINDS = ("ReplyStarted", "ReplyFailed", "ReplyRequeued")
"""The facts that tell of attempts."""


class Tried(Struct, frozen=True):
    """An earlier attempt; `code` is empty when its worker never said how it ended."""

    attempt: int
    model: str
    code: str = ""


def tried(newest_first: Iterable[Event], message_id: UUID) -> list[Tried]:
    """The attempts at a question since it was asked or requeued, oldest first."""
    codes, attempts = dict[int, str](), list[Tried]()
    for event in newest_first:
        match event.fact:
            case ReplyRequeued(message_id=asked) if asked == message_id:
                break
            case ReplyFailed(message_id=asked, attempt=attempt, code=code) if asked == message_id:
                codes[attempt] = code
            case ReplyStarted(message_id=asked, attempt=attempt, model=model) if asked == message_id:
                attempts.append(Tried(attempt, model, codes.get(attempt, "")))
    return attempts[::-1]


def expect_worker(before: Sequence[Tried]) -> None:
    """Raises `WorkerLost` when attempt after attempt ended in silence."""
    silent = sum(not one.code for one in before)
    if silent >= SILENT:
        raise WorkerLost(attempts=silent)


def next_model(before: Sequence[Tried], models: Sequence[str]) -> str | None:
    """The model for the next attempt; `None` when none is left to try."""
    if any(one.code == ContextTooLong.code for one in before):
        return None  # the question's fault, not a model's
    for model, tries in zip(models, TRIES, strict=False):
        failed = [
            one.code for one in before if one.model == model and one.code not in ("", WorkerStopped.code)
        ]
        if len(failed) < tries and not _NOT_AGAIN.intersection(failed):
            return model
    return None


def wait(before: Sequence[Tried], model: str, error: ModelError) -> float:
    """Seconds until the attempt after `before`, which ended in `error`; Retry-After counts, within reason."""
    if isinstance(error, WorkerStopped | FunctionsRefused) or before[-1].model != model:
        return 0.0
    failed = sum(bool(one.code) and one.model == model for one in before)
    grown: float = FIRST_WAIT * 2 ** (failed - 1)
    return min(max(grown, error.retry_after or 0.0), LONGEST_WAIT)
