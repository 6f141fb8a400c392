"""The end of the log, read and opened once for all the runners of a process."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, Protocol

from psycopg import Connection

from bichat.events.envelope import Entry

KEPT = 500
"""Events kept for the slower runners, beside the last read; whoever is further behind reads alone."""
FEW = 32
"""A read of no more events was not cut short by its bytes: the bell tells of what comes after it."""


class Log(Protocol):
    """Where events come from (`events.feed.Feed`)."""

    def read(self, connection: Connection[Any], after: int, limit: int) -> Sequence[Entry]:
        """The next events after a position, at most `limit` and some megabytes; none only at the end."""


class Bell(Protocol):
    """What says that the log may have grown (`doorbell.Ear`)."""

    def wait(self, timeout: float) -> bool:
        """Whether it rang within `timeout` seconds, or since the last wait."""


class Tail:
    """Of the runners that have come to the end, one waits for the bell and reads for all."""

    def __init__(self, log: Log, bell: Bell) -> None:
        self._log, self._bell = log, bell
        self._changed = threading.Condition()
        self._reading = False
        self._behind = True
        """There may be more that the bell will not tell of."""
        self._start = self._end = -1
        self._events: list[Entry] = []
        """What follows `_start`, without a gap, up to `_end`."""

    def next(self, connection: Connection[Any], after: int, limit: int, timeout: float) -> Sequence[Entry]:
        """The next events after a position, at most `limit`; none when none came within `timeout` seconds.

        Reads on the caller's connection, if it is the caller's turn. Raises what the log raises.
        """
        with self._changed:
            if after > self._end:
                self._start, self._end, self._events, self._behind = after, after, [], True
            if after == self._end and self._reading:
                self._changed.wait(timeout)
            mine = after == self._end and not self._reading
            if mine:
                self._reading = True
            elif after >= self._start:  # what is kept may have moved on during the wait
                return self._kept(after, limit)
        if mine:
            return self._read(connection, after, limit, timeout)
        return self._log.read(connection, after, limit)  # far behind the others

    def _kept(self, after: int, limit: int) -> Sequence[Entry]:
        place = bisect_right(self._events, after, key=lambda entry: entry.position)
        return self._events[place : place + limit]

    def _read(self, connection: Connection[Any], after: int, limit: int, timeout: float) -> Sequence[Entry]:
        events: Sequence[Entry] = []
        behind = True
        try:
            if not self._behind:
                self._bell.wait(timeout)
            events = self._log.read(connection, after, limit)
            behind = len(events) >= min(limit, FEW)
        finally:
            with self._changed:
                self._reading, self._behind = False, behind
                self._keep(after, events)
                self._changed.notify_all()
        return events

    def _keep(self, after: int, events: Sequence[Entry]) -> None:
        if self._end != after or not events:
            return
        self._events += events
        self._end = events[-1].position
        kept = max(KEPT, len(events))
        if len(self._events) > 2 * kept:
            self._start = self._events[-kept - 1].position
            del self._events[:-kept]
