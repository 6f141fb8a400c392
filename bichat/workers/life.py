"""A worker's sign of life: a lock that its database session holds, gone the moment its process is."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from psycopg import AsyncConnection

from bichat.projections import replies

LOOKED = 1.0
"""Seconds between two looks at who is alive."""

LEFT = 2.0
"""Seconds that the leases of a worker without a sign of life have left: it may be about to reconnect."""

log = logging.getLogger(__name__)


class Life:
    """Shows that this worker lives, and cuts the leases of those that do not short.

    Leases run out anyway, which covers a machine that vanishes; this is for a process that was killed: the
    server sees its connection close at once, and its questions need not wait. A live worker taken for dead
    loses an attempt, never an answer.
    """

    def __init__(self, database_url: str, name: str) -> None:
        """`name` is the holder of its leases."""
        self._url, self._name = database_url, name
        self._connection: AsyncConnection[Any] | None = None

    async def beat(self) -> bool:
        """One sign and one look around; whether this is the first sign on a new connection.

        Raises `psycopg.Error` while the database is away.
        """
        new = self._connection is None
        try:
            connection = self._connection or await self._begin()
            if dead := await replies.bury(connection, self._name, LEFT):
                log.warning("%s died; its questions will be taken over", ", ".join(sorted(dead)))
        except (psycopg.Error, OSError):
            await self.close()
            raise
        return new

    async def close(self) -> None:
        """Gives the sign up."""
        connection, self._connection = self._connection, None
        if connection:
            await connection.close()

    async def _begin(self) -> AsyncConnection[Any]:
        connection = await AsyncConnection.connect(
            self._url, autocommit=True, connect_timeout=5, application_name="bichat worker's life"
        )
        self._connection = connection
        await replies.live(connection, self._name)
        return connection
