"""Answers about dialogues that are being read, kept in Redis for half a minute as they were sent.

What is kept of a dialogue is gone with each of its changes (`Doorbell.projected`, which leaves the version
that is read now), so it is never behind what is read by more than the way to Redis. A read that began before
a change is not kept after it; nor is one of a replica that has not come so far. Were the news of a change
lost, half a minute is how long that could be noticed. Everything here may be lost at any time.

Asked and told is Redis only of what this process has read before: to try in vain costs a third of an answer
(docs/decisions/0011), and most dialogues are read once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from bichat import unsaid

KEPT = 30
"""Seconds for which an answer is kept."""
SEEN = 10_000
"""Of so many dialogues it is known that they were read here."""
BEHIND = 5.0
"""Seconds by which a replica may be late; of a later one nothing is kept: it may have text that is gone."""
PAUSE = 1.0
"""Seconds without a try after Redis did not answer."""
_KEEP = """
if redis.call('exists', KEYS[2]) == 1 then return 0 end
local now = redis.call('hget', KEYS[1], 'version')
if now and tonumber(now) > tonumber(ARGV[2]) then return 0 end
redis.call('hset', KEYS[1], 'version', ARGV[2], ARGV[1], ARGV[3])
redis.call('expire', KEYS[1], ARGV[4])
return 1
"""
"""Keeps an answer, unless there is something newer, or its dialogue was forgotten just now."""
_LOST = (RedisError, OSError, TypeError)
"""As in `deltas`."""

log = logging.getLogger(__name__)


class Hot:
    """One process's answers of all processes; without Redis it finds and keeps nothing."""

    def __init__(self, redis_url: str) -> None:
        self._redis: Any = Redis.from_url(
            redis_url, socket_timeout=0.25, socket_connect_timeout=0.25, retry=Retry(NoBackoff(), 0)
        )
        self._silent_until = 0.0
        self._seen: dict[tuple[UUID, str, UUID], int] = {}
        """At which version each was read here."""
        self._keeping: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        """Closes the connections."""
        for task in self._keeping:
            task.cancel()
        await self._redis.aclose()

    async def find(
        self, tenant_id: UUID, user_id: str, dialogue_id: UUID, version: int
    ) -> tuple[int, bytes] | None:
        """The person's answer about the dialogue, at this version or a newer one, and at which."""
        if (tenant_id, user_id, dialogue_id) not in self._seen:
            return None
        kept = await self._ask(self._redis.hget, unsaid.hot(dialogue_id), _whose(tenant_id, user_id))
        if not kept:
            return None
        found, _, body = kept.partition(b" ")
        return (int(found), body) if int(found) >= version else None

    def keep(self, tenant_id: UUID, user_id: str, dialogue_id: UUID, version: int, body: bytes) -> None:
        """Keeps an answer that is given for the second time, soon: nobody waits for that."""
        whose = tenant_id, user_id, dialogue_id
        if self._seen.get(whose) != version:
            if len(self._seen) >= SEEN:
                self._seen.clear()
            self._seen[whose] = version
            return
        keys = unsaid.hot(dialogue_id), unsaid.forgotten(dialogue_id)
        kept = b"%d %s" % (version, body)
        work = self._ask(self._redis.eval, _KEEP, 2, *keys, _whose(tenant_id, user_id), version, kept, KEPT)
        task = asyncio.create_task(work, name="hot.keep")
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _ask(self, ask: Any, *words: Any) -> Any:
        clock = asyncio.get_running_loop().time
        if clock() < self._silent_until:
            return None
        try:
            return await ask(*words)
        except _LOST as error:
            self._silent_until = clock() + PAUSE
            log.debug("Redis does not answer, so dialogues are read from Postgres: %s", error)
            return None


def _whose(tenant_id: UUID, user_id: str) -> str:
    """An answer's name among those about its dialogue: nobody else ever asks for it."""
    return f"{tenant_id}:{user_id}"
