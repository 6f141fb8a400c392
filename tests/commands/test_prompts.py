"""Decisions on prompts: a text is a version, and what changes nothing is none."""

from __future__ import annotations

from functools import reduce

import pytest

from bichat.commands.command import Facts
from bichat.commands.decide import decide
from bichat.commands.prompt import ChangePrompt, RemovePrompt
from bichat.errors import NotFound
from bichat.events.envelope import Fact
from bichat.events.prompt import UNWRITTEN, PromptChanged, PromptRemoved, PromptState, stream_of
from tests.examples import OTHER_TENANT, TENANT, by, events

FIRST, SECOND = PromptChanged(name="system", template="One."), PromptChanged(name="system", template="Two.")
GONE = PromptRemoved(name="system")


def state(*facts: Fact) -> PromptState:
    return reduce(PromptState.after, events(facts), UNWRITTEN)


def change(before: PromptState, text: str) -> Facts:
    return decide(before, ChangePrompt(tenant_id=TENANT, name="system", template=text), by("olga"))


def remove(before: PromptState) -> Facts:
    return decide(before, RemovePrompt(tenant_id=TENANT, name="system"), by("olga"))


def test_a_new_text_is_a_new_version_and_the_same_text_is_none() -> None:
    assert change(state(), "One.") == [FIRST]
    assert change(state(FIRST), "One.") == []
    assert change(state(FIRST), "Two.") == [SECOND]
    assert change(state(FIRST, SECOND), "One.") == [FIRST], "back to the first is a change"


def test_what_is_not_there_cannot_be_taken_away_and_may_come_back_as_it_was() -> None:
    assert remove(state(FIRST)) == [GONE]
    assert change(state(FIRST, GONE), "One.") == [FIRST]
    for nothing in (state(), state(FIRST, GONE)):
        with pytest.raises(NotFound, match="no such prompt"):
            remove(nothing)


def test_a_state_is_the_same_after_it_was_stored() -> None:
    for known in (state(), state(FIRST), state(FIRST, GONE)):
        assert PromptState.thawed(known.frozen()) == known
        assert len(known.frozen()) < 200


def test_each_tenant_has_streams_of_its_own() -> None:
    names = ("system", "weekly", "a/b", "a")
    assert len({stream_of(tenant, name) for tenant in (TENANT, OTHER_TENANT) for name in names}) == 8
