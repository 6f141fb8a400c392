"""Connections to the business database: as a role that can only read, one for each query, within limits."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import quote
from uuid import UUID

import msgspec
import psycopg
from msgspec import Struct
from psycopg import AsyncConnection, AsyncCursor

from bichat.analytics.guard import checked
from bichat.analytics.names import refuse_calls
from bichat.analytics.role import Roles, sql_of
from bichat.analytics.telling import told
from bichat.errors.functions import BusinessDatabaseUnavailable, FunctionError, QueryFailed, QueryRefused

MOST_ROWS = 200
MOST_COLUMNS = 100
"""Postgres' functions take no more arguments."""
AT_ONCE = 4
"""Connections of this process."""
AWAY = 30.0
"""Seconds in which a database that could not be reached is not tried by the way."""

log = logging.getLogger(__name__)


class Table(Struct, frozen=True, omit_defaults=True):
    """A table or view that the role may read; `rows` is an estimate."""

    table: str
    kind: str
    comment: str | None = None
    rows: int | None = None


class Column(Struct, frozen=True, omit_defaults=True):
    """A column; `references` is the column of another table that it points to."""

    column: str
    type: str
    nullable: bool
    comment: str | None = None
    primary_key: bool = False
    references: str | None = None


class Result(Struct, frozen=True):
    """Rows as arrays, numbers as exact as the database has them; `truncated`: there are more."""

    columns: tuple[str, ...]
    rows: tuple[msgspec.Raw, ...]
    truncated: bool


class Analytics:
    """The business database at a URL in which `{tenant}` stands for the tenant's id, if each has a role."""

    def __init__(self, url: str, *, seconds: float = 10.0) -> None:
        """`seconds`: how long one query may take."""
        self._url, self._seconds = url, seconds
        self._places = asyncio.Semaphore(AT_ONCE)
        self._roles = Roles(shared=self.shared)
        self._away = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    @property
    def shared(self) -> bool:
        """Whether each tenant comes as a role of its own."""
        return "{tenant}" in self._url

    def usable(self, tenant_id: UUID) -> bool:
        """Whether the tenant's role is fit to run what a model wrote, as far as is known.

        Nobody waits: what is not known is looked at meanwhile, and each query looks before it runs.
        """
        unknown = self._roles.verdict(tenant_id) is None and time.monotonic() - self._away > AWAY
        if unknown and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look(tenant_id), name="analytics.look")
        return not self._roles.unfit(tenant_id)

    async def close(self) -> None:
        """Looks no more."""
        if self._looking:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    async def _look(self, tenant_id: UUID) -> None:
        with suppress(FunctionError):
            async with self._reading(tenant_id):
                pass

    async def tables(self, tenant_id: UUID) -> list[Table]:
        """What the tenant may read."""
        async with self._reading(tenant_id) as cursor:
            await cursor.execute(sql_of("tables"))
            return [Table(*row) for row in await cursor.fetchall()]

    async def columns(self, tenant_id: UUID, table: str) -> list[Column]:
        """Of a table that the tenant may read; raises `QueryFailed` when there is none of that name."""
        async with self._reading(tenant_id) as cursor:
            await cursor.execute(sql_of("columns"), {"table": table})
            found = [Column(*row) for row in await cursor.fetchall()]
        if not found:
            raise QueryFailed(reason="there is no such table; list_tables tells which there are")
        return found

    async def query(self, tenant_id: UUID, sql: str, room: int) -> Result:
        """The rows of one SELECT, at most 200 and `room` bytes of them; raises a `FunctionError`."""
        looked_at = await asyncio.to_thread(checked, sql)
        sql = looked_at.sql
        async with self._reading(tenant_id) as cursor:
            refuse_calls(looked_at.qualified, self._roles.calls(tenant_id))
            await self._run(cursor, "shape", sql)
            names = tuple(column.name for column in cursor.description or ())
            if not 1 <= len(names) <= MOST_COLUMNS:
                raise QueryRefused(reason=f"it selects {len(names)} columns; from 1 to {MOST_COLUMNS} may be")
            room -= sum(map(len, names)) + 100
            columns = ", ".join(f"c{n}" for n in range(len(names)))
            await self._run(cursor, "rows", sql, columns=columns, room=f"{room}", most=f"{MOST_ROWS + 1}")
            lines = [line for (line,) in await cursor.fetchall()]
        whole = lines[: lines.index(None)] if None in lines else lines
        if lines and not whole:
            raise QueryFailed(reason=f"its first row alone is over {room} bytes; select less of it")
        shown = tuple(msgspec.Raw(line) for line in whole[:MOST_ROWS])
        return Result(names, shown, truncated=len(shown) < len(lines))

    async def _run(self, cursor: AsyncCursor[Any], block: str, sql: str, **names: str) -> None:
        """Runs a block with the query put in, last: braces in it are its own."""
        text = sql_of(block).decode()
        for name, value in names.items():
            text = text.replace(f"{{{name}}}", value)
        try:
            # As binary, which makes the server refuse more than one statement whatever the guard has seen.
            await cursor.execute(text.replace("{query}", sql).encode(), binary=True)
        except psycopg.Error as error:
            raise told(error, self._seconds, before=text.index("{query}"), length=len(sql)) from None

    # --- connections ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _reading(self, tenant_id: UUID) -> AsyncIterator[AsyncCursor[tuple[Any, ...]]]:
        """A transaction that can only read, on a connection that nobody used before or will after."""
        async with self._places:
            connection = await self._connect(tenant_id)
            try:
                await connection.set_read_only(True)
                async with connection.cursor() as cursor:
                    await cursor.execute(sql_of("limits"), {"milliseconds": f"{self._seconds * 1000:.0f}"})
                    await self._roles.judge(tenant_id, cursor)
                    yield cursor
            except psycopg.Error as error:
                raise told(error, self._seconds) from None
            finally:
                await connection.close()

    async def _connect(self, tenant_id: UUID) -> AsyncConnection[tuple[Any, ...]]:
        url = self._url.replace("{tenant}", quote(str(tenant_id), safe=""))
        try:
            return await AsyncConnection.connect(url, connect_timeout=5, application_name="bichat functions")
        except (psycopg.Error, OSError) as error:
            if self.shared and "FATAL:" in str(error):  # the server is there: it refuses this tenant
                self._roles.refused(tenant_id)
            else:
                self._away = time.monotonic()
            log.warning("the business database cannot be reached: %s", str(error).partition("\n")[0])
            raise BusinessDatabaseUnavailable() from None
