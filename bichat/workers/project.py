"""The projector: every build that this code may write, each followed by a runner in a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence

import psycopg

from bichat.doorbell import Doorbell, Ear
from bichat.errors.unusable import DatabaseUnreachable
from bichat.events import schema
from bichat.events.envelope import Event
from bichat.events.feed import Feed
from bichat.projections import versions
from bichat.projections.read_model import Build
from bichat.projections.runner import Runner
from bichat.projections.tail import Tail
from bichat.workers.rebuilds import Rebuilds
from bichat.workers.unreached import Unreached

LOOK = 1.0
"""Seconds between two looks at which builds there are."""
_STOP_WITHIN = 1.8

log = logging.getLogger(__name__)


def run(
    database_url: str, feed: Feed, doorbell: Doorbell, stop: threading.Event, rebuilds: Rebuilds | None = None
) -> None:
    """Keeps the read models up to date until `stop` is set; ends within 2 s.

    Builds that come are followed within a second, those that go are left. `rebuilds` is looked after
    too, and asks for the main thread. Raises `EventTooNew` as soon as one runner meets an event that
    this code does not know.
    """
    tail, unreached = Tail(feed, ear := doorbell.ear()), Unreached(feed.keys)
    followers = Followers(lambda build: Runner(build, database_url, tail, told(build, doorbell)), stop, ear)
    try:
        while not stop.is_set():
            try:
                with schema.connect(database_url) as connection:
                    while not stop.is_set():
                        builds = versions.followed(connection)
                        followers.follow(builds)
                        unreached.look(connection, builds)
                        if rebuilds:
                            rebuilds.look(connection)
                        stop.wait(LOOK)
            except (psycopg.Error, DatabaseUnreachable) as error:
                # The runners say that the database is lost.
                log.debug("Cannot see which builds there are: %s", type(error).__name__)
                stop.wait(LOOK)
    finally:
        end = time.monotonic() + _STOP_WITHIN
        followers.stop(end)
        if rebuilds:
            rebuilds.stop(end - time.monotonic())
    if followers.failed:
        raise followers.failed[0]


class Followers:
    """The runners of a process; one that fails sets `stop`."""

    def __init__(self, runner: Callable[[Build], Runner], stop: threading.Event, ear: Ear) -> None:
        self._runner, self._stop, self._ear = runner, stop, ear
        self._running: dict[str, tuple[Runner, threading.Thread]] = {}
        self.failed: list[BaseException] = []

    def follow(self, builds: Iterable[Build]) -> None:
        """Follows these builds from now on, and no others."""
        wanted = {build.id: build for build in builds}
        for name, (runner, thread) in tuple(self._running.items()):
            if name not in wanted:
                runner.stop()
            if not thread.is_alive():
                del self._running[name]
        for name, build in wanted.items():
            if name not in self._running:
                runner = self._runner(build)
                thread = threading.Thread(target=self._run, args=(runner,), name=name, daemon=True)
                self._running[name] = runner, thread
                thread.start()

    def stop(self, end: float) -> None:
        """Stops all, at the latest at `end` of the monotonic clock."""
        for runner, _ in self._running.values():
            runner.stop()
        self._ear.end()
        for _, thread in self._running.values():
            thread.join(max(0.0, end - time.monotonic()))

    def _run(self, runner: Runner) -> None:
        try:
            runner.run()
        except BaseException as error:
            self.failed.append(error)
            self._stop.set()


def told(build: Build, doorbell: Doorbell) -> Callable[[Sequence[Event]], None]:
    """Whom to wake after a commit of `build`."""
    match build.model.name:
        case "transcripts":
            return lambda events: doorbell.projected({e.stream_id: e.version for e in events})
        case "replies":
            return lambda events: doorbell.replies()
        case "prompts":
            return lambda events: doorbell.prompts()
    return lambda events: None
