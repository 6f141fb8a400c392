"""The words of a reply still being written, in Redis: workers say them, api replays and follows them.

Everything here may be lost at any time: a write that fails says False, a read that fails finds nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from contextvars import Context
from typing import Any, Literal
from uuid import UUID

import msgspec
from msgspec import Struct
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from bichat import unsaid

KEPT = 900
"""Seconds that the words of an attempt are kept after the last one."""
KEPT_AFTER_END = 60
"""Seconds after its end: long enough for those in the middle of reading; later ones read the message."""
LONGEST = 50_000
"""Segments kept of one attempt."""
BACKLOG = 512
"""What waits for one follower before it is told to start over."""
PAUSE = 1.0
"""Seconds without a try after Redis did not answer."""

_LOST = (RedisError, OSError, TypeError)
"""A connection that does not work; asyncio since 3.12 raises `TypeError` on writing to one just closed."""

log = logging.getLogger(__name__)


class Said(Struct, frozen=True):
    """Words of an attempt, said after its dialogue's version `after`; `n` counts from 1, so a gap shows."""

    message_id: UUID
    attempt: int
    n: int
    text: str
    after: int = 0


class Hint(Struct, frozen=True):
    """Something happened. "reset": words may have been missed, replay them and read again."""

    kind: Literal["projected", "end", "reset", "rung"]
    version: int = 0
    message_id: UUID | None = None
    attempt: int = 0


class _Wire(Struct, omit_defaults=True):
    """What goes over a channel."""

    t: str = "rung"
    m: UUID | None = None
    a: int = 0
    n: int = 0
    text: str = ""
    v: int = 0

    def heard(self) -> Said | Hint | None:
        """For a follower; None when it is of a newer kind."""
        if self.t == "delta" and self.m:
            return Said(self.m, self.a, self.n, self.text, self.v)
        if self.t in ("projected", "end", "rung"):
            return Hint(self.t, self.v, self.m, self.a)  # type: ignore[arg-type]  # checked on the line above
        return None


