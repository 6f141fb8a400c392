"""All that happened in a tenant, page by page, up to where the log stood at the first one."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial
from typing import Annotated

from anyio import to_thread
from msgspec import Meta, MsgspecError, Struct

from bichat.audit.log import ROWS, TenantLog
from bichat.events.codec import StoredRow, stored_state

SLACK = timedelta(minutes=5)
"""How far the clock of whoever appended may be from the database's: events are found by the latter's."""

LOOKED_AT = 20_000
"""Rows that one page looks through at most; then it is short, and the next one goes on."""

BIGGEST = 2**53 - 1
Position = Annotated[int, Meta(ge=0, le=BIGGEST)]


class Place(Struct, frozen=True, array_like=True):
    """After which position a page begins, and where the last page ends."""

    after: Position
    end: Position


class Wanted(Struct, frozen=True, kw_only=True):
    """Which events: of one kind, caused by one person, at or after `since` and before `until`."""

    type: str | None = None
    user_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


class Found(Struct, frozen=True):
    """The rows of a page, and where the next one begins; None: this is the last."""

    rows: list[StoredRow]
    next: Place | None


async def page(log: TenantLog, wanted: Wanted, place: Place | None, limit: int) -> Found:
    """The next rows that are wanted."""
    place = await _narrowed(log, wanted, place or Place(0, await log.head()))
    found: list[StoredRow] = []
    after, looked_at, size = place.after, 0, limit + 1
    # Through one index, so that order is free; the rest of what is wanted is looked at row by row.
    kind = None if wanted.user_id else wanted.type
    while len(found) <= limit and looked_at < LOOKED_AT:
        rows = await log.feed(after=after, end=place.end, limit=size, type=kind, user_id=wanted.user_id)
        if not rows:
            return Found(found, None)
        found += await to_thread.run_sync(partial(_matching, rows, wanted))
        after, looked_at, size = rows[-1].position, looked_at + len(rows), ROWS
    if len(found) > limit:
        found = found[:limit]
        after = found[-1].position
    return Found(found, Place(after, place.end))


async def _narrowed(log: TenantLog, wanted: Wanted, place: Place) -> Place:
    after, end = place.after, place.end
    if wanted.since:
        after = max(after, await log.position_at(_moved(wanted.since, -SLACK)))
    if wanted.until:
        end = min(end, await log.position_at(_moved(wanted.until, SLACK)))
    return Place(after, end)


def _moved(moment: datetime, by: timedelta) -> datetime:
    try:
        return moment + by
    except OverflowError:
        return moment


def _matching(rows: list[StoredRow], wanted: Wanted) -> list[StoredRow]:
    if wanted.since or wanted.until:
        rows = [row for row in rows if _within(_at(row), wanted)]
    return [row for row in rows if wanted.type in (None, row.topic)]


def _at(row: StoredRow) -> datetime | None:
    try:
        return stored_state(row).at
    except (MsgspecError, ValueError):  # spoilt: the database knows when it came
        return row.recorded_at


def _within(at: datetime | None, wanted: Wanted) -> bool:
    if at is None:
        return False
    return (wanted.since is None or at >= wanted.since) and (wanted.until is None or at < wanted.until)
