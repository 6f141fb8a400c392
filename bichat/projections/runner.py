"""One loop that keeps one build of a read model up to date with the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any, Protocol

import psycopg

from bichat import logs, metrics
from bichat.errors import Unavailable
from bichat.errors.unusable import EventTooNew
from bichat.events.envelope import Entry, Event
from bichat.logs import described
from bichat.projections import erasures, parking
from bichat.projections.crashes import Crashes
from bichat.projections.rate import Rate
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
    ) -> Sequence[Entry]:
        """The next events after a position, at most `limit`; none after `timeout` seconds without any."""


class Stale(Unavailable):
    """{build} is no longer at position {position}: another runner has moved it."""


class Runner:
    """Follows the log for one build; while another runner does so already, stands by.

    What it cannot digest is parked (`parking`), and the rest goes on. What no event is to blame for
    stops it before the batch, in state 'stopped' with the error, and is tried again, with waits that
    grow to 2 s. `applied` is told of the events of each commit that readers can see. `run` ends when
    `stop` is called, within a second, or when the build is gone, or raises `EventTooNew`.
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
        self._crashes = Crashes(build)
        self._rate = Rate()
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
                    if not self._locked(connection):
                        return
                    position = self._crashes.take_over(connection)
                    if position is None:
                        log.info("%s is gone", self.build.id)
                        return
                    self._follow(connection, position)
            except EventTooNew:
                raise
            except Stale as error:
                log.warning("%s", error)
            except (*_LOST, Unavailable) as error:
                self._pause("%s lost its database: %s", error)
            except Exception as error:
                self._pause("%s stopped: %s", error)

    def _locked(self, connection: psycopg.Connection[Any]) -> bool:
        """Waits for the lock of this build, which its holder's connection takes along when it dies."""
        while not self._stopping.is_set():
            if connection.execute(statement("runner", "lock"), (self.build.id,)).fetchone() == (True,):
                return True
            self._stopping.wait(STANDBY)
        return False

    def _follow(self, connection: psycopg.Connection[Any], position: int) -> None:
        doubtful = True
        while not self._stopping.is_set():
            try:
                entries = self._next(connection, position)
                position = self._digest(connection, position, entries)
            except Exception as error:
                if not isinstance(error, Unavailable) and not connection.closed:
                    connection.execute(statement("runner", "stopped"), (described(error), *self.build.key))
                raise
            if doubtful:
                doubtful = False
                self._well(connection)

    def _next(self, connection: psycopg.Connection[Any], position: int) -> Sequence[Entry]:
        entries = self._source.next(connection, position, BATCH, POLL)
        if entries and self.build.model.pace:
            self._stopping.wait(self.build.model.pace)
            entries = self._source.next(connection, position, BATCH, 0)
        return entries

    def _digest(self, connection: psycopg.Connection[Any], position: int, entries: Sequence[Entry]) -> int:
        for piece in self._crashes.pieces(entries) if entries else ():
            with self._crashes.watched(connection, piece):
                told = self.apply(connection, position, piece)
            position = piece[-1].position
            if told:
                self._applied(told)
            if self._stopping.is_set():
                break
        return position

    @metrics.folds
    def apply(
        self, connection: psycopg.Connection[Any], position: int, entries: Sequence[Entry]
    ) -> Sequence[Event]:
        """Folds events in or parks them, and moves the checkpoint from `position` to the last: or nothing.

        Returns those that readers see now: none unless the build serves. Raises `Stale` when the
        checkpoint is elsewhere. Its row is locked first, so of two runners that were at one place the
        second waits, and then finds itself refused.
        """
        try:
            return self._commit(connection, position, entries, parking.together)
        except Exception as error:
            if not parking.blames_event(error):
                raise
        return self._commit(connection, position, entries, parking.one_by_one)

    def _commit(
        self, connection: psycopg.Connection[Any], position: int, entries: Sequence[Entry],
        digest: parking.Digest,
    ) -> Sequence[Event]:  # fmt: skip
        rate = self._rate.after(len(entries))
        with connection.transaction():
            moved = connection.execute(
                statement("runner", "advance"), (entries[-1].position, rate, *self.build.key, position)
            )
            if moved.rowcount != 1:
                raise Stale(build=self.build.id, position=position)
            serves, waiting = parking.waiting(connection, self.build, entries)
            batch = digest(
                self.build, connection, parking.sort_out(entries, self.build.model.subject, waiting)
            )
            parking.park(connection, self.build, batch.parked)
            since = dict.fromkeys(waiting, 0) | {one.dialogue_id: one.version for one in batch.parked}
            told = erasures.told(entries)
            gone = {i: version for i, version in told.items() if i in since and version >= since[i]}
            erasures.blank(connection, self.build, gone)
        subject = self.build.model.subject
        for one in batch.parked:
            with logs.about(tenant_id=one.tenant_id, dialogue_id=one.dialogue_id):
                log.error(
                    "%s parked a %s from version %s on: %s", self.build.id, subject, one.version, one.error
                )
        return batch.events if serves else ()

    def _pause(self, message: str, error: Exception) -> None:
        trouble = message % (self.build.id, described(error))
        log.log(logging.DEBUG if trouble == self._trouble else logging.ERROR, trouble)
        self._trouble = trouble
        self._wait = min(max(self._wait * 2, 0.05), _LONGEST_WAIT)
        self._stopping.wait(self._wait)

    def _well(self, connection: psycopg.Connection[Any]) -> None:
        if self._trouble:
            log.warning("%s goes on", self.build.id)
        self._wait, self._trouble = 0.0, ""
        connection.execute(statement("runner", "well"), self.build.key)


def connect(url: str) -> psycopg.Connection[Any]:
    """A follower's connection. What it commits may be lost in a crash of the server, with its checkpoint."""
    # Keepalives, here and on the server: a machine that vanished must not keep the lock for hours.
    connection = psycopg.connect(
        url, autocommit=True, connect_timeout=5, application_name="bichat-projector", prepare_threshold=0,
        keepalives_idle=5, keepalives_interval=2, keepalives_count=3,
    )  # fmt: skip
    connection.execute(statement("runner", "configure"), prepare=False)
    return connection
