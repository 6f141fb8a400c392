"""Brings new builds to the end of the log and keeps them there, with a projector's help or without."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from psycopg import Connection

from bichat.errors.unusable import BuildUnfit, EventTooNew
from bichat.projections import versions
from bichat.projections.processes import Database, Desk
from bichat.projections.read_model import Build
from bichat.projections.runner import Runner
from bichat.projections.sql import statement
from bichat.projections.tail import Tail

log = logging.getLogger(__name__)

LEFT_ALONE = 2.0
"""Seconds after which a new build that no projector follows is followed here."""
TAKEN_OVER = 10.0
"""Seconds in which a projector has to take over before the switch."""
NEAR = 100
"""Positions from the end of the log at which a build has caught up."""
STUCK = 30.0
"""Seconds without a step forward after which a build will not catch up by itself."""


class Followers:
    """Meanwhile the builds are followed: by a projector, or where there is none, by this process."""

    def __init__(self, database: Database, here: Desk, builds: Sequence[Build]) -> None:
        tail = Tail(here.feed, _NoBell())
        self._connection, self._builds = here.connection, builds
        self._runners = [Runner(build, database.url, tail) for build in builds]
        self._threads = [threading.Thread(target=_follow, args=(r,), daemon=True) for r in self._runners]

    def __enter__(self) -> Followers:
        if not self._all_held(LEFT_ALONE):
            for thread in self._threads:
                thread.start()  # where somebody follows already, it stands by
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def hand_over(self) -> None:
        """Lets projectors follow alone; raises `BuildUnfit` when they do so only for what serves.

        Then they are of older code, and what is switched to would stand still.
        """
        serving = [versions.serving(self._connection, build.model) for build in self._builds]
        if not any(_held(self._connection, build) for build in serving if build):
            return  # there is no projector at all, and whoever switches knows
        self._stop()
        if not self._all_held(TAKEN_OVER):
            names = ", ".join(build.id for build in self._builds)
            reason = "would be followed by nobody: the projectors that run are of older code"
            raise BuildUnfit(build=names, reason=reason)

    def _stop(self) -> None:
        for runner in self._runners:
            runner.stop()
        for thread in self._threads:
            if thread.ident:
                thread.join(2.0)

    def _all_held(self, patience: float) -> bool:
        deadline = time.monotonic() + patience
        while not (held := all(_held(self._connection, build) for build in self._builds)):
            if time.monotonic() > deadline:
                break
            time.sleep(0.05)
        return held


def _follow(runner: Runner) -> None:
    try:
        runner.run()
    except EventTooNew as error:
        log.error("%s is not followed: %s", runner.build.id, error)  # noqa: TRY400 - it says all there is


def _held(connection: Connection[Any], build: Build) -> bool:
    return _standing(connection, build)[0]


def catch_up(
    connection: Connection[Any], builds: Sequence[Build], progress: Callable[[str, int, int], None]
) -> None:
    """Returns once the builds are near the end of the log; raises `BuildUnfit` when one does not move."""
    for build in builds:
        start = last = _standing(connection, build)[1]
        moved = time.monotonic()
        while True:
            _, position, head, error = _standing(connection, build)
            progress("following", position - start, head - start)
            if head - position <= NEAR:
                break
            if position > last:
                last, moved = position, time.monotonic()
            if time.monotonic() - moved > STUCK:
                raise BuildUnfit(build=build.id, reason=f"does not follow the log: {error or 'no word'}")
            time.sleep(0.05)


def _standing(connection: Connection[Any], build: Build) -> tuple[bool, int, int, str]:
    row = connection.execute(statement("rebuild", "standing"), build.names | {"id": build.id}).fetchone()
    if row is None:
        raise BuildUnfit(build=build.id, reason="was dropped")
    running, position, head, error = row
    return running, position, head, error


class _NoBell:
    """Nobody rings for a build that serves nobody: it is enough to look."""

    def wait(self, timeout: float) -> bool:
        time.sleep(min(timeout, 0.05))
        return False
