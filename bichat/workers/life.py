"""A worker's sign of life: a lock that its database session holds, gone the moment its process is."""

from __future__ import annotations

import logging
import time
from typing import Any

import psycopg
from psycopg import AsyncConnection

from bichat.projections import replies

LOOKED = 1.0
"""Seconds between two looks at who is alive."""

DEAD_AFTER = 3.0
"""Seconds without a sign of life before a worker's leases end: it may be about to reconnect, as we may."""

log = logging.getLogger(__name__)


class Life:
    """Shows that this worker lives, and ends the leases of those that do not.

    Leases run out anyway, which covers a machine that vanishes; this is for a process that was killed: the
    server sees its connection close at once, and its questions need not wait. A live worker taken for dead
    loses an attempt, never an answer.
    """

    def __init__(self, database_url: str, name: str) -> None:
        """`name` is the holder of its leases."""
        self._url, self._name = database_url, name
        self._connection: AsyncConnection[Any] | None = None
        self._missing: dict[str, float] = {}

    async def beat(self) -> None:
        """One sign and one look around; a database that is away is for the next beat."""
        try:
            connection = self._connection or await self._begin()
            now = time.monotonic()
            dead = await replies.dead(connection, self._name)
            self._missing = {holder: self._missing.get(holder, now) for holder in dead}
            buried = [holder for holder, since in self._missing.items() if now - since >= DEAD_AFTER]
            if buried and await replies.bury(connection, buried):
                log.warning("%s died; its questions are taken over", ", ".join(buried))
        except (psycopg.Error, OSError):
            await self.close()

    async def close(self) -> None:
        """Gives the sign up."""
        connection, self._connection, self._missing = self._connection, None, {}
        if connection:
            await connection.close()

    async def _begin(self) -> AsyncConnection[Any]:
        self._connection = await AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=5, application_name="bichat worker's life"
        )
        await replies.live(self._connection, self._name)
        return self._connection
