"""One database that requests are answered from: a pool of connections that see one tenant at a time."""

from __future__ import annotations

import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from uuid import UUID

import psycopg
from anyio import CancelScope
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from bichat.errors import ReadsUnavailable, Stopping
from bichat.projections.sql import statement
from bichat.projections.versions import MODELS

SHAPES = {model.name: model.shape for model in MODELS}


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


class Source:
    """An async pool on the role `bichat_reader`; everything raises `Unavailable` kinds."""

    def __init__(self, database_url: str, *, size: int, patience: float) -> None:
        """`patience`: seconds that a request waits for a connection."""
        self._pool: AsyncConnectionPool[Bound] = AsyncConnectionPool(
            database_url, connection_class=Bound, min_size=1, max_size=size, max_waiting=4096,
            timeout=patience, reconnect_timeout=0.5, reconnect_failed=_again, open=False,
            configure=_configure, check=_check, name="reads",
            kwargs={
                "autocommit": True, "prepare_threshold": 0, "connect_timeout": 5,
                "application_name": "bichat-reads",
                # A machine that vanished is to be noticed by who waits for its answer.
                "keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3,
                "tcp_user_timeout": 10_000,
            },
        )  # fmt: skip

    async def open(self) -> None:
        """Starts the pool; it fills in the background."""
        await self._pool.open()

    async def close(self) -> None:
        """Ends the connections."""
        await self._pool.close()

    @asynccontextmanager
    async def connection(self, patience: float | None = None) -> AsyncIterator[Bound]:
        """A connection for what concerns no tenant."""
        # Shielded: a client that goes away has its request cancelled at every await, and the pool, cancelled
        # while it takes a connection back, loses that for good.
        with _available(), CancelScope(shield=True):
            async with self._pool.connection(patience) as connection:
                yield connection

    async def head(self, patience: float | None = None) -> int:
        """The position of the log's newest event that is here."""
        async with self.connection(patience) as connection:
            row = await (await connection.execute(statement("reads", "head"))).fetchone()
        return int(row[0]) if row else 0

    async def positions(self, patience: float | None = None) -> dict[str, int]:
        """How far the log is in each read model that serves this code."""
        async with self.connection(patience) as connection:
            found = await (await connection.execute(statement("reads", "positions"))).fetchall()
        return {name: position for name, shape, position in found if SHAPES.get(name) == shape}

    def stats(self) -> dict[str, int]:
        """How busy the connections are, in `psycopg_pool`'s words."""
        return self._pool.get_stats()


@contextmanager
def _available() -> Iterator[None]:
    try:
        yield
    except PoolClosed:
        raise Stopping from None
    except (PoolTimeout, TooManyRequests):
        raise ReadsUnavailable(reason="no connection is free") from None
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        # A replica that has to cancel a query, to keep up with its primary, is among these.
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
