"""One auditor of one tenant: whatever is read is in the log first, and comes from the tenant's rows alone."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any, Generic, TypeVar
from uuid import UUID

from anyio import to_thread
from msgspec import Struct
from msgspec.structs import replace
from uuid_utils.compat import uuid7

from bichat.audit import feed
from bichat.audit.attempts import CALLS, KINDS, STARTS, Attempt, Attempts, Key, called
from bichat.audit.feed import Place, Wanted
from bichat.audit.log import BYTES, TenantLog
from bichat.audit.request import Opened, Rebuilt, rebuilt, with_ranges
from bichat.commands.audit import RecordReading
from bichat.commands.execute import Executor
from bichat.errors import (
    ChainBroken,
    EventUnreadable,
    Invalid,
    LogUnreadable,
    NotFound,
    Unavailable,
    VersionRace,
)
from bichat.errors.unusable import EventTooNew
from bichat.events import envelope
from bichat.events.audit import Reading
from bichat.events.codec import StoredRow
from bichat.events.dialogue import DialogueStarted, ReplyStarted
from bichat.events.envelope import Actor, Event, Metadata
from bichat.events.history import AuditEvent, Unfolding, audit_events
from bichat.events.transcript import Dialogue
from bichat.projections.reads import Reads

T = TypeVar("T")

_ENDS = 500
"""Rows after the first attempt that are searched for ends; those that come later are asked for singly."""


class Page(Struct, Generic[T], frozen=True):
    """Some of it, and the place after which the rest begins; None: that was all."""

    data: list[T]
    next: Any


class Auditor:
    """Raises `Unavailable` kinds and shows nothing when a reading cannot be recorded."""

    def __init__(self, executor: Executor, reads: Reads, tenant_id: UUID, actor: Actor) -> None:
        self._executor, self._actor, self._tenant_id = executor, actor, tenant_id
        self._keys = executor.ledger.keys
        self._log = TenantLog(reads, tenant_id)

    async def record(self, what: Reading, dialogue_id: UUID | None = None, **asked: object) -> None:
        """Says in the log what is about to be read, with those parameters that were given."""
        given = {name: _text(value) for name, value in asked.items() if value is not None}
        command = RecordReading(tenant_id=self._tenant_id, what=what, dialogue_id=dialogue_id, asked=given)
        by = Metadata(tenant_id=self._tenant_id, actor=self._actor, command_id=uuid7())
        try:
            await self._executor.execute(command, by)
        except VersionRace:
            raise Unavailable from None

    async def events(self, dialogue_id: UUID, after: int, limit: int) -> Page[AuditEvent]:
        """The events of a dialogue with versions above `after`."""
        await self.record("events", dialogue_id, after=after or None, limit=limit)
        await self._first(dialogue_id)
        rows = await self._log.events(dialogue_id, after=after, limit=limit)
        last = rows[-1].originator_version if rows else 0
        more = bool(rows) and await self._log.stream(dialogue_id, after=last, limit=1)
        return Page(await _aside(audit_events, rows, self._keys), last if more else None)

    async def feed(self, wanted: Wanted, place: Place | None, limit: int) -> Page[AuditEvent]:
        """All that happened in the tenant, dialogues or not."""
        asked = {name: getattr(wanted, name) for name in wanted.__struct_fields__}
        await self.record("feed", after=place and place.after, limit=limit, **asked)
        found = await feed.page(self._log, wanted, place, limit)
        return Page(await _aside(audit_events, found.rows, self._keys), found.next)

    async def dialogue(
        self, dialogue_id: UUID, *, version: int | None = None, at: datetime | None = None
    ) -> Dialogue:
        """The dialogue as it was at a version or a time, whole; as it is now without.

        Raises `Invalid` for a version that is not there, `NotFound` for a time before it began, and
        `ChainBroken`.
        """
        await self.record("dialogue", dialogue_id, version=version, at=at)
        unfolding = Unfolding(self._keys, version=version, at=at)
        rows = _of_dialogue(await self._log.stream(dialogue_id, upto=version, bytes=BYTES))
        while await _aside(unfolding.take, rows):
            rows = await self._log.stream(dialogue_id, after=unfolding.version, upto=version, bytes=BYTES)
        if unfolding.dialogue is None:
            raise NotFound(what="dialogue")
        if version is not None and unfolding.version < version:
            raise Invalid(field="version", reason=f"there is only version {unfolding.version}")
        return unfolding.dialogue

    async def attempts(self, dialogue_id: UUID, after: int, limit: int) -> Page[Attempt]:
        """What the model was shown, attempt by attempt; `after` is the version of the last one seen."""
        await self.record("attempts", dialogue_id, after=after or None, limit=limit)
        await self._first(dialogue_id)
        starts = await self._log.stream(dialogue_id, after=after, limit=limit + 1, kinds=STARTS)
        known, log = Attempts(), Opened(self._log.stream, self._keys, blind=True)
        known.take(await _aside(log.events, starts[:limit]))
        if starts:
            first = starts[0].originator_version
            rest = await self._log.stream(dialogue_id, after=first, limit=_ENDS, kinds=KINDS)
            known.take(await _aside(log.events, rest), starts=False)
        for message_id in known.due:
            rest = await self._log.stream(dialogue_id, after=after, kinds=KINDS, about=message_id)
            known.take(await _aside(log.events, rest), starts=False)
        shown = await _aside(with_ranges, log, dialogue_id, list(known.known.values()))
        return Page(shown, shown[-1].version if len(starts) > limit else None)

    async def attempt(self, dialogue_id: UUID, message_id: UUID, number: int) -> tuple[Attempt, Rebuilt]:
        """One attempt, and its request rebuilt byte for byte. Raises `NotFound`."""
        await self.record("attempts", dialogue_id, message_id=message_id, attempt=number)
        first = await self._first(dialogue_id)
        log, known = Opened(self._log.stream, self._keys), Attempts()
        about = await self._log.stream(dialogue_id, kinds=(*KINDS, *CALLS), about=message_id)
        [begun, *events] = await _aside(log.events, [first, *about])
        known.take(events)
        key = Key(message_id, number)
        if key not in known.known:
            raise NotFound(what="attempt")
        [attempt] = await _aside(with_ranges, log, dialogue_id, [known.known[key]])
        sent = await _aside(self._rebuilt, log, begun, _start(events, key))
        return attempt, replace(sent, calls=tuple(called(events, key)))

    def _rebuilt(self, log: Opened, begun: Event, start: Event) -> Rebuilt:
        assert isinstance(begun.fact, DialogueStarted)  # noqa: S101 - for the type checker
        assert isinstance(start.fact, ReplyStarted)  # noqa: S101
        asked = log.question(begun.stream_id, start.fact.message_id, start.version)
        keys = self._keys.generations(self._tenant_id, begun.fact.user_id)
        return rebuilt(log, begun, asked, start.fact, keys)

    async def _first(self, stream_id: UUID) -> StoredRow:
        """Its first event; raises `NotFound` likewise."""
        return _of_dialogue(await self._log.stream(stream_id, limit=1))[0]


def _of_dialogue(rows: list[StoredRow]) -> list[StoredRow]:
    """A stream's first rows; raises `NotFound` for another tenant's, no dialogue, or nothing at all."""
    if not rows or envelope.subject(rows[0].topic) != "dialogue":
        raise NotFound(what="dialogue")
    return rows


def _start(events: list[Event], key: Key) -> Event:
    facts = ((event, event.fact) for event in events)
    return next(e for e, fact in facts if isinstance(fact, ReplyStarted) and _key(fact) == key)


def _key(started: ReplyStarted) -> Key:
    return Key(started.message_id, started.attempt)


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


async def _aside(work: Callable[..., T], *given: Any) -> T:
    """In a thread: it opens text, and may ask for keys."""
    try:
        return await to_thread.run_sync(partial(work, *given))
    except EventTooNew as error:
        raise LogUnreadable(reason=error) from error
    except EventUnreadable as error:
        raise ChainBroken(version=error.facts["version"], reason=error.facts["reason"]) from error
