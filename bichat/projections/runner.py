"""One loop that keeps one build of a read model up to date with the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Protocol

import psycopg

from bichat.errors import BichatError, EventTooNew, Unavailable
from bichat.events.envelope import Event
from bichat.projections.read_model import Build
from bichat.projections.sql import statement

BATCH = 2000
"""Events folded in one transaction, at most."""
POLL = 0.25
"""Seconds between two looks at the log when no bell rings."""
STANDBY = 0.5
"""Seconds between two tries to take over from another runner."""
_LONGEST_WAIT = 2.0
_LOST = (psycopg.OperationalError, psycopg.InterfaceError)

log = logging.getLogger(__name__)


class Source(Protocol):
    """Where a runner's events come from (`tail.Tail`)."""

    def next(
        self, connection: psycopg.Connection[Any], after: int, limit: int, timeout: float
    ) -> list[Event]:
        """The next events after a position, at most `limit`; none after `timeout` seconds without any."""


class Stale(BichatError):
    """{build} is no longer at position {position}: another runner has moved it."""


class Runner:
    """Follows the log for one build; while another runner does so already, stands by.

    `applied` is told of the events of each commit. `run` ends when `stop` is called, within a second,
    or raises `EventTooNew`. Everything else is tried again, with waits that grow to 2 s: what the fold
    cannot digest stops the checkpoint before it, in state 'stopped' with the error, and skips nothing.
    """

    def __init__(
        self, build: Build, database_url: str, source: Source,
        applied: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:  # fmt: skip
        self.build = build
        self._url = database_url
        self._source = source
        self._applied = applied
        self._stopping = threading.Event()
        self._key = (build.model.name, build.model.shape, build.number)
        self._limit = BATCH
        self._wait = 0.0
        self._trouble = ""

    def stop(self) -> None:
        """Makes `run` end."""
        self._stopping.set()

    def run(self) -> None:
        """Follows the log until stopped."""
        while not self._stopping.is_set():
            try:
                with closing(connect(self._url)) as connection:
                    if self._take_over(connection):
                        self._follow(connection)
            except EventTooNew:
                raise
            except Stale as error:
                log.warning("%s", error)
            except (*_LOST, Unavailable) as error:
                self._pause("%s lost its database: %s", error)
            except Exception as error:
                self._pause("%s stopped: %s", error)

    def _take_over(self, connection: psycopg.Connection[Any]) -> bool:
        """Waits for the lock of this build, which its holder's connection takes along when it dies."""
        while not self._stopping.is_set():
            if _one(connection, statement("runner", "lock"), (self.build.id,)):
                return True
            self._stopping.wait(STANDBY)
        return False

    def _follow(self, connection: psycopg.Connection[Any]) -> None:
        position = int(_one(connection, statement("runner", "position"), self._key))
        while not self._stopping.is_set():
            try:
                events = self._source.next(connection, position, self._limit, POLL)
                if events:
                    self.apply(connection, position, events)
            except Exception as error:
                if not isinstance(error, Stale | Unavailable) and not connection.closed:
                    self._stumbled(connection, position, error)
                raise
            self._well()
            if events:
                position = events[-1].position
                self._applied(events)
                self._stopping.wait(self.build.model.pace)

    def apply(self, connection: psycopg.Connection[Any], position: int, events: Sequence[Event]) -> None:
        """Folds events in and moves the checkpoint from `position` to the last, all or nothing.

        Raises `Stale` when the checkpoint is elsewhere. Its row is locked first, so of two runners
        that were at one place the second waits, and then finds itself refused.
        """
        with connection.transaction():
            moved = connection.execute(
                statement("runner", "advance"), (events[-1].position, *self._key, position)
            )
            if moved.rowcount != 1:
                raise Stale(build=self.build.id, position=position)
            self.build.model.apply(self.build, connection, events)

    def _stumbled(self, connection: psycopg.Connection[Any], position: int, error: Exception) -> None:
        """Leaves the error for ops, and comes nearer to the event that causes it with smaller batches."""
        reason = f"{describe(error)}, in the next {self._limit} after position {position}"
        self._limit = max(1, self._limit // 4)
        connection.execute(statement("runner", "stopped"), (reason, *self._key, position))

    def _pause(self, message: str, error: Exception) -> None:
        trouble = message % (self.build.id, describe(error))
        log.log(logging.DEBUG if trouble == self._trouble else logging.ERROR, trouble)
        self._trouble = trouble
        self._wait = min(max(self._wait * 2, 0.05), _LONGEST_WAIT)
        self._stopping.wait(self._wait)

    def _well(self) -> None:
        if self._trouble:
            log.warning("%s goes on", self.build.id)
        self._wait, self._trouble = 0.0, ""
        self._limit = min(self._limit * 2, BATCH)


def connect(url: str) -> psycopg.Connection[Any]:
    """A follower's connection. What it commits may be lost in a crash of the server, with its checkpoint."""
    # Keepalives, here and on the server: a machine that vanished must not keep the lock for hours.
    connection = psycopg.connect(
        url, autocommit=True, connect_timeout=5, application_name="bichat-projector", prepare_threshold=0,
        keepalives_idle=5, keepalives_interval=2, keepalives_count=3,
    )  # fmt: skip
    connection.execute(statement("runner", "configure"), prepare=False)
    return connection


def describe(error: Exception) -> str:
    """An error without a person's text: folds speak of ids only, the database quotes values it refuses."""
    if isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        return f"{type(error).__name__} ({error.sqlstate})"
    if isinstance(error, psycopg.Error):
        return f"{type(error).__name__}: {error.diag.message_primary or 'no answer'}"
    return f"{type(error).__name__}: {error}"


def _one(connection: psycopg.Connection[Any], query: bytes, values: tuple[Any, ...]) -> Any:
    row = connection.execute(query, values).fetchone()
    return row[0] if row else None
