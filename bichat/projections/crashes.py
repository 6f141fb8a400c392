"""Which event kills its projector: the one that it was alone with when it died.

Who takes a build over counts that, and the count is 0 again with each batch that is committed, or
when there is none to apply. At the third takeover, events are applied one at a time, each in a
transaction of its own, and before it the checkpoint row says (`trying`) whose turn it is. A process
that dies then leaves that behind, and the next one parks this dialogue. To have lost only the
connection is no death.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from psycopg import Connection

from bichat.events.envelope import Entry, Unreadable
from bichat.projections.read_model import Build
from bichat.projections.sql import statement

SUSPICIOUS = 3
"""Takeovers without a batch committed."""
ALONE = 2000
"""Events that are applied one at a time then: as many as a batch can have had."""
_turn = threading.Lock()
"""One at a time in a process, too: whoever dies takes one suspect along, and not those of other builds."""


class Crashes:
    """What one runner knows of those before it."""

    def __init__(self, build: Build) -> None:
        self._build = build
        self._me = f"{socket.gethostname()}:{os.getpid()}"
        self._known = False
        """Whether this runner has had the build before: then it is alive, whatever the row says."""
        self._suspect: UUID | None = None
        self._alone = 0

    def take_over(self, connection: Connection[Any]) -> int | None:
        """Signs the checkpoint; returns its position, None when the build is gone."""
        row = connection.execute(statement("crashes", "found"), self._build.key).fetchone()
        if row is None:
            return None
        position, runner, takeovers, suspect = row
        if self._known and runner == self._me:
            suspect = None
        else:
            takeovers += 1
        if suspect or takeovers >= SUSPICIOUS:
            self._alone = ALONE
        self._suspect, self._known = suspect, True
        connection.execute(statement("crashes", "signed"), (self._me, takeovers, suspect, *self._build.key))
        return int(position)

    def pieces(self, entries: Sequence[Entry]) -> list[Sequence[Entry]]:
        """The batch as it is to be applied: whole, or one at a time; the suspect as what cannot be read."""
        suspect, self._suspect = self._suspect, None
        first = entries[0]
        if first.stream_id == suspect:
            died = Unreadable(
                stream_id=first.stream_id, version=first.version, position=first.position,
                tenant_id=first.tenant_id, error="the projector died while applying it",
                subject=first.subject,
            )  # fmt: skip
            entries = [died, *entries[1:]]
        return [[entry] for entry in entries] if self._alone else [entries]

    @contextmanager
    def watched(self, connection: Connection[Any], piece: Sequence[Entry]) -> Iterator[None]:
        """Around the application of a piece."""
        if not self._alone:
            yield
            return
        with _turn:
            connection.execute(statement("crashes", "trying"), (piece[0].stream_id, *self._build.key))
            yield
        self._alone -= 1
