"""The deciding state: what it remembers, what it forgets, and how it is kept."""

from __future__ import annotations

from functools import reduce
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from bichat.events.dialogue import Asked, MessageAdded
from bichat.events.dialogue_state import NOTHING, DialogueState, evolve, freeze, thaw
from bichat.events.envelope import Fact
from tests.examples import FACTS, QUESTION, events


def fold(*names: str) -> DialogueState:
    return reduce(evolve, events([FACTS[name] for name in names]), NOTHING)


def test_a_question_is_remembered_until_it_is_answered() -> None:
    assert fold("started", "asked").unanswered[QUESTION].status == "waiting"
    running = fold("started", "asked", "reply started")
    assert (running.unanswered[QUESTION].status, running.running) == ("running", QUESTION)
    answered = fold("started", "asked", "reply started", "answered")
    assert (dict(answered.unanswered), answered.running, answered.message_count) == ({}, None, 2)


@pytest.mark.parametrize(
    ("last", "status"),
    [("reply failed", "waiting"), ("cancelled", "cancelled"), ("cancel requested", "running")],
)
def test_how_an_attempt_ends_is_how_the_question_stands(last: str, status: str) -> None:
    state = fold("started", "asked", "reply started", last)
    assert state.unanswered[QUESTION].status == status
    assert state.running == (QUESTION if status == "running" else None)


def test_a_requeued_question_starts_counting_tries_again_but_not_attempts() -> None:
    question = fold("started", "asked", "reply started", "cancelled", "requeued").unanswered[QUESTION]
    assert (question.status, question.attempt, question.tries) == ("waiting", 1, 0)


def test_a_wish_to_cancel_outlives_a_failed_attempt_and_ends_with_the_reply() -> None:
    asked = ("started", "asked", "reply started", "cancel requested")
    assert fold(*asked, "reply failed").unanswered[QUESTION].cancel_requested
    assert not fold(*asked, "cancelled").unanswered[QUESTION].cancel_requested


@pytest.mark.parametrize(
    "names",
    [(), ("started",), ("started", "asked", "reply started"), ("started", "asked", "deleted", "restored")],
)
def test_a_snapshot_is_the_state(names: tuple[str, ...]) -> None:
    assert thaw(freeze(fold(*names))) == fold(*names)


def test_the_state_of_a_long_answered_dialogue_is_small_and_holds_no_text() -> None:
    facts: list[Fact] = [FACTS["started"]]
    for _ in range(2_000):
        facts += [FACTS["asked"], FACTS["reply started"], FACTS["answered"]]
    kept = freeze(reduce(evolve, events(facts), NOTHING))
    assert len(kept) < 1_000
    assert b"How much" not in kept
    assert b"Sales" not in kept


def test_a_state_never_changes_when_another_follows_from_it() -> None:
    before = fold("started", "asked")
    kept = freeze(before)
    message = MessageAdded(message_id=uuid7(), role="user", content="x", asks=Asked())
    evolve(before, events([FACTS["started"], FACTS["asked"], message])[2])
    assert freeze(before) == kept
    assert isinstance(before.tenant_id, UUID)
