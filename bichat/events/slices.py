"""The log cut into slices of whole dialogues, each read dialogue by dialogue: for rebuilds and checks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any
from uuid import UUID

from msgspec import Struct
from psycopg import Connection
from psycopg.rows import tuple_row

from bichat.events.envelope import Entry
from bichat.events.feed import Feed
from bichat.events.recorder import COLUMNS, stored_row

SLICE = 20_000
"""Events in a slice, about: enough to be worth a transaction, few enough to be done again."""
_FETCHED, _BYTES = 256, 16_000_000
"""Rows read at once, and about how long they may be together."""
_FIRST = UUID(int=0)


class Slice(Struct, frozen=True):
    """The dialogues with an id from `first` to before `end` (None: all), or of them only those in `only`."""

    number: int
    first: UUID
    end: UUID | None
    only: tuple[UUID, ...] = ()

    @property
    def range(self) -> dict[str, Any]:
        """What statements call it."""
        return {"first": self.first, "end": self.end, "only": list(self.only)}


_WITHIN = (
    "originator_id >= %(first)s and (%(end)s::uuid is null or originator_id < %(end)s)"
    " and (cardinality(%(only)s::uuid[]) = 0 or originator_id = any(%(only)s))"
)
# By id, not by hash: the primary key is in this order, and so, as ids grow with time, is nearly the table.
_READ = f"""
select {COLUMNS} from bichat.stored_events where {_WITHIN} and notification_id <= %(fence)s
order by originator_id, originator_version
"""  # noqa: S608 - columns of ours
_BOUNDS = """
select percentile_disc(array(select n::float8 / %(slices)s from generate_series(1, %(slices)s - 1) n))
    within group (order by originator_id)
from bichat.stored_events tablesample system (%(percent)s) repeatable (1) where notification_id <= %(fence)s
"""
_COUNT = "select count(*) from bichat.stored_events where notification_id <= %s"
_SAMPLE = """
select array_agg(id) from (
    select originator_id as id from bichat.stored_events tablesample system (%s)
    group by originator_id order by random() limit %s) chosen
"""


def count(connection: Connection[Any], fence: int) -> int:
    """How many events there are up to a position."""
    row = connection.execute(_COUNT, (fence,)).fetchone()
    return int(row[0]) if row else 0


def cut(events: int, connection: Connection[Any], fence: int) -> list[UUID]:
    """Ids of streams at which to cut `events` events up to a position into slices of about one size."""
    slices = events // SLICE + 1
    if slices == 1:
        return []
    # Some hundred rows for each slice say well enough where it ends.
    percent = min(100.0, 100.0 * 500 * slices / events)
    values = {"slices": slices, "percent": percent, "fence": fence}
    row = connection.execute(_BOUNDS, values).fetchone()
    return sorted(set(row[0] or [])) if row else []


def sample(connection: Connection[Any], dialogues: int, events: int) -> list[UUID]:
    """About so many dialogues at random; longer ones are likelier."""
    percent = min(100.0, 100.0 * 50 * dialogues / max(events, 1))
    row = connection.execute(_SAMPLE, (percent, dialogues)).fetchone()
    return row[0] or [] if row else []


def between(bounds: Sequence[UUID]) -> list[Slice]:
    """The slices that lie between these ids; together they are all dialogues."""
    firsts, ends = (_FIRST, *bounds), (*bounds, None)
    return [Slice(n, *both) for n, both in enumerate(zip(firsts, ends, strict=True))]


def read(
    connection: Connection[Any], feed: Feed, slice_: Slice, fence: int
) -> Generator[list[Entry], None, None]:
    """The events of a slice up to a position, stream by stream, text opened, a few hundred at a time.

    Within the caller's transaction. Raises `EventTooNew`.
    """
    with connection.cursor("slice", binary=True, row_factory=tuple_row) as cursor:
        cursor.execute(_READ.encode(), {**slice_.range, "fence": fence})
        few = _FETCHED
        while rows := cursor.fetchmany(few):
            stored = [stored_row(columns) for columns in rows]
            longest = max(len(row.state) for row in stored)
            few = min(_FETCHED, 1 + _BYTES // longest)
            while stored:
                entries = feed.open(stored)
                stored = stored[len(entries) :]
                yield entries