class Follower:
    """What is said on one channel from now on."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[Said | Hint] = asyncio.Queue(BACKLOG)

    async def next(self, timeout: float) -> Said | Hint | None:  # noqa: ASYNC109 - a plain wait
        """The next one; None after `timeout` seconds of silence."""
        if not self._queue.empty():
            return self._queue.get_nowait()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                return await self._queue.get()
        return None

    def _hear(self, heard: Said | Hint) -> None:
        if self._queue.full():  # a slow reader costs itself its backlog, not the process its memory
            while not self._queue.empty():
                self._queue.get_nowait()
            heard = Hint("reset")
        self._queue.put_nowait(heard)


class _Channel:
    """Those who follow one channel."""

    def __init__(self) -> None:
        self.followers: set[Follower] = set()
        self.subscribed = asyncio.Event()


class Deltas:
    """One process's link to Redis; one subscription connection, whatever the number of followers."""

    def __init__(self, redis_url: str) -> None:
        # Tries once: what cannot be said now is said with the next words.
        self._redis: Any = Redis.from_url(
            redis_url,
            decode_responses=True,
            socket_timeout=1,
            socket_connect_timeout=1,
            health_check_interval=15,
            retry=Retry(NoBackoff(), 0),
        )
        self._channels: dict[str, _Channel] = {}
        self._pubsub: Any = None
        self._listener: asyncio.Task[None] | None = None
        self._silent_until = 0.0
        self._reachable = True

    async def close(self) -> None:
        """Closes the connections."""
        if self._listener:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        with suppress(*_LOST):
            await self._redis.aclose()

    # --- workers ----------------------------------------------------------------------------------

    async def say(self, dialogue_id: UUID, said: Said) -> bool:
        """Keeps and publishes; False when Redis did not take it, then say the same again later."""
        key, entry = _key(dialogue_id, said.message_id, said.attempt), {"text": said.text, "v": said.after}
        wire = _Wire("delta", said.message_id, said.attempt, said.n, said.text, said.after)
        async with self._redis.pipeline(transaction=False) as pipe:
            if said.n == 1:
                pipe.eval(unsaid.FIRST, 2, key, unsaid.forgotten(dialogue_id), "1-0", said.text, said.after)
            else:
                pipe.xadd(key, entry, id=f"{said.n}-0", maxlen=LONGEST, nomkstream=True)
            pipe.expire(key, KEPT)
            pipe.publish(_channel(dialogue_id), msgspec.json.encode(wire))
            return await self._send(pipe)

    async def end(self, dialogue_id: UUID, message_id: UUID, attempt: int) -> None:
        """Hints that no more words of this attempt will come."""
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.expire(_key(dialogue_id, message_id, attempt), KEPT_AFTER_END)
            pipe.publish(_channel(dialogue_id), msgspec.json.encode(_Wire("end", message_id, attempt)))
            await self._send(pipe)

    async def _send(self, pipe: Any) -> bool:
        clock = asyncio.get_running_loop().time
        if clock() < self._silent_until:
            return False
        try:
            for answer in await pipe.execute(raise_on_error=False):
                # "equal or smaller": these words had arrived, only the answer to that was lost.
                if isinstance(answer, RedisError) and "equal or smaller" not in str(answer):
                    raise answer
        except _LOST as error:
            self._silent_until = clock() + PAUSE
            self._note(error)
            return False
        self._note(None)
        return True

    # --- who forgets ------------------------------------------------------------------------------

    async def forget(self, dialogue_ids: Collection[UUID]) -> bool:
        """Takes back every word of these dialogues (`unsaid`); False when Redis was away or too busy."""
        try:
            return await unsaid.forget(self._redis, dialogue_ids)
        except _LOST as error:
            self._note(error)
            return False

    # --- api --------------------------------------------------------------------------------------

    async def replay(self, dialogue_id: UUID, message_id: UUID, attempt: int, after_n: int = 0) -> list[Said]:
        """The words of an attempt after its segment `after_n`, without a gap; nothing if there is one."""
        try:
            rows = await self._redis.xrange(_key(dialogue_id, message_id, attempt), min=f"({after_n}-0")
        except ResponseError:
            return []
        except _LOST as error:
            self._note(error)
            return []
        said = [
            Said(message_id, attempt, int(n.partition("-")[0]), entry["text"], int(entry.get("v", 0)))
            for n, entry in rows
        ]
        return said if all(s.n == n for n, s in enumerate(said, after_n + 1)) else []

    def follow(self, dialogue_id: UUID) -> AbstractAsyncContextManager[Follower]:
        """`async with` it: a `Follower` of everything said about this dialogue from now on."""
        return self.listen(_channel(dialogue_id))

    @asynccontextmanager
    async def listen(self, name: str) -> AsyncIterator[Follower]:
        """A `Follower` of one channel; with Redis away it hears "reset" when it is back."""
        follower, channel = Follower(), self._channels.setdefault(name, _Channel())
        channel.followers.add(follower)
        try:
            await self._subscribe(name, channel)
            yield follower
        finally:
            channel.followers.discard(follower)
            if not channel.followers and self._channels.get(name) is channel:
                del self._channels[name]
                await self._tell("unsubscribe", name)

    def wake(self) -> None:
        """Tells every follower that something happened: it looks again."""
        for channel in self._channels.values():
            for follower in channel.followers:
                follower._hear(Hint("rung"))

    async def _subscribe(self, name: str, channel: _Channel) -> None:
        if self._listener is None or self._listener.done():
            # Everybody's, so it is logged under nobody's ids.
            self._listener = asyncio.create_task(self._listen(), name="deltas", context=Context())
        if len(channel.followers) == 1:
            await self._tell("subscribe", name)
        # Confirmed before the caller replays: nothing can be said between the two unheard.
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE):
                await channel.subscribed.wait()
        channel.subscribed.set()  # one that comes later says that words may have been missed

    async def _tell(self, verb: str, name: str) -> None:
        if self._pubsub is not None:
            with suppress(*_LOST):  # the listener meets the same error and starts over
                await getattr(self._pubsub, verb)(name)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    known = set(self._channels)
                    await pubsub.subscribe("bichat:deltas", *known)
                    self._pubsub = pubsub
                    if late := set(self._channels) - known:  # they came while that was on its way
                        await pubsub.subscribe(*late)
                    while True:
                        message = await pubsub.get_message(timeout=10)
                        if message:
                            self._heard(message)
            except _LOST as error:
                self._note(error)
            finally:
                self._pubsub = None
            await asyncio.sleep(PAUSE / 2)

    def _heard(self, message: dict[str, Any]) -> None:
        channel = self._channels.get(message["channel"])
        if channel is None:
            return
        heard: Said | Hint | None = None
        if message["type"] == "subscribe":
            self._note(None)
            heard = Hint("reset") if channel.subscribed.is_set() else None
            channel.subscribed.set()
        elif message["type"] == "message":
            heard = _read(message["data"])
        for follower in channel.followers if heard else ():
            follower._hear(heard)  # type: ignore[arg-type]  # not None here

    def _note(self, error: Exception | None) -> None:
        """One line when Redis goes away, one when it is back."""
        if error and self._reachable:
            log.warning("Redis does not answer, so replies are not heard word by word: %s", error)
        elif not error and not self._reachable:
            log.warning("Redis answers again")
        self._reachable = error is None


def _key(dialogue_id: UUID, message_id: UUID, attempt: int) -> str:
    return f"{unsaid.WORDS}{dialogue_id}:{message_id}:{attempt}"


def _channel(dialogue_id: UUID) -> str:
    return f"bichat:dialogue:{dialogue_id}"


def _read(data: str) -> Said | Hint | None:
    try:
        return msgspec.json.decode(data, type=_Wire).heard()
    except ValueError:
        return Hint("rung")
