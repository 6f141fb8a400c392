"""Places at the model, of which all workers together have so many: for calls that are no replies."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from bichat.projections import replies


class Places:
    """A reply's place is the lease on its question; others take one for a while, if there is one left."""

    def __init__(self, pool: AsyncConnectionPool[Any], holder: str, most: int | None, lasts: float) -> None:
        """`most` of all workers, None: as many as are wanted; `lasts`: seconds."""
        self._pool, self._holder, self._most, self._lasts = pool, holder, most, lasts

    @asynccontextmanager
    async def one(self, tenant_id: UUID) -> AsyncIterator[bool]:
        """Whether there is a place; it is given up at the end, or by itself when that cannot be said."""
        if self._most is None:
            yield True
            return
        async with self._pool.connection() as connection:
            place = await replies.take_place(connection, self._holder, tenant_id, self._lasts, self._most)
        try:
            yield place is not None
        finally:
            if place:
                async with self._pool.connection() as connection:
                    await replies.leave_place(connection, place)
