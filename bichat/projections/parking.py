"""What a build cannot digest: that dialogue waits from there on, all others go on, and later it is retried.

An event is undigestible when it cannot be read, when its fold raises, when the database refuses what
came of it, or when the projector died of it (`crashes`). Whatever else goes wrong parks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import psycopg
from msgspec import Struct
from msgspec.structs import replace
from psycopg import Connection
from psycopg.rows import args_row, class_row

from bichat.errors import Unavailable
from bichat.errors.unusable import Unusable
from bichat.events.envelope import Entry, Event, Subject
from bichat.logs import described
from bichat.projections import erasures
from bichat.projections.read_model import Build
from bichat.projections.sql import statement

_REFUSED = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded)
"""Of all that a database can say, what is about the values that it was given."""
_TROUBLE = (psycopg.Error, Unavailable, Unusable, OSError, MemoryError)


class Parked(Struct, frozen=True):
    """A dialogue that waits in one build, from the event on that could not be digested."""

    dialogue_id: UUID
    tenant_id: UUID
    position: int
    version: int
    error: str


class Batch(NamedTuple):
    """Events to apply, or applied, and the dialogues that are to be parked behind theirs."""

    events: list[Event]
    parked: list[Parked]


Digest = Callable[[Build, Connection[Any], Batch], Batch]
"""Applies events in the caller's transaction and returns what was applied and what is to be parked."""


def at(entry: Entry, error: str) -> Parked:
    """The dialogue of `entry`, to wait from there on."""
    return Parked(entry.stream_id, entry.tenant_id, entry.position, entry.version, error)


def sort_out(entries: Iterable[Entry], subject: Subject, waiting: Collection[UUID]) -> Batch:
    """What is about the subject, but in streams that wait already, up to an event that cannot be read."""
    batch, left_out = Batch([], []), set(waiting)
    for entry in entries:
        if entry.subject != subject or entry.stream_id in left_out:
            continue
        if isinstance(entry, Event):
            batch.events.append(entry)
        else:
            batch.parked.append(at(entry, entry.error))
            left_out.add(entry.stream_id)
    return batch


def together(build: Build, connection: Connection[Any], batch: Batch) -> Batch:
    """Applies everything at once, or raises."""
    if batch.events:
        build.model.apply(build, connection, batch.events)
    return batch


def one_by_one(build: Build, connection: Connection[Any], batch: Batch) -> Batch:
    """Applies dialogue by dialogue, of one that cannot be digested what stands before the culprit."""
    parked = {one.dialogue_id: one for one in batch.parked}
    digested: list[Event] = []
    streams: dict[UUID, list[Event]] = {}
    for event in batch.events:
        streams.setdefault(event.stream_id, []).append(event)
    for events in streams.values():
        if _tried(build, connection, events) is None:
            digested += events
            continue
        for event in events:
            if error := _tried(build, connection, [event]):
                parked[event.stream_id] = at(event, described(error))
                break
            digested.append(event)
    return Batch(digested, list(parked.values()))


def _tried(build: Build, connection: Connection[Any], events: Sequence[Event]) -> Exception | None:
    """Applies events, or leaves no trace of them and returns why."""
    try:
        with connection.transaction():
            build.model.apply(build, connection, events)
    except Exception as error:
        if not blames_event(error):
            raise
        return error
    return None


def blames_event(error: Exception) -> bool:
    """Whether one of the events is at fault, and not the database, the disk or the machine."""
    return isinstance(error, _REFUSED) or not isinstance(error, _TROUBLE)


def waiting(
    connection: Connection[Any], build: Build, entries: Iterable[Entry]
) -> tuple[bool, Collection[UUID]]:
    """Whether the build serves, and which of these dialogues wait; under the lock of its checkpoint."""
    name, shape, number = build.key
    dialogues = list({entry.stream_id for entry in entries})
    row = connection.execute(
        statement("parking", "waiting"),
        {"name": name, "shape": shape, "build": number, "dialogues": dialogues},
    ).fetchone()
    return row or (False, [])


