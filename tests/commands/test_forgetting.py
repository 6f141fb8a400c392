"""Decisions on persons: holds, erasures and what is left of a dialogue's questions."""

from __future__ import annotations

from functools import reduce
from typing import Any
from uuid import UUID

import pytest

from bichat.commands.command import PersonCommand
from bichat.commands.decide import decide
from bichat.commands.dialogue import EraseText, RetryFailedReply, RetryReply
from bichat.commands.person import FinishErasure, OrderErasure, PlaceHold, ReleaseHold
from bichat.commands.reply import CompleteReply, EndCancelledReply
from bichat.errors import BeingForgotten, NotFound, NotRetryable, StaleAttempt, UnderHold
from bichat.events.dialogue import ReplyAccounted, ReplyCancelled, TextErased
from bichat.events.dialogue_state import NOTHING, DialogueState, evolve, freeze, thaw
from bichat.events.envelope import Fact
from bichat.events.person import (
    NOBODY,
    ErasureOrdered,
    HoldPlaced,
    HoldReleased,
    PersonErased,
    PersonState,
    stream_of,
)
from tests.examples import (
    ANSWER,
    DIALOGUE,
    FACTS,
    OTHER_TENANT,
    QUESTION,
    TENANT,
    USAGE,
    by,
    by_worker,
    events,
)

HOLD, ERASURE, OTHER = UUID(int=1), UUID(int=2), UUID(int=3)
PLACED = HoldPlaced(user_id="anna", hold_id=HOLD, reason="a lawsuit")
ORDERED = ErasureOrdered(user_id="anna", erasure_id=ERASURE)
ERASED = PersonErased(user_id="anna", erasure_id=ERASURE, dialogues=1, keys=1)


def person(*facts: Fact) -> PersonState:
    return reduce(PersonState.after, events(facts, stream_of(TENANT, "anna")), NOBODY)


def told(kind: type[PersonCommand], **values: Any) -> PersonCommand:
    return kind(tenant_id=TENANT, user_id="anna", **values)


def dialogue(*facts: Fact) -> DialogueState:
    return reduce(evolve, events(facts), NOTHING)


def asked(*names: str) -> DialogueState:
    return dialogue(*(FACTS[name] for name in names))


# --- a person -------------------------------------------------------------------------------------


def test_a_hold_forbids_an_erasure_until_it_is_released() -> None:
    order = told(OrderErasure, erasure_id=ERASURE)
    with pytest.raises(UnderHold, match=str(HOLD)):
        decide(person(PLACED), order, by("ops"))
    released = person(PLACED, HoldReleased(user_id="anna", hold_id=HOLD))
    assert decide(released, order, by("ops")) == [ORDERED]


def test_the_hold_of_one_dialogue_holds_its_person() -> None:
    held = person(HoldPlaced(user_id="anna", hold_id=HOLD, dialogue_id=DIALOGUE, reason="a lawsuit"))
    with pytest.raises(UnderHold):
        decide(held, told(OrderErasure, erasure_id=ERASURE), by("ops"))


def test_who_is_being_forgotten_cannot_be_held_any_more() -> None:
    place = told(PlaceHold, hold_id=HOLD, reason="too late")
    with pytest.raises(BeingForgotten):
        decide(person(ORDERED), place, by("ops"))
    assert decide(person(ORDERED, ERASED), place, by("ops"))


def test_what_a_backup_brought_back_is_forgotten_again_hold_or_not() -> None:
    again = told(OrderErasure, erasure_id=ERASURE, restored=True)
    assert decide(person(PLACED), again, by("ops")) == [ORDERED]
    before = ErasureOrdered(user_id="anna", erasure_id=OTHER)
    assert decide(person(before), again, by("ops")) == [ORDERED]  # that one was done, but not here
    both = person(before, ORDERED, ERASED)
    assert both.erasing is None
    assert decide(both, told(FinishErasure, erasure_id=OTHER, dialogues=1, keys=1), by("ops")) == []


