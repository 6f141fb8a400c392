"""What surrounds every fact: who, when, by which command; and the catalog of stored names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from bichat.errors.unusable import EventTooNew

Private = Annotated[str | None, Meta(extra={"private": True})]
"""Text of a person, sealed in the log: `""` is not given, `None` is erased (its key is gone)."""


Subject = Literal["dialogue", "person", "audit", "prompt", "function"]
"""What a stream is about."""


class Fact(Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """Something that happened; the bare class name is its stored name, so it is final.

    A default is not written, so it is part of the stored form and never changes: a new meaning is
    a new `version` with an upcaster. Facts are registered by `@fact` and never subclassed. As trees of values
    they are freed with their last reference: looking for rings among thousands took a third of a reading.
    """

    version: ClassVar[int] = 1
    subject: ClassVar[Subject] = "dialogue"


class Actor(Struct, frozen=True, array_like=True, gc=False):
    """Who caused an event: a person by `sub`, a worker or the system by name."""

    kind: Literal["user", "worker", "system"]
    id: str


class Cause(Struct, frozen=True, array_like=True):
    """The event that led to this one."""

    stream_id: UUID
    version: int


class Metadata(Struct, frozen=True, kw_only=True):
    """What a command hands to each event it causes."""

    tenant_id: UUID
    actor: Actor
    command_id: UUID
    cause: Cause | None = None
    trace: str = ""
    """W3C traceparent of the request, when it is traced."""


class Event(Struct, frozen=True, kw_only=True, gc=False):
    """A fact with its envelope, as read from the log.

    `version` counts from 1 in its stream, `position` grows over the whole log (with gaps), `hash`
    covers everything stored and the hash of the event before it in the stream.
    """

    stream_id: UUID
    version: int
    position: int
    tenant_id: UUID
    command_id: UUID
    actor: Actor
    at: datetime
    """UTC; never earlier than the event before it in its stream."""
    recorded_at: datetime
    cause: Cause | None
    trace: str
    fact: Fact
    hash: bytes

    @property
    def subject(self) -> Subject:
        """What its stream is about."""
        return self.fact.subject

    # What the eventsourcing library calls them.
    @property
    def originator_id(self) -> UUID:
        """The stream's id."""
        return self.stream_id

    @property
    def originator_version(self) -> int:
        """The version in the stream."""
        return self.version


class Unreadable(Struct, frozen=True, kw_only=True):
    """Stands in the log's order for an event that cannot be read, and says why without a person's text."""

    stream_id: UUID
    version: int
    position: int
    tenant_id: UUID
    error: str
    subject: Subject = "dialogue"


Entry = Event | Unreadable
"""What a follower finds at one position of the log."""


Upcaster = Callable[[dict[str, Any]], dict[str, Any]]
F = TypeVar("F", bound=type[Fact])


class Kind(Struct, frozen=True):
    """How one kind of fact is stored."""

    cls: type[Fact]
    private: tuple[str, ...]
    upcasters: dict[int, Upcaster]
    """From a stored version to the next one; pure."""


_catalog: dict[str, Kind] = {}


def fact(*, upcasters: dict[int, Upcaster] | None = None) -> Callable[[F], F]:
    """Registers a fact under its bare class name, with what lifts its older stored forms."""

    def register(cls: F) -> F:
        if cls.__name__ in _catalog:
            raise TypeError(f"{cls.__name__} is registered twice")
        missing = set(range(1, cls.version)) - set(upcasters or {})
        if missing:
            raise TypeError(f"{cls.__name__} has no upcaster from version {sorted(missing)}")
        msgspec.json.Decoder(cls)  # prepares it: threads that are the first to convert to it, together, crash
        _catalog[cls.__name__] = Kind(cls, _private_fields(cls), upcasters or {})
        return cls

    return register


def kind(name: str, version: int = 1, position: int = 0) -> Kind:
    """The kind stored as `name`; raises `EventTooNew` when this code does not know it yet."""
    found = _catalog.get(name)
    if found is None or version > found.cls.version:
        raise EventTooNew(kind=name, version=version, position=position)
    return found


def kinds() -> Iterator[tuple[str, Kind]]:
    """Every registered stored name, in order of registration."""
    yield from _catalog.items()


def subject(name: str) -> Subject:
    """What the streams with facts stored as `name` are about."""
    found = _catalog.get(name)
    return found.cls.subject if found else "dialogue"


def has_text(fact: Fact) -> bool:
    """Whether there is text of a person in it, to be sealed."""
    return any(getattr(fact, name) for name in _catalog[type(fact).__name__].private)


def lacks_text(fact: Fact) -> bool:
    """Whether there was text of a person in it that could not be opened."""
    return any(getattr(fact, name) is None for name in _catalog[type(fact).__name__].private)


def to_data(fact: Fact) -> dict[str, Any]:
    """The fact as plain values, defaults left out, in field order."""
    data: dict[str, Any] = msgspec.to_builtins(fact)
    return data


def from_data(name: str, version: int, data: dict[str, Any], position: int = 0) -> Fact:
    """The fact stored as `name` at `version`, lifted to the current form."""
    entry = kind(name, version, position)
    for step in range(version, entry.cls.version):
        data = entry.upcasters[step](data)
    return msgspec.convert(data, entry.cls)


@cache
def _private_fields(cls: type[Fact]) -> tuple[str, ...]:
    hints = get_type_hints(cls, include_extras=True)
    return tuple(name for name in cls.__struct_fields__ if _is_private(hints[name]))


def _is_private(hint: Any) -> bool:
    return get_origin(hint) is Annotated and any(
        isinstance(mark, Meta) and (mark.extra or {}).get("private") for mark in get_args(hint)
    )
