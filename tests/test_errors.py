"""Every way of saying no has a message for a person, and survives a trip between processes."""

from __future__ import annotations

import math
import pickle
import string
from datetime import UTC, datetime, timedelta

import pytest

from bichat.errors import BichatError, BudgetSpent, RateLimited, functions
from bichat.errors.model import ModelError

assert issubclass(functions.FunctionError, BichatError)  # imported, so that it is among them


def kinds(parent: type[BichatError] = BichatError) -> list[type[BichatError]]:
    return [kind for child in parent.__subclasses__() for kind in (child, *kinds(child))]


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.__name__)
def test_every_error_is_one_sentence_with_its_facts(kind: type[BichatError]) -> None:
    names = [name for _, name, _, _ in string.Formatter().parse(kind.__doc__ or "") if name]
    error = kind(**{name: f"<{name}>" for name in names})
    assert str(error)
    assert "\n" not in str(error)
    assert all(f"<{name}>" in str(error) for name in names)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.facts) == (kind, str(error), error.facts)


@pytest.mark.parametrize(
    ("seconds", "when"), [(1, "in 1 s"), (40, "in 40 s"), (150, "in 3 min"), (3600, "in 60 min")]
)
def test_a_wait_is_told_as_people_read_it(seconds: int, when: str) -> None:
    assert str(RateLimited(whose="user", limit="4 in a minute", seconds=seconds)).endswith(f"again {when}.")


def test_a_long_wait_is_told_by_its_end() -> None:
    now = datetime.now(UTC)
    month = (now.replace(day=1, hour=0, minute=0, second=0) + timedelta(days=62)).replace(day=1)
    told = str(BudgetSpent(limit="9 a month", seconds=math.ceil((month - now).total_seconds())))
    assert told.endswith(f"questions are answered again after 1 {month:%B}, 00:00 UTC.")


def test_the_codes_that_are_stored_stay_what_they_are() -> None:
    kinds: list[type[ModelError]] = [ModelError, *ModelError.__subclasses__()]
    assert {kind.code for kind in kinds} == {
        "model_error", "model_unavailable", "model_cut_off", "model_nonsense", "model_silent",
        "model_refused", "context_too_long", "worker_stopped", "worker_lost", "parked",
        "question_erased", "functions_refused", "rounds_exhausted",
    }  # fmt: skip
