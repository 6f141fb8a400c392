"""The words of a reply still being written, in Redis: workers say them, api replays and follows them.

Everything here may be lost at any time: a write that fails says False, a read that fails finds nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any
from uuid import UUID

import msgspec
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from bichat import unsaid
from bichat.deltas.ear import BACKLOG, Ear, Follower
from bichat.deltas.voice import Voice
from bichat.deltas.wire import LOST, Hint, Said, Wire, channel, key, words

__all__ = ["BACKLOG", "Deltas", "Follower", "Hint", "Said"]

KEPT = 900
"""Seconds that the words of an attempt are kept after the last one."""
KEPT_AFTER_END = 60
"""Seconds after its end: long enough for those in the middle of reading; later ones read the message."""
LONGEST = 50_000
"""Segments kept of one attempt."""
LINES = 16
"""Connections at most: when a thousand clients come at once, what they ask waits its turn."""

log = logging.getLogger(__name__)


class Deltas:
    """One process's link to Redis."""

    def __init__(self, redis_url: str) -> None:
        # Tries once: what cannot be said now is said with the next words.
        once: Any = {"decode_responses": True, "socket_connect_timeout": 1, "retry": Retry(NoBackoff(), 0)}
        pool = BlockingConnectionPool.from_url(
            redis_url, max_connections=LINES, timeout=5, socket_timeout=1, health_check_interval=15, **once
        )
        self._redis: Any = Redis.from_pool(pool)
        self._ear = Ear(Redis.from_url(redis_url, protocol=2, **once), self._note)
        self._voice = Voice(self._redis, self._note)
        self._reachable = True

    async def close(self) -> None:
        """Closes the connections."""
        await self._ear.close()
        await self._voice.close()
        with suppress(*LOST):
            await self._redis.aclose()

    # --- workers ----------------------------------------------------------------------------------

    async def say(self, dialogue_id: UUID, said: Said) -> bool:
        """Keeps and publishes; False when Redis did not take it, then say the same again later."""
        keys = key(dialogue_id, said.message_id, said.attempt), unsaid.forgotten(dialogue_id)
        kept = f"{said.n}-0", said.text, said.after, LONGEST, KEPT
        return await self._voice.say(unsaid.SAY, 2, *keys, *kept, channel(dialogue_id), words(said))

    async def end(self, dialogue_id: UUID, message_id: UUID, attempt: int) -> None:
        """Hints that no more words of this attempt will come."""
        hint = msgspec.json.encode(Wire("end", message_id, attempt))
        kept = key(dialogue_id, message_id, attempt), KEPT_AFTER_END
        await self._voice.say(unsaid.END, 1, *kept, channel(dialogue_id), hint)

    # --- who forgets ------------------------------------------------------------------------------

    async def forget(self, dialogue_ids: Collection[UUID]) -> bool:
        """Takes back every word of these dialogues (`unsaid`); False when Redis was away or too busy."""
        try:
            return await unsaid.forget(self._redis, dialogue_ids)
        except LOST as error:
            self._note(error)
            return False

    # --- api --------------------------------------------------------------------------------------

    async def replay(self, dialogue_id: UUID, message_id: UUID, attempt: int, after_n: int = 0) -> list[Said]:
        """The words of an attempt after its segment `after_n`, without a gap; nothing if there is one."""
        try:
            rows = await self._redis.xrange(key(dialogue_id, message_id, attempt), min=f"({after_n}-0")
        except ResponseError:
            return []
        except LOST as error:
            self._note(error)
            return []
        said = [
            Said(message_id, attempt, int(n.partition("-")[0]), entry["text"], int(entry.get("v", 0)))
            for n, entry in rows
        ]
        return said if all(s.n == n for n, s in enumerate(said, after_n + 1)) else []

    def follow(self, dialogue_id: UUID) -> AbstractAsyncContextManager[Follower]:
        """`async with` it: a `Follower` of everything said about this dialogue from now on."""
        return self.listen(channel(dialogue_id))

    def listen(self, name: str) -> AbstractAsyncContextManager[Follower]:
        """`async with` it: a `Follower` of one channel; with Redis away it hears "reset" when it is back."""
        return self._ear.follow(name)

    def wake(self) -> None:
        """Tells every follower that something happened: it looks again."""
        self._ear.wake()

    def _note(self, error: Exception | None) -> None:
        """One line when Redis goes away, one when it is back."""
        if error and self._reachable:
            log.warning("Redis does not answer, so replies are not heard word by word: %s", error)
        elif not error and not self._reachable:
            log.warning("Redis answers again")
        self._reachable = error is None
