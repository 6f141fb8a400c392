"""The projector: every read model of this code, each followed by a runner in a thread of its own."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from bichat.doorbell import Doorbell
from bichat.events.envelope import Event
from bichat.events.feed import Feed
from bichat.projections import versions
from bichat.projections.read_model import Build
from bichat.projections.runner import BATCH, Runner, connect


class SharedFeed:
    """Reads and opens the log once for all runners of a process, which are about at one place."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lock = threading.Lock()
        self._start = self._end = -1
        self._recent: list[Event] = []
        """What follows `_start`, without a gap, up to `_end`."""

    def read(self, connection: psycopg.Connection[Any], after: int, limit: int = BATCH) -> list[Event]:
        """The next events after a position, at most `limit`."""
        with self._lock:
            if self._start <= after < self._end:
                place = bisect_right(self._recent, after, key=_position)
                return self._recent[place : place + limit]
            if after >= self._end:
                return self._keep(after, self._feed.read(connection, after, limit))
        return self._feed.read(connection, after, limit)  # far behind the others

    def _keep(self, after: int, events: list[Event]) -> list[Event]:
        if after != self._end:
            self._start, self._recent = after, []
        self._recent += events
        if len(self._recent) > 3 * BATCH:
            self._start = self._recent[-BATCH - 1].position
            del self._recent[:-BATCH]
        self._end = self._recent[-1].position if self._recent else after
        return events


def _position(event: Event) -> int:
    return event.position


def run(database_url: str, feed: Feed, doorbell: Doorbell, stop: threading.Event) -> None:
    """Keeps the read models up to date until `stop` is set; ends within 2 s.

    Raises `EventTooNew` as soon as one runner meets an event that this code does not know.
    """
    shared = SharedFeed(feed)
    with connect(database_url) as connection:
        builds = versions.followed(connection)
    failed: list[BaseException] = []
    runners = [Runner(b, database_url, shared.read, doorbell.ear(), told(b, doorbell)) for b in builds]

    def follow(runner: Runner) -> None:
        try:
            runner.run()
        except BaseException as error:
            failed.append(error)
            stop.set()

    threads = [threading.Thread(target=follow, args=(r,), name=r.build.id, daemon=True) for r in runners]
    for thread in threads:
        thread.start()
    stop.wait()
    for runner in runners:
        runner.stop()
    for thread in threads:
        thread.join(timeout=2.0)
    if failed:
        raise failed[0]


def told(build: Build, doorbell: Doorbell) -> Callable[[Sequence[Event]], None]:
    """Whom to wake after a commit of `build`."""
    match build.model.name:
        case "transcripts":
            return lambda events: doorbell.projected({e.stream_id: e.version for e in events})
        case "replies":
            return lambda events: doorbell.replies()
    return lambda events: None
