"""Rebuilds that operators asked for over HTTP, each in a child process, one at a time."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

from psycopg import Connection

from bichat.embedded import Part
from bichat.projections import requested

AGAIN = 30.0
"""Seconds from one start of the same rebuild to the next, at least."""
COMMAND = (sys.executable, "-m", "bichat", "projections", "rebuild", "--logged")

log = logging.getLogger(__name__)


class Rebuilds:
    """At most one child process; what it leaves undone, it or another goes on with later."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """`environ`: what to start the children with (`config.environment`)."""
        self._environ = environ
        self._part: Part | None = None
        self._due: dict[str, float] = {}

    def look(self, connection: Connection[Any]) -> None:
        """Starts what waits, unless something runs; from the main thread, called often, returns soon."""
        if self._part:
            status = self._part.exit_status
            if status is None:
                return
            if not status:
                self._due = {}  # whatever is asked for next is a new thing
            else:
                log.error("The %s ended with status %s", self._part.name, status)
            self._part = None
        now = time.monotonic()
        for name in requested.waiting(connection):
            if self._due.get(name, now) <= now:
                self._due[name] = now + AGAIN
                log.info("The rebuild of %s starts, as asked for", name)
                self._part = Part(f"rebuild of {name}", [*COMMAND, name], env=self._environ)
                self._part.launch()
                break

    def stop(self, patience: float) -> None:
        """Stops what runs; it can be resumed."""
        if self._part:
            self._part.stop(patience)
