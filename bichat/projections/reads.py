"""Reading on behalf of who asks: from the database or its replica, and waiting for read models."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection

from bichat.errors import ReadModelBehind, ReadsUnavailable, Unavailable
from bichat.projections.replica import Replica
from bichat.projections.source import SHAPES, Bound, Source

GONE = 1.0
"""Seconds that a request waits for a connection to the replica, before it asks the primary."""
POLL = 0.015
"""Seconds between two looks at the checkpoints while somebody waits for one."""


class Reads:
    """What queries read, and the one place that waits for read models.

    Queries go to the replica, if there is one and it can be relied on; what waits for them looks at the
    checkpoints there. What says where the log is now, what shows the log itself, streams, and what
    concerns the installation, is read from the primary.
    """

    def __init__(
        self, database_url: str, *, replica_url: str | None = None, size: int = 8, patience: float = 5.0
    ) -> None:
        """`patience`: seconds that a request waits for a connection."""
        self._primary = self._source = Source(database_url, size=size, patience=patience)
        copy = Source(replica_url, size=size, patience=patience) if replica_url else None
        self._replica = Replica(self._primary, copy, self._choose) if copy else None
        self._positions = dict.fromkeys(SHAPES, -1)
        self._moved = asyncio.Event()
        self._waiting = 0
        self._poller: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Starts the pools; they fill in the background."""
        await self._primary.open()
        if self._replica:
            await self._replica.open()

    async def close(self) -> None:
        """Ends the connections."""
        if self._poller:
            self._poller.cancel()
        if self._replica:
            await self._replica.close()
        await self._primary.close()

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID, *, live: bool = False) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection that sees this tenant's rows and nothing else; raises `Unavailable` kinds.

        `live`: it must not be behind what was just committed.
        """
        async with AsyncExitStack() as held:
            connection = await self._connected(held, self._primary if live else self._source)
            await connection.bind(tenant_id)
            yield connection

    async def _connected(self, held: AsyncExitStack, source: Source) -> Bound:
        """A connection, to the primary when the replica has gone and that was not seen yet."""
        if source is not self._primary:
            with suppress(ReadsUnavailable):
                return await held.enter_async_context(source.connection(GONE))
        return await held.enter_async_context(self._primary.connection())

    def connection(self) -> AbstractAsyncContextManager[Bound]:
        """A connection to the primary, for what concerns no tenant; raises `Unavailable` kinds."""
        return self._primary.connection()

    async def head(self) -> int:
        """The position of the log's newest event."""
        return await self._primary.head()

    async def positions(self) -> dict[str, int]:
        """How far the log is in each read model that serves this code, where queries go."""
        return await self._source.positions()

    def pool(self) -> dict[str, int]:
        """How busy the connections are that queries use, in `psycopg_pool`'s words."""
        return self._source.stats()

    @property
    def replica_lag(self) -> float:
        """For how many seconds the replica, if it is read, has lacked something that is in the log."""
        return self._replica.lag if self._replica and self._source is not self._primary else 0.0

    async def caught_up(self, name: str, position: int, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Returns once the read model holds the log up to `position`; else raises `ReadModelBehind`.

        Looks anew each time: what a follower had committed may be gone after a crash of the server.
        """
        self._waiting += 1
        try:
            async with asyncio.timeout(timeout):
                while True:
                    if self._poller is None or self._poller.done():
                        self._poller = asyncio.create_task(self._poll(), name="reads.poll")
                    await self._moved.wait()
                    if self._positions.get(name, 0) >= position:
                        return
        except TimeoutError:
            raise ReadModelBehind from None
        finally:
            self._waiting -= 1

    async def lagging(self, position: int) -> list[str]:
        """The read models that do not hold the log up to `position` after some seconds, if there are any."""

        waited = await asyncio.gather(
            *(self.caught_up(name, position) for name in SHAPES), return_exceptions=True
        )
        return [name for name, error in zip(SHAPES, waited, strict=True) if error]

    async def _poll(self) -> None:
        """Shared by all who wait; ends with the last of them."""
        while self._waiting:
            with suppress(Unavailable):  # who waits will see that nothing moves
                source = self._source
                found = await source.positions()
                if source is self._source:
                    self._positions = found
                    self._moved.set()
                    self._moved = asyncio.Event()
            await asyncio.sleep(POLL)

    def _choose(self, source: Source, positions: dict[str, int] | None) -> bool:
        """Sends queries there from now on, unless somebody has waited for more than is known to be there."""
        if positions is not None:
            if any(positions.get(name, -1) < waited for name, waited in self._positions.items()):
                return False
            self._positions = positions
        self._source = source
        return True
