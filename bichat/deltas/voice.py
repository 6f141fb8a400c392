"""What the replies of a process have to say at one moment goes to Redis together, in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any

from bichat.deltas.wire import LOST, PAUSE

TOGETHER = 256
"""Scripts that are sent at a time."""

Script = tuple[Any, ...]
"""What is evaluated: its text, the number of its keys, the keys, the arguments."""


class Voice:
    """Sends scripts in order. Tries once: what cannot be said now is said with the next words."""

    def __init__(self, redis: Any, note: Callable[[Exception | None], None]) -> None:
        """`note` is told what went wrong, or that nothing did."""
        self._redis, self._note = redis, note
        self._waiting: list[tuple[Script, asyncio.Future[bool]]] = []
        self._sender: asyncio.Task[None] | None = None
        self._silent_until = 0.0

    async def close(self) -> None:
        """Says no more; who waits is told so."""
        if self._sender:
            self._sender.cancel()
            await asyncio.wait([self._sender])

    async def say(self, *script: Any) -> bool:
        """Whether Redis took it."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._silent_until:
            return False
        taken: asyncio.Future[bool] = loop.create_future()
        self._waiting.append((script, taken))
        if self._sender is None or self._sender.done():
            # Everybody's, so it is logged under nobody's ids.
            self._sender = asyncio.create_task(self._send_all(), name="deltas.voice", context=Context())
        return await taken

    async def _send_all(self) -> None:
        some: list[tuple[Script, asyncio.Future[bool]]] = []
        try:
            while self._waiting:
                some, self._waiting = self._waiting[:TOGETHER], self._waiting[TOGETHER:]
                answers = await self._send([script for script, _ in some])
                for (_, taken), answer in zip(some, answers, strict=True):
                    if not taken.done():  # it may have been given up
                        taken.set_result(answer)
        finally:
            for _, taken in (*some, *self._waiting):
                if not taken.done():
                    taken.set_result(False)
            self._waiting = []

    async def _send(self, scripts: list[Script]) -> list[bool]:
        clock = asyncio.get_running_loop().time
        if clock() < self._silent_until:
            return [False] * len(scripts)
        try:
            async with self._redis.pipeline(transaction=False) as pipe:
                for script in scripts:
                    pipe.eval(*script)
                answers = await pipe.execute(raise_on_error=False)
        except LOST as error:
            answers = [error] * len(scripts)
        failed = next((answer for answer in answers if isinstance(answer, Exception)), None)
        if failed:
            self._silent_until = clock() + PAUSE
        self._note(failed)
        return [not isinstance(answer, Exception) for answer in answers]
