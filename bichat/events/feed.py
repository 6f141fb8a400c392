"""The log in order, for followers: whoever reads from a position on misses nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from bichat.errors import EventUnreadable
from bichat.errors.unusable import EventTooNew
from bichat.events import envelope
from bichat.events.codec import EventMapper, StoredRow, key_ids
from bichat.events.envelope import Entry, Unreadable
from bichat.events.keys.store import KeyStore
from bichat.events.recorder import COLUMNS, stored_row

_BYTES = 16_000_000
"""Stored bytes in one read, but for its last event: memory is bounded whatever people write."""

_BOUNDED = f"""
select {COLUMNS} from (
    select *, sum(octet_length(state)) over (order by notification_id) - octet_length(state) as before
    from (select * from bichat.stored_events where {{where}} limit %b) next
) counted
where before < {_BYTES} order by notification_id
"""  # noqa: S608 - columns and a number of ours
_AFTER = _BOUNDED.format(where="notification_id > %b order by notification_id")
_STREAM = _BOUNDED.format(
    where="originator_id = %b and originator_version >= %b and notification_id <= %b"
    " order by originator_version"
)


class Feed:
    """Reads batches of the whole log; position order is commit order, so there is nothing to wait for."""

    def __init__(self, keys: KeyStore) -> None:
        self.keys = keys

    def read(self, connection: psycopg.Connection[Any], after: int, limit: int = 2000) -> list[Entry]:
        """The next events after a position, at most `limit` and 16 MB, text opened; none only at the end.

        What comes after an event that is newer than this code is left for the next read, which then
        raises `EventTooNew`.
        """
        return self._read(connection, _AFTER, (after, limit))

    def stream(
        self, connection: psycopg.Connection[Any], stream_id: UUID, first: int, upto: int, limit: int = 2000
    ) -> list[Entry]:
        """The same for one stream: its events from version `first` on, as far as position `upto`."""
        return self._read(connection, _STREAM, (stream_id, first, upto, limit))

    def _read(
        self, connection: psycopg.Connection[Any], query: str, parameters: Sequence[Any]
    ) -> list[Entry]:
        with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
            found = cursor.execute(query.encode(), parameters, prepare=True).fetchall()
        return self.open([stored_row(columns) for columns in found])

    def open(self, rows: Sequence[StoredRow]) -> list[Entry]:
        """These rows as events; what comes after one that is newer than this code is left out.

        Raises `EventTooNew` when the first one is.
        """
        entries: list[Entry] = []

        def others() -> Iterator[UUID]:
            for row in rows[len(entries) + 1 :]:
                yield from key_ids(row)

        # Mostly all keys are held: when the first one is not, all that come after it are asked for as well.
        once = others()
        mapper = EventMapper(lambda key_id: self.keys.by_id(key_id, once))
        try:
            for row in rows:
                entries.append(_entry(mapper, row))
        except EventTooNew:
            if not entries:
                raise
        return entries


def _entry(mapper: EventMapper, row: StoredRow) -> Entry:
    try:
        return mapper.to_domain_event(row)
    except EventUnreadable as error:
        reason = str(error)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Well-formed JSON that is not what an upcaster or a cipher expects. It may quote what it met.
        reason = f"{row.topic} cannot be read: {type(error).__name__}"
    return Unreadable(
        stream_id=UUID(str(row.originator_id)), version=row.originator_version, position=row.position,
        tenant_id=row.tenant_id, error=reason, subject=envelope.subject(row.topic),
    )  # fmt: skip
