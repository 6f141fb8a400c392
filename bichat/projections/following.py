"""Brings new builds to the end of the log and keeps them there, with a projector's help or without."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from psycopg import Connection

from bichat.errors import BuildStuck
from bichat.projections.processes import Database, Desk
from bichat.projections.read_model import Build
from bichat.projections.runner import Runner
from bichat.projections.sql import statement
from bichat.projections.tail import Tail

LEFT_ALONE = 2.0
"""Seconds after which a new build that no projector follows is followed here."""
NEAR = 100
"""Positions from the end of the log at which a build has caught up."""
STUCK = 30.0
"""Seconds without a step forward after which a build will not catch up by itself."""


@contextmanager
def followed(database: Database, here: Desk, builds: Sequence[Build]) -> Iterator[None]:
    """Meanwhile the builds are followed: by a projector, or where there is none, by this process."""
    tail = Tail(here.feed, _NoBell())
    runners = [Runner(build, database.url, tail) for build in builds]
    threads = [threading.Thread(target=runner.run, daemon=True) for runner in runners]
    deadline = time.monotonic() + LEFT_ALONE
    try:
        while time.monotonic() < deadline and not all(_standing(here.connection, b)[0] for b in builds):
            time.sleep(0.05)
        for thread in threads:
            thread.start()  # where somebody follows already, it stands by
        yield
    finally:
        for runner in runners:
            runner.stop()
        for thread in threads:
            if thread.ident:
                thread.join(2.0)


def catch_up(
    connection: Connection[Any], builds: Sequence[Build], progress: Callable[[str, int, int], None]
) -> None:
    """Returns once the builds are near the end of the log; raises `BuildStuck` when one does not move."""
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
                raise BuildStuck(build=build.id, reason=f"does not follow the log: {error or 'no word'}")
            time.sleep(0.05)


def _standing(connection: Connection[Any], build: Build) -> tuple[bool, int, int, str]:
    row = connection.execute(statement("rebuild", "standing"), build.names | {"id": build.id}).fetchone()
    if row is None:
        raise BuildStuck(build=build.id, reason="was dropped")
    running, position, head, error = row
    return running, position, head, error


class _NoBell:
    """Nobody rings for a build that serves nobody: it is enough to look."""

    def wait(self, timeout: float) -> bool:
        time.sleep(min(timeout, 0.05))
        return False
