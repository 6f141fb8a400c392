"""The first guard: the role that queries run as must be able to read, and to do nothing else."""

from __future__ import annotations

import logging
import time
from typing import Any
from uuid import UUID

from eventsourcing.application import LRUCache
from msgspec import Struct
from psycopg import AsyncCursor

from bichat.analytics.allowed import FUNCTIONS
from bichat.errors.functions import QueryRefused
from bichat.projections.sql import statement

TRUSTED, DOUBTED = 600.0, 30.0
"""Seconds until a role that was found fit, or unfit, is looked at again."""
REFUSED = 300.0
"""Seconds until a tenant that the database did not let in is looked at again."""
MOST = 1000
"""Tenants whose roles are known."""

log = logging.getLogger(__name__)


class _Judged(Struct, frozen=True):
    until: float
    reason: str = ""
    calls: frozenset[str] = frozenset()


_UNKNOWN = _Judged(float("-inf"))


class Roles:
    """What is known of the roles: one for each tenant, or if the database is not `shared`, one."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._judged: LRUCache[UUID | None, _Judged] = LRUCache(MOST)

    def verdict(self, tenant_id: UUID) -> str | None:
        """Why the role is not fit; empty when it is, `None` when it has to be looked at."""
        judged = self._last(tenant_id)
        return judged.reason if time.monotonic() < judged.until else None

    def calls(self, tenant_id: UUID) -> frozenset[str]:
        """Names by which a role that was found fit may call a function as if it were a column."""
        return self._last(tenant_id).calls

    def unfit(self, tenant_id: UUID) -> bool:
        """Whether it was not fit when it was looked at last, however long ago."""
        return bool(self._last(tenant_id).reason)

    async def judge(self, tenant_id: UUID, cursor: AsyncCursor[tuple[Any, ...]]) -> None:
        """Raises `QueryRefused` when the role of this cursor, the tenant's, could do more than read."""
        reason = self.verdict(tenant_id)
        if reason is None:
            reason = await self._look(tenant_id, cursor)
            if reason:
                of = f" of tenant {tenant_id}" if self._shared else ""
                log.error("the business database is not used: its role%s must only read, but %s", of, reason)
        if reason:
            raise QueryRefused(reason="the business database is not set up for it; an operator can tell why")

    async def _look(self, tenant_id: UUID, cursor: AsyncCursor[tuple[Any, ...]]) -> str:
        await cursor.execute(sql_of("too_much"))
        found = await cursor.fetchone()
        reason = found[0] if found else ""
        await cursor.execute(sql_of("callable"), {"allowed": sorted(FUNCTIONS)})
        calls = frozenset(name for (name,) in await cursor.fetchall())
        until = time.monotonic() + (DOUBTED if reason else TRUSTED)
        self._judged.put(self._whose(tenant_id), _Judged(until, reason, calls))
        return reason

    def refused(self, tenant_id: UUID) -> None:
        """Takes note that the database does not let this tenant in: it has no role there, it seems."""
        judged = _Judged(time.monotonic() + REFUSED, "the database does not let it in")
        self._judged.put(self._whose(tenant_id), judged)

    def _last(self, tenant_id: UUID) -> _Judged:
        try:
            return self._judged.get(self._whose(tenant_id))
        except KeyError:
            return _UNKNOWN

    def _whose(self, tenant_id: UUID) -> UUID | None:
        return tenant_id if self._shared else None


def sql_of(block: str) -> bytes:
    """A block of this package's SQL."""
    return statement("analytics", block, "bichat.analytics")
