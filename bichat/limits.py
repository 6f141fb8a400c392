"""How much a tenant and each of its users may ask, counted in Redis for all processes together.

A lost Redis lets everything through: nobody waits for it, and it is counted again once it is back.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, ParamSpec, TypeVar
from uuid import UUID

from limits import (
    RateLimitItem,
    RateLimitItemPerHour,
    RateLimitItemPerMinute,
    RateLimitItemPerSecond,
)
from limits.aio.storage import RedisStorage
from limits.aio.storage.redis.bridge import RedisBridge
from limits.aio.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bichat.config import Config
from bichat.config.spending import Rate
from bichat.errors import RateLimited, TokensSpent

PATIENCE = 0.5
"""Seconds that Redis has for an answer before it counts as lost."""
PAUSE = 1.0
"""Seconds between two looks whether it is back."""
LINES = 16
"""Connections at most: what there is to ask is short, and waits its turn."""

_LOST = (RedisError, OSError, TypeError)
"""As in `deltas`."""
_ITEMS: dict[str, type[RateLimitItem]] = {
    "second": RateLimitItemPerSecond,
    "minute": RateLimitItemPerMinute,
    "hour": RateLimitItemPerHour,
}

P = ParamSpec("P")
R = TypeVar("R")

_COUNT = f"""
local function acquire(KEYS, ARGV)
{RedisBridge.SCRIPT_ACQUIRE_SLIDING_WINDOW.decode()}
end
for n = 1, #KEYS / 2 do
    if not acquire({{KEYS[2 * n - 1], KEYS[2 * n]}}, {{ARGV[2 * n - 1], ARGV[2 * n], 1}}) then
        for counted = 1, n - 1 do
            redis.call('decr', KEYS[2 * counted])
        end
        return n
    end
end
return 0
"""
"""The library's script, for several limits in one round trip: gives the number of the one that refuses."""

log = logging.getLogger(__name__)


class Limits:
    """One process's view of the limits; those that are not set cost nothing."""

    def __init__(self, config: Config) -> None:
        """Opens nothing yet."""
        self._user = _item(config.bichat_rate_limit, "user")
        self._tenant = _item(config.bichat_tenant_rate_limit, "tenant")
        self._tokens = _item(config.bichat_token_limit, "tokens")
        self._link = _Link(config.redis_url or "")
        self._requests = SlidingWindowCounterRateLimiter(self._link.storage)
        self._count = self._link.redis.register_script(_COUNT)
        # Tokens are counted when they are spent already: what is over the limit has to be counted too.
        self._spent = FixedWindowRateLimiter(self._link.storage)

    async def close(self) -> None:
        """Closes the connections."""
        await self._link.close()

    async def request(self, tenant_id: UUID, user_id: str) -> None:
        """Counts a request, for its user and its tenant at once; raises `RateLimited`, and counts nothing."""
        limits: list[tuple[str, RateLimitItem, tuple[str, ...]]] = []
        if self._user:
            limits.append(("user", self._user, (str(tenant_id), _hashed(tenant_id, user_id))))
        if self._tenant:
            limits.append(("tenant", self._tenant, (str(tenant_id),)))
        if not limits:
            return
        keys = [name for _, item, key in limits for name in self._link.names(item, key)]
        sizes = [number for _, item, _ in limits for number in (item.amount, item.get_expiry())]
        if refused := await self._link.answer(self._count, keys, sizes):
            whose, item, key = limits[refused - 1]
            seconds = await self._seconds(self._requests, item, *key)
            raise RateLimited(whose=whose, limit=_said(item), seconds=seconds)

    async def asking(self, tenant_id: UUID) -> TokensSpent | None:
        """Why nothing more may be asked of the model now, if the tokens are spent."""
        item, who = self._tokens, str(tenant_id)
        if not item or await self._link.answer(self._spent.test, item, who) is not False:
            return None
        seconds = await self._seconds(self._spent, item, who)
        return TokensSpent(limit=_said(item), seconds=seconds)

    async def used(self, tenant_id: UUID, tokens: int) -> None:
        """Counts what a call to the model took."""
        if self._tokens and tokens > 0:
            await self._link.answer(self._spent.hit, self._tokens, str(tenant_id), cost=tokens)

    async def _seconds(self, limiter: RateLimiter, item: RateLimitItem, *key: str) -> int:
        """Until there is room again, as far as is known; at least one."""
        stats = await self._link.answer(limiter.get_window_stats, item, *key)
        return max(1, math.ceil(stats.reset_time - time.time())) if stats else 1


class _Link:
    """Redis, for as long as it answers; while it does not, nobody asks but a look once a second."""

    def __init__(self, redis_url: str) -> None:
        # Tries once: a request is not worth a second wait.
        self.redis: Any = Redis.from_url(
            redis_url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE, retry=Retry(NoBackoff(), 0)
        )
        self.storage = RedisStorage(
            "async+redis://", implementation="redispy", key_prefix="bichat:limits",
            connection_pool=self.redis.connection_pool,  # type: ignore[arg-type]  # documented, untyped
        )  # fmt: skip
        # Not public: a version of the library without them is to fail at the start, not at a request.
        self._windows = self.storage._previous_window_key, self.storage._current_window_key
        self._lines = asyncio.Semaphore(LINES)
        self._waiting: asyncio.Task[None] | None = None
        """For Redis to come back; None: it is there."""

    def names(self, item: RateLimitItem, key: tuple[str, ...]) -> tuple[str, str]:
        """Under which the library counts it, in the window before and in this one."""
        before, now = (window(item.key_for(*key)) for window in self._windows)
        prefixed = self.storage.bridge.prefixed_key
        return prefixed(before), prefixed(now)

    async def close(self) -> None:
        """Closes the connections."""
        if self._waiting:
            self._waiting.cancel()
            await asyncio.wait([self._waiting])
        with suppress(*_LOST):
            await self.redis.aclose()

    async def answer(self, ask: Callable[P, Awaitable[R]], *args: P.args, **kwargs: P.kwargs) -> R | None:
        """What Redis says; None when it is away."""
        async with self._lines:
            if not self._waiting:
                try:
                    return await ask(*args, **kwargs)
                except _LOST as error:
                    self._lost(error)
        return None

    def _lost(self, error: Exception) -> None:
        if self._waiting:
            return  # several asked when it went
        log.warning("Redis does not answer, so limits do not hold: %s", error)
        # Everybody's, so it is logged under nobody's ids.
        self._waiting = asyncio.create_task(self._until_back(), name="limits", context=Context())

    async def _until_back(self) -> None:
        while self._waiting:
            await asyncio.sleep(PAUSE)
            with suppress(*_LOST):
                await self.redis.ping()
                self._waiting = None
        log.warning("Redis answers again, so limits hold")


def _item(rate: Rate | None, namespace: str) -> RateLimitItem | None:
    return _ITEMS[rate.per](rate.amount, namespace=namespace) if rate else None


def _said(item: RateLimitItem) -> str:
    return f"{item.amount} in a {item.GRANULARITY.name}"


def _hashed(tenant_id: UUID, user_id: str) -> str:
    """Ids of users may be names, which do not belong into Redis."""
    return hashlib.blake2b(user_id.encode(), key=tenant_id.bytes, digest_size=16).hexdigest()
