"""What auditors read: events with who, when and by which command; a dialogue as it was, its chain checked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Protocol
from uuid import UUID

from msgspec import UNSET, MsgspecError, Struct, UnsetType

from bichat.errors import ChainBroken, EventUnreadable, LogUnreadable
from bichat.errors.unusable import EventTooNew
from bichat.events import envelope
from bichat.events.codec import EventMapper, State, StoredRow, key_ids, stored_state
from bichat.events.envelope import Cause, Event, Subject
from bichat.events.keys.store import KeyStore
from bichat.events.recorder import stored_row
from bichat.events.seal import GENESIS, Opener, Place, chain, open_fields
from bichat.events.transcript import Dialogue, transcribed

STRANGE = (ArithmeticError, AttributeError, LookupError, MsgspecError, TypeError, ValueError)
"""What reading and folding raise for events that bichat has not written."""


class Doer(Struct, frozen=True):
    """Who caused an event: a person by their user id, a worker or the system by name."""

    kind: str
    id: str


class Reason(Struct, frozen=True):
    """The event that led to another one."""

    stream_id: UUID
    version: int


class AuditEvent(Struct, frozen=True, kw_only=True):
    """An event as auditors see it: `data` as stored, but for its text, which is opened.

    Text that is gone is null, with `"erased": true` beside it. What cannot be read (it was changed, or is
    newer than this code) says why in `unreadable`. `prev_hash` is null when the event before it is missing;
    hashes are hexadecimal. Streams about persons or the audit itself have no `dialogue_id`.
    """

    position: int
    stream_id: UUID
    subject: Subject
    dialogue_id: UUID | None
    version: int
    type: str
    at: datetime | None
    recorded_at: datetime | None
    actor: Doer | None
    command_id: UUID
    cause: Reason | UnsetType = UNSET
    data: dict[str, Any] | None
    unreadable: str | UnsetType = UNSET
    prev_hash: str | None
    hash: str


class Openers(Protocol):
    """Where the keys are that open text, or what stands for them."""

    def prepare_ids(self, key_ids: Iterable[UUID], /) -> object:
        """Told which will be asked for."""

    def by_id(self, key_id: UUID, /) -> Opener | None:
        """What opens text that was sealed with this key; None when there is nothing.

        Raises `InvalidTag` when it is damaged.
        """


def chained_row(columns: Sequence[Any]) -> StoredRow:
    """A row as selected by `COLUMNS` and the hash of the event before it."""
    *stored, previous = columns
    row = stored_row(stored)
    vars(row)["prev_hash"] = previous or (GENESIS if row.originator_version == 1 else b"")
    return row


def audit_events(rows: Sequence[StoredRow], keys: Openers) -> list[AuditEvent]:
    """These rows, which know the hash before them, as auditors see them. Blocks."""
    keys.prepare_ids(key_id for row in rows for key_id in key_ids(row))
    return [_audit_event(row, keys) for row in rows]


def _audit_event(row: StoredRow, keys: Openers) -> AuditEvent:
    state, data, trouble = _read(row, keys)
    stream_id, subject = _stream_id(row), envelope.subject(row.topic)
    cause = state.cause if state else None
    return AuditEvent(
        position=row.position,
        stream_id=stream_id,
        subject=subject,
        dialogue_id=stream_id if subject == "dialogue" else None,
        version=row.originator_version,
        type=row.topic,
        at=state.at if state else None,
        recorded_at=row.recorded_at,
        actor=Doer(state.by.kind, state.by.id) if state else None,
        command_id=row.command_id,
        cause=_reason(cause) if cause else UNSET,
        data=data,
        unreadable=trouble or UNSET,
        prev_hash=row.prev_hash.hex() or None,
        hash=row.hash.hex(),
    )


def _stream_id(row: StoredRow) -> UUID:
    found = row.originator_id
    return UUID(found) if isinstance(found, str) else found


def _reason(cause: Cause) -> Reason:
    return Reason(cause.stream_id, cause.version)


def _read(row: StoredRow, keys: Openers) -> tuple[State | None, dict[str, Any] | None, str]:
    """What is stored, its data with the text opened, and why that cannot be had."""
    state = None
    try:
        state = stored_state(row)
        entry = envelope.kind(row.topic, state.v, row.position)
        place = Place(row.tenant_id, _stream_id(row), row.originator_version, row.topic)
        data = open_fields(state.data, entry, place, keys.by_id)
    except (EventUnreadable, EventTooNew) as error:
        return state, None, str(error)
    except STRANGE as error:  # somebody has put it there; the error may quote it
        return state, None, f"{row.topic} cannot be read: {type(error).__name__}"
    if any(data.get(name) is None and state.data.get(name) is not None for name in entry.private):
        data["erased"] = True
    return state, data, ""


# --- a dialogue as it was ---------------------------------------------------------------------------


class Unfolding:
    """A dialogue folded from its stored rows up to a version or a time, its hash chain checked on the way."""

    def __init__(self, keys: KeyStore, *, version: int | None = None, at: datetime | None = None) -> None:
        """Neither: up to the end."""
        self._keys, self._version, self._at = keys, version, at
        self._hash = GENESIS
        self.dialogue: Dialogue | None = None
        self.version = 0
        """Of the newest event folded."""

    def take(self, rows: Sequence[StoredRow]) -> bool:
        """Folds what comes next; whether more is wanted. Blocks.

        Raises `ChainBroken` at the first event that is not what was stored, and `LogUnreadable` at one
        that is newer than this code.
        """
        # A dialogue is one person's, who has few keys: each is asked for once, and not a thousand times.
        mapper, before = EventMapper(cache(self._keys.by_id)), self.version
        try:
            self.dialogue = transcribed(self.dialogue, self._wanted(rows, mapper))
        except EventTooNew as error:
            raise LogUnreadable(reason=error) from error
        except EventUnreadable as error:
            raise ChainBroken(version=self.version + 1, reason=error.facts["reason"]) from error
        except STRANGE as error:
            reason = "it does not follow from what was before it"
            raise ChainBroken(version=self.version, reason=reason) from error
        return bool(rows) and self.version - before == len(rows) and self.version != self._version

    def _wanted(self, rows: Iterable[StoredRow], mapper: EventMapper) -> Iterator[Event]:
        for row in rows:
            if self._version is not None and row.originator_version > self._version:
                return
            self._expect_chained(row)
            event = mapper.to_domain_event(row)
            if self._at is not None and event.at > self._at:
                return
            self.version, self._hash = event.version, event.hash
            yield event

    def _expect_chained(self, row: StoredRow) -> None:
        due = self.version + 1
        if row.originator_version != due:
            raise ChainBroken(version=due, reason=f"version {row.originator_version} stands in its place")
        place = Place(row.tenant_id, _stream_id(row), due, row.topic)
        if chain(self._hash, place, row.command_id, row.state) != row.hash:
            raise ChainBroken(version=due, reason="its hash does not fit what is stored")
