"""Reading on behalf of who asks: a pool of connections that see one tenant at a time."""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from uuid import UUID

import psycopg
from anyio import CancelScope
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from bichat.errors import ReadModelBehind, ReadsUnavailable, Stopping, Unavailable
from bichat.projections.sql import statement
from bichat.projections.versions import MODELS

POLL = 0.015
"""Seconds between two looks at the checkpoints while somebody waits for one."""
_SHAPES = {model.name: model.shape for model in MODELS}


class Bound(AsyncConnection[Any]):
    """A connection that remembers whose rows it shows, to be told only when that changes.

    The binding is the session's: in a transaction of its own for each answer, it halves what a process
    can answer (docs/decisions/0004).
    """

    tenant_id: UUID | None = None

    async def bind(self, tenant_id: UUID) -> None:
        """Shows the rows of this tenant from now on."""
        if self.tenant_id != tenant_id:
            self.tenant_id = None
            await self.execute(statement("reads", "bind"), (str(tenant_id),))
            self.tenant_id = tenant_id


class Reads:
    """An async pool on the role `bichat_reader`, and the one place that waits for read models."""

    def __init__(self, database_url: str, *, size: int = 8, patience: float = 5.0) -> None:
        """`patience`: seconds that a request waits for a connection."""
        self._pool: AsyncConnectionPool[Bound] = AsyncConnectionPool(
            database_url, connection_class=Bound, min_size=1, max_size=size, max_waiting=4096,
            timeout=patience, reconnect_timeout=0.5, reconnect_failed=_again, open=False,
            configure=_configure, check=_check, name="reads",
            kwargs={
                "autocommit": True, "prepare_threshold": 0, "connect_timeout": 5,
                "application_name": "bichat-reads",
            },
        )  # fmt: skip
        self._positions = dict.fromkeys(_SHAPES, -1)
        self._moved = asyncio.Event()
        self._waiting = 0
        self._poller: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Starts the pool; it fills in the background."""
        await self._pool.open()

    async def close(self) -> None:
        """Ends the connections."""
        if self._poller:
            self._poller.cancel()
        await self._pool.close()

    @asynccontextmanager
    async def tenant(self, tenant_id: UUID) -> AsyncIterator[AsyncConnection[Any]]:
        """A connection that sees this tenant's rows and nothing else; raises `Unavailable` kinds."""
        async with self.connection() as connection:
            await connection.bind(tenant_id)
            yield connection

    async def head(self) -> int:
        """The position of the log's newest event."""
        async with self.connection() as connection:
            row = await (await connection.execute(statement("reads", "head"))).fetchone()
        return int(row[0]) if row else 0

    async def positions(self) -> dict[str, int]:
        """How far the log is in each read model that serves this code."""
        async with self.connection() as connection:
            found = await (await connection.execute(statement("reads", "positions"))).fetchall()
        return {name: position for name, shape, position in found if _SHAPES.get(name) == shape}

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Bound]:
        """A connection for what concerns no tenant; raises `Unavailable` kinds."""
        # Shielded: a client that goes away has its request cancelled at every await, and the pool, cancelled
        # while it takes a connection back, loses that for good.
        with _available(), CancelScope(shield=True):
            async with self._pool.connection() as connection:
                yield connection

    def pool(self) -> dict[str, int]:
        """How busy the connections are, in `psycopg_pool`'s words."""
        return self._pool.get_stats()

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
            *(self.caught_up(name, position) for name in _SHAPES), return_exceptions=True
        )
        return [name for name, error in zip(_SHAPES, waited, strict=True) if error]

    async def _poll(self) -> None:
        """Shared by all who wait; ends with the last of them."""
        while self._waiting:
            with suppress(Unavailable):  # who waits will see that nothing moves
                self._positions = await self.positions()
                self._moved.set()
                self._moved = asyncio.Event()
            await asyncio.sleep(POLL)


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except PoolClosed:
        raise Stopping from None
    except (PoolTimeout, TooManyRequests):
        raise ReadsUnavailable(reason="no connection is free") from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise ReadsUnavailable(reason=type(error).__name__) from error


async def _configure(connection: AsyncConnection[Any]) -> None:
    await connection.execute(statement("reads", "configure"), prepare=False)


async def _again(pool: AsyncConnectionPool[Any]) -> None:
    """Goes on trying twice a second: the pool's own waits grow, and then it comes back late."""
    await pool.check()


async def _check(connection: AsyncConnection[Any]) -> None:
    """Asks a connection whether it lives, but only when its socket has something to say while idle."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    if poll.poll(0):
        await AsyncConnectionPool.check_connection(connection)
