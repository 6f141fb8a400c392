"""The projector: every read model of this code, each followed by a runner in a thread of its own."""

from __future__ import annotations

import threading
from collections import deque
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
    """Reads and opens each stretch of the log once for all runners that are about there."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._lock = threading.Lock()
        self._recent: deque[tuple[int, list[Event]]] = deque(maxlen=4)

    def read(self, connection: psycopg.Connection[Any], after: int, limit: int = BATCH) -> list[Event]:
        """The next events after a position, at most `limit`; never to be changed."""
        with self._lock:
            for start, events in self._recent:
                if start <= after < events[-1].position:
                    return [event for event in events if event.position > after][:limit]
            events = self._feed.read(connection, after, limit)
            if events:
                self._recent.append((after, events))
            return events


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
