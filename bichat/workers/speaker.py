"""Says the words of one attempt as they come: the first at once, then in segments."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import takewhile
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
        self._words: list[tuple[int, str]] = []
        self._after = 0
        self._heard, self._over = asyncio.Event(), asyncio.Event()

    async def __aenter__(self) -> Speaker:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *error: object) -> None:
        """Says the rest, once, and stops."""
        self._over.set()
        self._heard.set()
        await self._task
        while await self._say() and self._words:
            pass

    def add(self, text: str) -> None:
        """More words."""
        self._words.append((self._after, text))
        self._heard.set()

    def after(self, version: int) -> None:
        """What is said from now on comes after this version of the dialogue."""
        self._after = version

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
            self._next = self._segment()
        if self._next.text and await self._deltas.say(self._dialogue_id, self._next):
            self._next = Said(self._next.message_id, self._next.attempt, self._next.n + 1, "")
        if not self._next.text and not self._words:
            self._heard.clear()
        return not self._next.text

    def _segment(self) -> Said:
        """The words that wait, as far as they come after the same."""
        after = self._words[0][0] if self._words else self._after
        some = list(takewhile(lambda word: word[0] == after, self._words))
        del self._words[: len(some)]
        text = "".join(text for _, text in some)
        return Said(self._next.message_id, self._next.attempt, self._next.n, text, after)
