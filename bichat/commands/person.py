"""What ops ask about a person, and what is decided on it: pure functions of state and command."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from bichat.commands.command import Facts, PersonCommand
from bichat.errors import BeingForgotten, NotFound, UnderHold
from bichat.events.person import ErasureOrdered, HoldPlaced, HoldReleased, PersonErased, PersonState


class PlaceHold(PersonCommand, frozen=True, kw_only=True):
    """Forbids to forget the person, or one dialogue of theirs; who sends it has seen whose it is."""

    says: ClassVar[bool] = True

    hold_id: UUID
    dialogue_id: UUID | None = None
    reason: str


class ReleaseHold(PersonCommand, frozen=True, kw_only=True):
    """Ends a hold."""

    hold_id: UUID


class OrderErasure(PersonCommand, frozen=True, kw_only=True):
    """Decides that the person is to be forgotten; `restored`: again, for a backup has brought them back."""

    erasure_id: UUID
    restored: bool = False


class FinishErasure(PersonCommand, frozen=True, kw_only=True):
    """Says that the person's keys are destroyed and their dialogues know."""

    erasure_id: UUID
    dialogues: int
    keys: int


def decide_person(state: PersonState, command: PersonCommand) -> Facts:
    """What a command makes of what is known about a person."""
    match command:
        case PlaceHold() if state.erasing:
            raise BeingForgotten()
        case PlaceHold(user_id=user_id, hold_id=hold_id, dialogue_id=dialogue_id, reason=reason):
            placed = HoldPlaced(user_id=user_id, hold_id=hold_id, dialogue_id=dialogue_id, reason=reason)
            return [] if hold_id in state.holds else [placed]
        case ReleaseHold(user_id=user_id, hold_id=hold_id):
            if hold_id not in state.holds:
                raise NotFound(what="hold")
            return [HoldReleased(user_id=user_id, hold_id=hold_id)]
        case OrderErasure():
            return _ordered(state, command)
        case FinishErasure(user_id=user_id, erasure_id=erasure_id) as done:
            erased = PersonErased(
                user_id=user_id, erasure_id=erasure_id, dialogues=done.dialogues, keys=done.keys
            )
            return [erased] if state.erasing == erasure_id else []
    raise TypeError(type(command).__name__)


def _ordered(state: PersonState, command: OrderErasure) -> Facts:
    if state.erasing == command.erasure_id:
        return []
    if state.erasing and not command.restored:  # else: that one was done, in a log which is lost
        raise BeingForgotten()
    if state.holds and not command.restored:
        raise UnderHold(holds=", ".join(map(str, sorted(state.holds))))
    return [ErasureOrdered(user_id=command.user_id, erasure_id=command.erasure_id)]