def park(connection: Connection[Any], build: Build, found: Iterable[Parked]) -> None:
    """Lets dialogues wait."""
    for one in found:
        values = (one.dialogue_id, one.tenant_id, one.position, one.version, one.error)
        connection.execute(statement("parking", "park"), (*build.key, *values))


def parked(connection: Connection[Any], build: Build) -> list[Parked]:
    """The dialogues that wait, in the order of the log."""
    with connection.cursor(row_factory=class_row(Parked)) as cursor:
        return cursor.execute(statement("parking", "parked"), build.key).fetchall()


class Waits(Struct, frozen=True):
    """A dialogue that waits in a build: from which event on, since when, and why."""

    name: str
    shape: int
    build: int
    dialogue_id: UUID
    tenant_id: UUID
    version: int
    parked_at: datetime
    tried_at: datetime
    error: str

    def told(self) -> dict[str, Any]:
        """Everything, with the build's id first."""
        rest = {name: getattr(self, name) for name in self.__struct_fields__[3:]}
        at = {name: f"{rest[name]:%Y-%m-%d %H:%M:%S%z}" for name in ("parked_at", "tried_at")}
        return {"build": f"{self.name}_v{self.shape}_g{self.build}"} | rest | at


def everywhere(connection: Connection[Any]) -> list[Waits]:
    """What waits in all builds, in the order of the log."""
    with connection.cursor(row_factory=args_row(Waits)) as cursor:
        return cursor.execute(statement("parking", "everywhere")).fetchall()


# --- after a fix -----------------------------------------------------------------------------------


class Log(Protocol):
    """Where the events of one stream come from (`events.feed.Feed`)."""

    def stream(
        self, connection: Connection[Any], stream_id: UUID, first: int, upto: int, /
    ) -> Sequence[Entry]:
        """Events from version `first` on, as far as position `upto`: some megabytes; none at the end."""


class Retried(NamedTuple):
    """What became of a parked dialogue: `events` were applied, and it goes on, or waits at `parked`."""

    dialogue_id: UUID
    events: int
    parked: Parked | None


def retry(
    connection: Connection[Any], build: Build, log: Log, dialogue_id: UUID | None = None
) -> Iterator[Retried]:
    """Replays parked dialogues (or this one) in order, up to where the build is, and lets them go on.

    On a connection in autocommit mode, while runners run; may be given up between two results. The
    checkpoint is locked for a few thousand events at a time and never moved. Raises `EventTooNew`.
    """
    for one in parked(connection, build):
        if dialogue_id in (None, one.dialogue_id):
            yield _replay(connection, build, log, one.dialogue_id)


def _replay(connection: Connection[Any], build: Build, log: Log, dialogue_id: UUID) -> Retried:
    key, digested = (*build.key, dialogue_id), 0
    while True:
        with connection.transaction():
            # First, as the runner does; only then, in a statement of its own, what it may have changed.
            checkpoint = connection.execute(statement("parking", "hold"), build.key).fetchone()
            with connection.cursor(row_factory=class_row(Parked)) as cursor:
                one = cursor.execute(statement("parking", "one"), key).fetchone()
            if checkpoint is None or one is None:  # the build was dropped, or another was faster
                return Retried(dialogue_id, digested, None)
            entries = log.stream(connection, dialogue_id, one.version, checkpoint[0])
            if not entries:
                connection.execute(statement("parking", "unpark"), key)
                return Retried(dialogue_id, digested, None)
            events, stuck = one_by_one(build, connection, sort_out(entries, build.model.subject, ()))
            digested += len(events)
            last = entries[-1]
            behind = replace(one, position=last.position + 1, version=last.version + 1)
            now = stuck[0] if stuck else behind
            connection.execute(statement("parking", "tried"), (now.position, now.version, now.error, *key))
            ahead = erasures.log_ahead(connection)(dialogue_id, now.version, checkpoint[0])
            erasures.blank(connection, build, {dialogue_id: ahead.version} if ahead.version else {})
        if stuck:
            return Retried(dialogue_id, digested, now)
