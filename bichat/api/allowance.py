"""What a tenant and its users may still ask for: requests, tokens and money."""

from __future__ import annotations

import asyncio
import logging
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from time import monotonic
from uuid import UUID

from msgspec import Struct

from bichat.api.auth import Caller
from bichat.config import Config
from bichat.errors import BudgetSpent, RateLimited, Unavailable
from bichat.limits import Limits
from bichat.projections import costs
from bichat.projections.reads import Reads

KEPT = 5.0
"""Seconds for which a process takes its word for what a tenant has spent."""
MOST = 10_000
"""Tenants of whom it remembers that."""

log = logging.getLogger(__name__)


class _Spent(Struct, frozen=True):
    """What a tenant had spent in a period, when it was looked at."""

    since: datetime
    cost: Decimal
    looked: float


class Allowance:
    """Of all tenants; what is not limited costs nothing."""

    def __init__(self, config: Config, reads: Reads) -> None:
        """Opens nothing yet."""
        self._limits = Limits(config)
        self._budget, self._prices, self._reads = config.bichat_budget, config.bichat_prices, reads
        self._known: dict[UUID, _Spent] = {}
        self._looking = asyncio.Semaphore(2)

    async def close(self) -> None:
        """Closes the connections."""
        await self._limits.close()

    async def request(self, caller: Caller) -> None:
        """Counts a request; raises `RateLimited`."""
        await self._limits.request(caller.tenant_id, caller.id)

    async def asking(self, tenant_id: UUID) -> RateLimited | None:
        """Why the tenant's questions are not answered now, if they are not."""
        return await self._limits.asking(tenant_id) or await self._over_budget(tenant_id)

    async def _over_budget(self, tenant_id: UUID) -> BudgetSpent | None:
        if not self._budget:
            return None
        now = datetime.now(UTC)
        since, until = _period(self._budget.per, now)
        if await self._spent(tenant_id, since) < self._budget.amount:
            return None
        seconds = math.ceil((until - now).total_seconds())
        return BudgetSpent(limit=f"{self._budget.amount} a {self._budget.per}", seconds=seconds)

    async def _spent(self, tenant_id: UUID, since: datetime) -> Decimal:
        """What was spent, as of some seconds ago; a database that is away lets everything through."""
        if found := self._fresh(tenant_id, since):
            return found.cost
        async with self._looking:  # not all of a crowd at once
            if found := self._fresh(tenant_id, since):
                return found.cost
            try:
                cost = await self._look(tenant_id, since)
            except Unavailable as error:
                log.warning("what a tenant has spent cannot be read: %s", error)
                old = self._known.get(tenant_id)
                cost = old.cost if old and old.since == since else Decimal()
            if len(self._known) >= MOST:
                self._known.clear()
            self._known[tenant_id] = _Spent(since, cost, monotonic())
            return cost

    def _fresh(self, tenant_id: UUID, since: datetime) -> _Spent | None:
        found = self._known.get(tenant_id)
        return found if found and found.since == since and monotonic() - found.looked < KEPT else None

    async def _look(self, tenant_id: UUID, since: datetime) -> Decimal:
        async with self._reads.tenant(tenant_id) as connection:
            found = await costs.spent(
                connection, tenant_id, None, self._prices, since=since.date(), until=date.max
            )
        return costs.total(found).amount or Decimal()


def _period(per: str, now: datetime) -> tuple[datetime, datetime]:
    """When the day or the month began, and when the next one will."""
    day = now.replace(hour=0, minute=0, second=0, microsecond=0)
    if per == "day":
        return day, day + timedelta(days=1)
    first = day.replace(day=1)
    return first, (first + timedelta(days=31)).replace(day=1)
