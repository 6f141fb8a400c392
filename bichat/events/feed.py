"""The log in order, for followers: whoever reads from a position on misses nothing."""

from __future__ import annotations

from typing import Any

import psycopg
from psycopg.rows import tuple_row

from bichat.events.codec import EventMapper, key_ids
from bichat.events.envelope import Event
from bichat.events.keys import KeyStore
from bichat.events.recorder import COLUMNS, stored_row

_BYTES = 16_000_000
"""Stored bytes in one read, but for its last event: memory is bounded whatever people write."""

_AFTER = f"""
select {COLUMNS} from (
    select *, sum(octet_length(state)) over (order by notification_id) - octet_length(state) as before
    from (select * from bichat.stored_events where notification_id > %b
          order by notification_id limit %b) next
) counted
where before < {_BYTES} order by notification_id
"""  # noqa: S608 - columns and a number of ours


class Feed:
    """Reads batches of the whole log; position order is commit order, so there is nothing to wait for."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys
        self._mapper = EventMapper(keys.by_id)

    def read(self, connection: psycopg.Connection[Any], after: int, limit: int = 2000) -> list[Event]:
        """The next events after a position, at most `limit` and 16 MB, text opened; none only at the end.

        Raises `EventTooNew` or `EventUnreadable` for an event that this code cannot read.
        """
        with connection.cursor(binary=True, row_factory=tuple_row) as cursor:
            found = cursor.execute(_AFTER.encode(), (after, limit), prepare=True).fetchall()
        rows = [stored_row(columns) for columns in found]
        self._keys.prepare_ids(key_id for row in rows for key_id in key_ids(row))
        return [self._mapper.to_domain_event(row) for row in rows]
