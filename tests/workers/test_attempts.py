"""Which attempt comes next, decided on what the log says."""

from __future__ import annotations

from uuid import uuid4

import pytest

from bichat.errors.model import ModelCutOff, ModelError, ModelUnavailable, WorkerLost, WorkerStopped
from bichat.events.dialogue import MessageAdded, ReplyFailed, ReplyRequeued, ReplyStarted
from bichat.workers.attempts import LONGEST_WAIT, SILENT, Tried, expect_worker, next_model, tried, wait
from tests.examples import QUESTION, SHOWN, events

MODELS = ("first", "spare")


def attempts(*codes: str, model: str = "first") -> list[Tried]:
    return [Tried(n, model, code) for n, code in enumerate(codes, 1)]


def started(attempt: int, message_id: object = QUESTION, model: str = "first") -> ReplyStarted:
    return ReplyStarted(
        message_id=message_id, attempt=attempt, model=model, shown=SHOWN, request_digest=""  # type: ignore[arg-type]
    )  # fmt: skip


def failed(attempt: int, code: str = "model_cut_off") -> ReplyFailed:
    return ReplyFailed(message_id=QUESTION, attempt=attempt, code=code, final=False)


def test_attempts_are_read_from_the_log_since_the_question_was_last_queued() -> None:
    log = events(
        [
            started(1), failed(1), ReplyRequeued(message_id=QUESTION),
            started(2), started(3), failed(3), started(1, uuid4()), ReplyRequeued(message_id=uuid4()),
            MessageAdded(message_id=uuid4(), role="user", content="?"), started(4, model="spare"),
        ]
    )  # fmt: skip
    assert tried(reversed(log), QUESTION) == [
        Tried(2, "first"), Tried(3, "first", "model_cut_off"), Tried(4, "spare"),
    ]  # fmt: skip


def test_a_model_is_tried_four_times_then_the_spare_one_twice() -> None:
    before: list[Tried] = []
    models = []
    while model := next_model(before, MODELS):
        models.append(model)
        before.append(Tried(len(before) + 1, model, "model_unavailable"))
    assert models == ["first"] * 4 + ["spare"] * 2
    assert next_model(before[:4], MODELS[:1]) is None


def test_a_refusal_is_not_repeated_but_the_spare_model_is_asked() -> None:
    assert next_model(attempts("model_refused"), MODELS) == "spare"
    assert next_model(attempts("model_refused"), MODELS[:1]) is None


def test_a_question_that_is_too_long_is_too_long_for_every_model() -> None:
    assert next_model(attempts("context_too_long"), MODELS) is None


def test_a_worker_that_stopped_or_died_is_no_fault_of_the_model() -> None:
    assert next_model(attempts("worker_stopped", "", "worker_stopped", "", "model_silent"), MODELS) == "first"


def test_so_many_silent_attempts_are_enough() -> None:
    expect_worker(attempts(*[""] * (SILENT - 1), "model_cut_off", "worker_stopped"))
    with pytest.raises(WorkerLost, match=f"{SILENT} attempts"):
        expect_worker(attempts(*[""] * (SILENT - 1), "model_cut_off", ""))


@pytest.mark.parametrize(
    ("failures", "error", "seconds"),
    [
        (1, ModelCutOff(detail=""), 0.5),
        (2, ModelCutOff(detail=""), 1),
        (3, ModelCutOff(detail=""), 2),
        (1, ModelUnavailable(detail="", retry_after=7.0), 7),
        (3, ModelUnavailable(detail="", retry_after=0.1), 2),
        (1, ModelUnavailable(detail="", retry_after=1e9), LONGEST_WAIT),
        (1, WorkerStopped(), 0),
    ],
)
def test_waits_grow_and_the_servers_wish_counts(failures: int, error: ModelError, seconds: float) -> None:
    assert wait(attempts(*[error.code] * failures), "first", error) == seconds


def test_the_spare_model_is_asked_at_once() -> None:
    assert wait(attempts("model_refused"), "spare", ModelCutOff(detail="")) == 0
