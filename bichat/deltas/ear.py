"""Everything that a process hears from Redis: one connection, whatever the number of followers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import Any

from bichat.deltas.wire import LOST, PAUSE, Hint, Said, read

BACKLOG = 512
"""What waits for one follower before it is told to start over."""
PULSE = 10.0
"""Seconds between two pings, and in which something has to come back."""


class Follower:
    """What is said on one channel from now on."""

    def __init__(self) -> None:
        self._heard: deque[Said | Hint] = deque()
        self._waiting: asyncio.Future[None] | None = None

    @property
    def more(self) -> bool:
        """Whether `next` has something to give at once."""
        return bool(self._heard)

    async def next(self, timeout: float) -> Said | Hint | None:  # noqa: ASYNC109 - a plain wait
        """The next one; None after `timeout` seconds of silence."""
        if not self._heard:
            loop = asyncio.get_running_loop()
            self._waiting = loop.create_future()
            alarm = loop.call_later(timeout, _wake, self._waiting)
            try:
                await self._waiting
            finally:
                alarm.cancel()
        return self._heard.popleft() if self._heard else None

    def hear(self, heard: Said | Hint) -> None:
        """One more."""
        if len(self._heard) >= BACKLOG:  # a slow reader costs itself its backlog, not the process its memory
            self._heard.clear()
            heard = Hint("reset")
        self._heard.append(heard)
        if self._waiting:
            _wake(self._waiting)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class _Channel:
    """Those who follow one channel."""

    def __init__(self) -> None:
        self.followers: set[Follower] = set()
        self.subscribed = asyncio.Event()


class Ear:
    """Listens for all followers, and starts over when the connection is lost."""

    def __init__(self, redis: Any, note: Callable[[Exception | None], None]) -> None:
        """`redis` waits for answers without end, and is closed here; `note` is told what went wrong."""
        self._redis, self._note = redis, note
        self.channels: dict[str, _Channel] = {}
        self._pubsub: Any = None
        self._alive = True
        """Something was heard since the last ping."""
        self._listener: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Listens no more."""
        if self._listener:
            self._listener.cancel()
            await asyncio.wait([self._listener])
        with suppress(*LOST):
            await self._redis.aclose()

    @asynccontextmanager
    async def follow(self, name: str) -> AsyncIterator[Follower]:
        """A `Follower` of one channel; with Redis away it hears "reset" when it is back."""
        follower, channel = Follower(), self.channels.setdefault(name, _Channel())
        channel.followers.add(follower)
        try:
            await self._subscribe(name, channel)
            yield follower
        finally:
            channel.followers.discard(follower)
            if not channel.followers and self.channels.get(name) is channel:
                del self.channels[name]
                await self._tell("unsubscribe", name)

    def wake(self) -> None:
        """Tells every follower that something happened: it looks again."""
        for channel in self.channels.values():
            for follower in channel.followers:
                follower.hear(Hint("rung"))

    async def _subscribe(self, name: str, channel: _Channel) -> None:
        if self._listener is None or self._listener.done():
            # Everybody's, so it is logged under nobody's ids.
            self._listener = asyncio.create_task(self._listen(), name="deltas.ear", context=Context())
        if len(channel.followers) == 1:
            await self._tell("subscribe", name)
        # Confirmed before the caller replays: nothing can be said between the two unheard.
        with suppress(TimeoutError):
            async with asyncio.timeout(PAUSE):
                await channel.subscribed.wait()
        channel.subscribed.set()  # one that comes later says that words may have been missed

    async def _tell(self, verb: str, name: str) -> None:
        if self._pubsub is not None:
            with suppress(*LOST):  # the listener meets the same error and starts over
                await getattr(self._pubsub, verb)(name)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._redis.pubsub() as pubsub:
                    known = set(self.channels)
                    async with asyncio.timeout(PULSE):  # one that takes connections may say nothing on them
                        await pubsub.subscribe("bichat:deltas", *known)
                    self._pubsub = pubsub
                    if late := set(self.channels) - known:  # they came while that was on its way
                        await pubsub.subscribe(*late)
                    pulse = asyncio.create_task(self._ping(pubsub), name="deltas.pulse", context=Context())
                    try:
                        while True:  # without a timeout for each message: that took half of its time
                            if message := await pubsub.get_message(timeout=None):
                                self._alive = True
                                self._heard(message)
                    finally:
                        pulse.cancel()
            except LOST as error:
                self._note(error)
            finally:
                self._pubsub = None
            await asyncio.sleep(PAUSE / 2)

    async def _ping(self, pubsub: Any) -> None:
        """Ends a connection on which nothing comes back."""
        with suppress(*LOST):
            self._alive = True
            while self._alive:
                self._alive = False
                await pubsub.ping()
                await asyncio.sleep(PULSE)
            await pubsub.connection.disconnect()

    def _heard(self, message: dict[str, Any]) -> None:
        channel = self.channels.get(message["channel"])
        if channel is None:
            return
        heard: Said | Hint | None = None
        if message["type"] == "subscribe":
            self._note(None)
            heard = Hint("reset") if channel.subscribed.is_set() else None
            channel.subscribed.set()
        elif message["type"] == "message":
            heard = read(message["data"])
        if heard:
            for follower in channel.followers:
                follower.hear(heard)
