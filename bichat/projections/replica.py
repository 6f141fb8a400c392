"""Whether the replica can be relied on: it is looked at once a second, and left to itself while it is away.

Without it queries go to the primary, through a pool of bounded size: slower is better than not at all. They
come back once it has all that was waited for on the primary, so that nobody's own writes disappear again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

from bichat.errors import Stopping, Unavailable
from bichat.projections.source import Source

LOOK = 1.0
"""Seconds between two looks, and for which each waits for a connection."""

log = logging.getLogger(__name__)

Choice = Callable[[Source, dict[str, int] | None], bool]
"""Told where queries are to go, and how far the read models are there; it may refuse."""


class Replica:
    """The copy that queries go to; `lag` is for how many seconds it has lacked something of the log."""

    def __init__(self, primary: Source, copy: Source, choose: Choice) -> None:
        self._primary, self._copy, self._choose = primary, copy, choose
        self._used = False
        self._goal: tuple[int, float] | None = None
        """Where the log was, and when."""
        self.lag = 0.0
        self._watch: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Opens the pool, and begins to look."""
        await self._copy.open()
        self._watch = asyncio.create_task(self._look_often(), name="reads.replica")

    async def close(self) -> None:
        """Ends both."""
        if self._watch:
            self._watch.cancel()
        await self._copy.close()

    async def _look_often(self) -> None:
        while True:
            try:
                await self._look()
            except Stopping:
                return
            except Exception:  # queries go where they went
                log.exception("The replica was not looked at")
            await asyncio.sleep(LOOK)

    async def _look(self) -> None:
        try:
            there, positions = await self._copy.head(LOOK), await self._copy.positions(LOOK)
        except Stopping:
            raise
        except Unavailable as error:
            self._leave(error)
            return
        if await self._has_caught_up(there) and not self._used and self._choose(self._copy, positions):
            self._used = True
            log.info("Queries go to the replica")

    async def _has_caught_up(self, there: int) -> bool:
        """Whether it has what was in the log at an earlier look; and since when it has not."""
        try:
            head, now = await self._primary.head(LOOK), monotonic()
        except Unavailable:
            return True  # there is nothing else to read
        if self._goal is None:
            self._goal = head, now
        reached = there >= self._goal[0]
        self.lag = 0.0 if reached else now - self._goal[1]
        if reached:
            self._goal = head, now
        return reached

    def _leave(self, error: Exception) -> None:
        if self._used:
            log.warning("The replica does not answer, so queries go to the primary: %s", error)
            self._choose(self._primary, None)
        self._used, self._goal, self.lag = False, None, 0.0
