"""How the installation is, across tenants: every build of every read model, and the queue of questions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from msgspec import Struct
from psycopg import Connection
from psycopg.rows import class_row

from bichat.errors import ReadsUnavailable, Unavailable
from bichat.projections import replies
from bichat.projections.reads import Reads
from bichat.projections.sql import statement

FRESH = 1.0
"""Seconds that an answer is good for: however many ask, the database is asked no more often."""
PATIENCE = 3.0
"""Seconds that whoever asks waits for it."""
LONGEST = 15.0
"""Seconds until a connection that says nothing is given up, so that another can be asked."""

T = TypeVar("T", bound=Struct)
State = Literal["serving", "unfollowed", "stopped", "building", "failed", "standby"]
"""Read and up to date · read, but nobody follows · its follower cannot go on · being made · could not be
made · kept for a way back."""


class Standing(Struct, frozen=True, kw_only=True):
    """How one build is (`bichat.projections()`)."""

    name: str
    shape: int
    build: int
    serves: bool
    state: str
    """live, building or stopped."""
    phase: str
    error: str
    position: int
    head: int
    lag_events: int
    lag_seconds: float
    rate: float
    parked: int
    runner: str
    running: bool
    slices: int | None
    loaded: int | None
    updated_at: datetime

    @property
    def in_a_word(self) -> State:
        """How it is, as people understand it."""
        if not self.serves and self.phase != "done":
            return "failed" if self.phase == "failed" else "building"
        if self.state != "live":
            return "stopped" if self.state == "stopped" else "building"
        if not self.serves:
            return "standby"
        return "serving" if self.running else "unfollowed"

    def told(self) -> dict[str, Any]:
        """Everything, with the build's id and that word first."""
        first = {"id": f"{self.name}_v{self.shape}_g{self.build}", "state": self.in_a_word}
        return first | {name: getattr(self, name) for name in self.__struct_fields__ if name != "state"}


class Waiting(Struct, frozen=True):
    """How many questions without an answer have this status, and since when the first of them."""

    status: str
    questions: int
    oldest: float
    """Seconds since it was asked."""


async def builds(reads: Reads) -> list[Standing]:
    """Every build of every read model, those of other versions of the code too."""
    return await _rows(reads, Standing, statement("reads", "builds"))


def everything(connection: Connection[Any]) -> list[Standing]:
    """The same, for the installation's operator."""
    with connection.cursor(row_factory=class_row(Standing)) as found:
        return found.execute(statement("reads", "builds")).fetchall()


async def queue(reads: Reads) -> list[Waiting]:
    """The questions of all tenants by status."""
    return await _rows(reads, Waiting, replies.MODEL.sql("queue"))


async def _rows(reads: Reads, kind: type[T], query: bytes) -> list[T]:
    async with reads.connection() as connection, connection.cursor(row_factory=class_row(kind)) as found:
        await found.execute(query)
        return await found.fetchall()


class Watch(Generic[T]):
    """Asks the database one thing, however many want to know, and lets nobody wait for long."""

    def __init__(self, ask: Callable[[], Awaitable[list[T]]]) -> None:
        self._ask = ask
        self._asking: asyncio.Task[list[T] | Unavailable] | None = None
        self._began = 0.0

    async def look(self) -> list[T]:
        """What was so within the last second; raises `Unavailable` kinds."""
        if self._asking is None or (self._asking.done() and time.monotonic() - self._began > FRESH):
            self._began = time.monotonic()
            self._asking = asyncio.create_task(self._told(), name="watch")
        # Not a timeout around the task: others wait for it too, and the pool does not like to be cut short.
        await asyncio.wait([self._asking], timeout=PATIENCE)
        told = self._asking.result() if self._asking.done() else ReadsUnavailable(reason="no answer in time")
        if isinstance(told, Unavailable):
            raise told
        return told

    async def _told(self) -> list[T] | Unavailable:
        try:
            async with asyncio.timeout(LONGEST):
                return await self._ask()
        except Unavailable as error:
            return error
        except Exception as error:  # a database that is not migrated knows no such function
            return ReadsUnavailable(reason=type(error).__name__)


class Watches:
    """What an API looks at for probes and for Prometheus."""

    def __init__(self, reads: Reads) -> None:
        self.builds = Watch(partial(builds, reads))
        self.queue = Watch(partial(queue, reads))
