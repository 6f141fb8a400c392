"""Says the words of one attempt as they come: the first at once, then in segments."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import UUID

from bichat.deltas import Deltas, Said

SEGMENT = 0.04
"""Seconds between two segments: faster than anyone reads, slow enough for a thousand streams."""


class Speaker:
    """The model is heard in one task and repeated here in another: a slow Redis never slows the model.

    What could not be said waits and is said again, so that nobody ever hears words with a gap.
    """

    def __init__(self, deltas: Deltas, dialogue_id: UUID, message_id: UUID, attempt: int) -> None:
        self._deltas, self._dialogue_id = deltas, dialogue_id
        self._next = Said(message_id, attempt, 1, "")
        self._words: list[str] = []
        self._heard, self._over = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Speaker:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Says the rest, once, and stops."""
        self._over.set()
        self._heard.set()
        await self._task
        if await self._say():
            await self._say()

    def add(self, text: str) -> None:
        """More words."""
        self._words.append(text)
        self._heard.set()

    async def _run(self) -> None:
        while not self._over.is_set():
            await self._heard.wait()
            await self._say()
            with suppress(TimeoutError):
                async with asyncio.timeout(SEGMENT):
                    await self._over.wait()

    async def _say(self) -> bool:
        """Says the segment that waits; the same one again until it is taken."""
        if not self._next.text:
            self._next = Said(self._next.message_id, self._next.attempt, self._next.n, "".join(self._words))
            self._words.clear()
        if self._next.text and await self._deltas.say(self._dialogue_id, self._next):
            self._next = Said(self._next.message_id, self._next.attempt, self._next.n + 1, "")
        if not self._next.text and not self._words:
            self._heard.clear()
        return not self._next.text