def test_each_step_is_done_once() -> None:
    order = told(OrderErasure, erasure_id=ERASURE)
    finish = told(FinishErasure, erasure_id=ERASURE, dialogues=1, keys=1)
    assert decide(person(ORDERED), order, by("ops")) == []
    with pytest.raises(BeingForgotten):
        decide(person(ORDERED), told(OrderErasure, erasure_id=OTHER), by("ops"))
    assert decide(person(ORDERED), finish, by("ops")) == [ERASED]
    assert decide(person(ORDERED, ERASED), finish, by("ops")) == []
    assert decide(person(PLACED), told(PlaceHold, hold_id=HOLD, reason="again"), by("ops")) == []


def test_only_a_hold_that_is_there_is_released() -> None:
    with pytest.raises(NotFound, match="hold"):
        decide(NOBODY, told(ReleaseHold, hold_id=HOLD), by("ops"))


def test_persons_of_one_name_in_two_tenants_are_two() -> None:
    assert stream_of(TENANT, "anna") != stream_of(OTHER_TENANT, "anna")


@pytest.mark.parametrize("facts", [(PLACED,), (PLACED, ORDERED), (ORDERED, ERASED)])
def test_a_person_comes_out_of_a_snapshot_as_they_went_in(facts: tuple[Fact, ...]) -> None:
    state = person(*facts)
    assert PersonState.thawed(state.frozen()) == state


# --- their dialogues ------------------------------------------------------------------------------

ERASE = EraseText(dialogue_id=DIALOGUE)


def test_an_erasure_ends_what_runs_and_what_waits() -> None:
    assert decide(asked("started", "asked"), ERASE, by("ops")) == [
        ReplyCancelled(message_id=QUESTION, attempt=0),
        TextErased(),
    ]
    running = asked("started", "asked", "reply started")
    assert decide(running, ERASE, by("ops")) == [
        ReplyCancelled(message_id=QUESTION, attempt=1, account_due=True),
        TextErased(),
    ]


@pytest.mark.parametrize("how", ["deleted", "archived"])
def test_what_was_put_away_is_erased_too(how: str) -> None:
    assert decide(asked("started", how), ERASE, by("ops")) == [TextErased()]


def test_it_is_done_once_until_somebody_says_something_again() -> None:
    erased = dialogue(FACTS["started"], TextErased())
    assert decide(erased, ERASE, by("ops")) == []
    again = dialogue(FACTS["started"], TextErased(), FACTS["asked"])
    assert [type(fact) for fact in decide(again, ERASE, by("ops"))] == [ReplyCancelled, TextErased]


def test_a_late_word_says_what_it_cost_and_nothing_else() -> None:
    erased = dialogue(
        *(FACTS[n] for n in ("started", "asked", "reply started", "cancelled while it ran")), TextErased()
    )
    late = EndCancelledReply(
        dialogue_id=DIALOGUE, message_id=QUESTION, attempt=1, partial="A lot", usage=USAGE
    )
    assert decide(erased, late, by_worker()) == [ReplyAccounted(message_id=QUESTION, attempt=1, usage=USAGE)]
    answer = CompleteReply(
        dialogue_id=DIALOGUE, message_id=QUESTION, attempt=1, answer_id=ANSWER, content="A lot.",
        model="small", finish_reason="stop", usage=USAGE,
    )  # fmt: skip
    with pytest.raises(StaleAttempt):
        decide(erased, answer, by_worker())


@pytest.mark.parametrize("retry", [RetryReply, RetryFailedReply])
def test_nobody_can_have_an_erased_question_answered(retry: type[RetryReply | RetryFailedReply]) -> None:
    erased = dialogue(
        FACTS["started"], FACTS["asked"], ReplyCancelled(message_id=QUESTION, attempt=0), TextErased()
    )
    with pytest.raises(NotRetryable, match="erased"):
        decide(erased, retry(dialogue_id=DIALOGUE, message_id=QUESTION), by())


def test_a_snapshot_knows_of_the_erasure() -> None:
    state = dialogue(FACTS["started"], TextErased())
    assert thaw(freeze(state)) == state
    assert (state.has_text, state.erased) == (False, 2)
