"""The log as one tenant sees it: rows of its streams, and of all that happened in it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import tuple_row

from bichat.errors import NotFound
from bichat.events.codec import StoredRow
from bichat.events.history import chained_row
from bichat.events.recorder import stored_row
from bichat.projections.reads import Reads
from bichat.projections.sql import blocks, statement

ROWS = 2000
BYTES = 16_000_000
"""Read at once of what may be long."""
NO_END = 2**63 - 1

INSTALLATION = UUID(int=0)
"""In whose stream it is recorded that the whole log was checked, of which nothing is shown."""


class TenantLog:
    """Reads rows under row-level security; raises `Unavailable` kinds."""

    def __init__(self, reads: Reads, tenant_id: UUID) -> None:
        self.tenant_id = tenant_id
        self._reads = reads

    async def head(self) -> int:
        """Where the whole log ends now."""
        return await self._reads.head()

    async def stream(
        self, stream_id: UUID, *, after: int = 0, upto: int | None = None, limit: int = ROWS,
        desc: bool = False, kinds: Sequence[str] = (), about: UUID | None = None, bytes: int = NO_END,
    ) -> list[StoredRow]:  # fmt: skip
        """Rows of a stream with versions in (after, upto], at most `limit` of them.

        `about`: only those in which this message is named. `bytes`: about as much, and at least one row.
        """
        query = _stream(desc=desc, kinds=bool(kinds), about=bool(about))
        values = {
            "stream": stream_id, "after": after, "upto": NO_END if upto is None else upto, "limit": limit,
            "bytes": bytes, "kinds": list(kinds), "message": str(about).encode(),
        }  # fmt: skip
        return [stored_row(columns) for columns in await self.rows(query, values)]

    async def events(self, stream_id: UUID, *, after: int, limit: int) -> list[StoredRow]:
        """The next rows of a stream, each knowing the hash before it."""
        values = {"stream": stream_id, "after": after, "limit": limit, "bytes": BYTES}
        rows = await self.rows(_chained(), values)
        return [chained_row(columns) for columns in rows]

    async def feed(
        self, *, after: int, end: int, limit: int, type: str | None = None, user_id: str | None = None
    ) -> list[StoredRow]:
        """The next rows of the tenant in (after, end], of one kind or by one person, but not both at once."""
        values = {
            "after": after,
            "end": end,
            "limit": limit,
            "type": type,
            "user_id": user_id,
            "bytes": BYTES,
        }
        of_type, of_user = type is not None, user_id is not None
        rows = await self.rows(feed_query(of_type, of_user), values, planned=of_type or of_user)
        return [chained_row(columns) for columns in rows]

    async def position_at(self, moment: datetime) -> int:
        """The last position that the database wrote before `moment`."""
        found = await self.rows(_block("position_at"), {"moment": moment})
        return int(found[0][0])

    async def rows(
        self, query: bytes, values: dict[str, Any], *, planned: bool = False
    ) -> list[tuple[Any, ...]]:
        """What a query finds, in the tenant's view; `planned`: for these values, in a transaction."""
        async with self._reads.tenant(self.tenant_id, live=True) as connection, AsyncExitStack() as held:
            if planned:
                await held.enter_async_context(connection.transaction())
                await connection.execute(_block("plan"), prepare=False)
            cursor = connection.cursor(binary=True, row_factory=tuple_row)
            await cursor.execute(query, {**values, "tenant": self.tenant_id})
            return await cursor.fetchall()


def tenant_of(connection: Connection[Any], stream_id: UUID, what: str = "stream") -> UUID:
    """Whose a stream is, also if only seals are left of it; for operators, who see all tenants.

    Raises `NotFound`.
    """
    row = connection.execute(statement("export", "tenant", "bichat.audit"), {"stream": stream_id}).fetchone()
    if row is None:
        raise NotFound(what=what)
    tenant_id: UUID = row[0]
    return tenant_id


def only_tenant(connection: Connection[Any]) -> UUID | None:
    """The tenant of everything in the log; None when there are several, or nothing."""
    rows = connection.execute(_block("tenants"), {"zeros": INSTALLATION}).fetchall()
    return rows[0][0] if len(rows) == 1 else None


def _block(name: str) -> bytes:
    return blocks("log", __package__)[name].encode()


@cache
def _stream(*, desc: bool, kinds: bool, about: bool) -> bytes:
    sql = blocks("log", __package__)
    parts = [sql["kinds"]] * kinds + [sql["about"]] * about
    return sql["stream"].format(order="desc" if desc else "asc", filter="\n".join(parts)).encode()


@cache
def _chained() -> bytes:
    sql = blocks("log", __package__)
    return sql["chained"].format(place="originator_version", filter=sql["events"]).encode()


@cache
def feed_query(of_type: bool, of_user: bool) -> bytes:
    """A statement of its own for each filter, so that each has a plan of its own."""
    sql = blocks("log", __package__)
    columns = ["topic"] * of_type + ["actor"] * of_user
    if not columns:
        return sql["chained"].format(place="notification_id", filter=sql["feed"]).encode()
    given = ["%(type)s"] * of_type + ["%(user_id)s"] * of_user
    equal = [f"{column} = {value}" for column, value in zip(columns, given, strict=True)]
    after = sql["filtered"].format(columns=", ".join(columns), values=", ".join(given))
    return sql["chained"].format(place="notification_id", filter=" and ".join([*equal, after])).encode()
