"""Between an event and its stored row: JSON with sealed fields, named by the bare class name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, TypeVar
from uuid import UUID

import msgspec
from eventsourcing.domain import DomainEventProtocol
from eventsourcing.persistence import Mapper, StoredEvent
from msgspec import Meta, Struct

from bichat.errors import EventUnreadable
from bichat.errors.unusable import EventTooNew
from bichat.events import envelope
from bichat.events.envelope import Actor, Cause, Event, Fact, Metadata
from bichat.events.seal import PersonKey, Place, blank_fields, chain, open_fields, seal_fields

T = TypeVar("T")
Find = Callable[[UUID], PersonKey | None]
DEEPEST = 100
"""Levels of what is stored: much less than Python can follow, wherever it is asked to."""
_VALUE = re.compile("value '.*'", re.DOTALL)
"""What msgspec quotes: it may be a person's words, where they do not belong."""


@dataclass(frozen=True)
class StoredRow(StoredEvent):
    """A row of the log: the library's stored event with the columns that are ours."""

    tenant_id: UUID
    command_id: UUID
    hash: bytes
    prev_hash: bytes = b""
    """Known while writing only; a reader finds it in the row before."""
    actor: str | None = None
    """The person who caused it; known while writing only."""
    key_id: UUID | None = None
    """That sealed its text; known while writing only, if there is text."""
    position: int = 0
    recorded_at: datetime | None = None


class Draft(Struct, frozen=True, kw_only=True):
    """A fact about to become an event: all that is known before the log has given it a position."""

    stream_id: UUID
    version: int
    at: datetime
    by: Metadata
    fact: Fact
    key: PersonKey | None
    """Seals its private fields; None when it has none."""
    prev_hash: bytes

    @property
    def originator_id(self) -> UUID:
        """What the eventsourcing library calls the stream's id."""
        return self.stream_id

    @property
    def originator_version(self) -> int:
        """What the eventsourcing library calls the version."""
        return self.version

    def event(self, row: StoredRow) -> Event:
        """The event that this draft becomes as `row`."""
        return Event(
            stream_id=self.stream_id, version=self.version, position=row.position, fact=self.fact, at=self.at,
            tenant_id=self.by.tenant_id, command_id=self.by.command_id, actor=self.by.actor,
            cause=self.by.cause, trace=self.by.trace, recorded_at=row.recorded_at or self.at, hash=row.hash,
        )  # fmt: skip


class State(Struct, frozen=True, omit_defaults=True):
    """The JSON in the column `state`; its form is final."""

    v: int
    """Version of the fact's stored form."""
    at: Annotated[datetime, Meta(tz=True)]
    by: Actor
    data: dict[str, Any]
    cause: Cause | None = None
    trace: str = ""


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(State)
_id = lru_cache(10_000)(UUID)
"""A person's key is named again and again, and parsing its name is slow."""


class EventMapper(Mapper[UUID]):
    """Encodes drafts and decodes rows; pure but for looking up keys."""

    def __init__(self, find: Find) -> None:
        self._find = find

    def to_stored_event(self, draft: DomainEventProtocol[UUID]) -> StoredRow:
        """The row of a `Draft`: sealed, encoded and chained."""
        if not isinstance(draft, Draft):
            raise TypeError("only drafts can be stored")
        topic = type(draft.fact).__name__
        place = Place(draft.by.tenant_id, draft.stream_id, draft.version, topic)
        data = envelope.to_data(draft.fact)
        if draft.key:
            data = seal_fields(data, envelope.kind(topic), place, draft.key)
        version = type(draft.fact).version
        state = _encoder.encode(
            State(version, draft.at, draft.by.actor, data, draft.by.cause, draft.by.trace)
        )
        return StoredRow(
            originator_id=draft.stream_id, originator_version=draft.version, topic=topic, state=state,
            tenant_id=draft.by.tenant_id, command_id=draft.by.command_id,
            hash=chain(draft.prev_hash, place, draft.by.command_id, state), prev_hash=draft.prev_hash,
            actor=draft.by.actor.id if draft.by.actor.kind == "user" else None,
            key_id=draft.key.key_id if draft.key else None,
        )  # fmt: skip

    def to_domain_event(self, stored_event: StoredEvent, *, blind: bool = False) -> Event:
        """The event of a row; with `blind`, private fields stay shut and are `None`.

        Raises `EventTooNew` for a kind or version that this code does not know, else
        `EventUnreadable` for whatever cannot be understood or opened.
        """
        if not isinstance(stored_event, StoredRow):
            raise TypeError("only rows of our own log can be read")
        try:
            return self._decode(stored_event, blind)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise EventUnreadable(
                kind=stored_event.topic, version=stored_event.originator_version,
                stream=stored_event.originator_id, reason=_VALUE.sub("value …", str(error)),
            ) from error  # fmt: skip

    def _decode(self, row: StoredRow, blind: bool) -> Event:
        # What was decoded for its keys; nobody needs it after this, and the garbage collector would walk it.
        state = vars(row).pop("decoded", None) or decoded(_decoder, row.state)
        entry = envelope.kind(row.topic, state.v, row.position)
        stream_id = UUID(str(row.originator_id)) if isinstance(row.originator_id, str) else row.originator_id
        if blind:
            data = blank_fields(state.data, entry)
        else:
            place = Place(row.tenant_id, stream_id, row.originator_version, row.topic)
            data = open_fields(state.data, entry, place, self._find)
        return Event(
            stream_id=stream_id, version=row.originator_version, position=row.position,
            tenant_id=row.tenant_id, command_id=row.command_id, actor=state.by, at=state.at,
            recorded_at=row.recorded_at or state.at, cause=state.cause, trace=state.trace,
            fact=envelope.from_data(row.topic, state.v, data, row.position), hash=row.hash,
        )  # fmt: skip


def stored_state(row: StoredRow) -> State:
    """What is in `state`; decoded once: keys of a batch are looked up before its events are opened."""
    known = vars(row)
    if "decoded" not in known:
        known["decoded"] = decoded(_decoder, row.state)
    state: State = known["decoded"]
    return state


def decoded(decoder: msgspec.json.Decoder[T], stored: bytes, deepest: int = DEEPEST) -> T:
    """What the JSON says; raises `msgspec.DecodeError` also for what is nested more deeply than `deepest`."""
    try:
        if stored.count(b"[") + stored.count(b"{") > deepest and _levels(stored) > deepest:
            raise msgspec.DecodeError("it is nested too deeply")
        return decoder.decode(stored)
    except RecursionError:  # with what is on the stack already
        raise msgspec.DecodeError("it is nested too deeply") from None


def _levels(stored: bytes) -> int:
    level, levels = [msgspec.json.decode(stored)], 0
    while level:
        inside = (
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, (dict, list))
        )
        level, levels = [value for values in inside for value in values], levels + 1
    return levels


def key_ids(row: StoredRow) -> set[UUID]:
    """The keys that the sealed fields of `row` need; empty for what cannot be decoded."""
    try:
        data, entry = stored_state(row).data, envelope.kind(row.topic)
        sealed = (data[name] for name in entry.private if isinstance(data.get(name), list))
        return {_id(value[1]) for value in sealed}
    except (msgspec.DecodeError, EventTooNew, ValueError, IndexError, TypeError, AttributeError):
        return set()
