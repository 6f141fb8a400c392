"""The facts about a person of a tenant, and the small state that decisions on them are made on.

A person's stream is theirs by name, so that holds and erasures of one person are decided one after another.
"""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID, uuid5

import immutables
import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bichat.events.envelope import Event, Fact, Private, Subject, fact

_NAMES = UUID("6f2d1c1e-4c1b-5d0a-9a35-6b1d0c7a5e01")
"""Under which the ids of persons' streams are made; final."""


def stream_of(tenant_id: UUID, user_id: str) -> UUID:
    """The stream of a person."""
    return uuid5(_NAMES, f"{tenant_id}/{user_id}")


class PersonFact(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """What is common to them."""

    subject: ClassVar[Subject] = "person"


@fact()
class HoldPlaced(PersonFact, frozen=True, kw_only=True, omit_defaults=True):
    """The person, or one dialogue of theirs, may not be forgotten until the hold is released."""

    user_id: str
    hold_id: UUID
    dialogue_id: UUID | None = None
    reason: Private = ""


@fact()
class HoldReleased(PersonFact, frozen=True, kw_only=True, omit_defaults=True):
    """A hold is over."""

    user_id: str
    hold_id: UUID


@fact()
class ErasureOrdered(PersonFact, frozen=True, kw_only=True, omit_defaults=True):
    """The person is to be forgotten: from here on nothing can stop it."""

    user_id: str
    erasure_id: UUID


@fact()
class PersonErased(PersonFact, frozen=True, kw_only=True, omit_defaults=True):
    """The person's keys are destroyed, and all of their dialogues know."""

    user_id: str
    erasure_id: UUID
    dialogues: int
    keys: int


class PersonState(Struct, frozen=True, kw_only=True):
    """What decisions on a person need to know."""

    tenant_id: UUID | None = None
    user_id: str = ""
    holds: immutables.Map[UUID, UUID | None] = immutables.Map()
    """By id: the dialogue that is held, or None for everything of the person."""
    erasing: UUID | None = None
    """The erasure that is under way."""
    erasures: int = 0
    """How often the person was forgotten."""

    fold_version: ClassVar[int] = 1

    @property
    def owner(self) -> str:
        """What is said about a person is sealed with their key."""
        return self.user_id

    @property
    def weight(self) -> int:
        """The holds."""
        return len(self.holds)

    def after(self, event: Event) -> PersonState:
        """The state after `event`."""
        match event.fact:
            case HoldPlaced() as placed:
                now = replace(self, holds=self.holds.set(placed.hold_id, placed.dialogue_id))
            case HoldReleased() as released:
                now = replace(self, holds=self.holds.delete(released.hold_id))
            case ErasureOrdered() as ordered:
                now = replace(self, erasing=ordered.erasure_id)
            case PersonErased():
                now = replace(self, erasing=None, erasures=self.erasures + 1)
            case _:
                return self
        return replace(now, tenant_id=event.tenant_id, user_id=event.fact.user_id)

    def frozen(self) -> bytes:
        """The state as JSON."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return msgspec.json.encode(_Frozen(**values | {"holds": dict(self.holds)}))

    @classmethod
    def thawed(cls, data: bytes) -> PersonState:
        """What `frozen` wrote."""
        frozen = _frozen.decode(data)
        values = {name: getattr(frozen, name) for name in frozen.__struct_fields__}
        return cls(**values | {"holds": immutables.Map(frozen.holds)})


class _Frozen(Struct, frozen=True, kw_only=True):
    tenant_id: UUID | None
    user_id: str
    holds: dict[UUID, UUID | None]
    erasing: UUID | None
    erasures: int


_frozen = msgspec.json.Decoder(_Frozen)
NOBODY = PersonState()
