"""One open stream: waits for what happens in a dialogue and tells it, until its end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from itertools import takewhile
from uuid import UUID

from bichat import metrics
from bichat.api.call import Call
from bichat.api.sse import HEARTBEAT, resumable
from bichat.api.telling import Telling
from bichat.deltas import Deltas, Follower, Hint, Said
from bichat.errors import Unavailable
from bichat.projections import transcripts

BEAT = 10.0
"""Seconds of silence after which a comment is sent; clients are promised one every 15."""
LOOK = 2.0
"""Seconds of silence after which an awaited reply is looked for in the read model, whatever Redis says."""
PIECE = 65_536
"""Bytes that are sent at a time, about."""


class Streams:
    """Those that are open in this process."""

    def __init__(self) -> None:
        self.stopping = False

    def stop(self, deltas: Deltas) -> None:
        """Ends them all at once; each client has an id to resume from elsewhere."""
        self.stopping = True
        deltas.wake()


class Conversation:
    """One open stream; while it waits it holds no connection, no transaction and no task of its own."""

    def __init__(self, call: Call, telling: Telling) -> None:
        self._parts, self._who, self._telling = call.parts, call.user, telling
        self._streams: Streams = call.app.state["streams"]
        self._caught: tuple[UUID, int] | None = None
        """The attempt whose earlier words were replayed."""
        self._hole = False
        """Words of it are lost: later ones alone would be read as the whole."""
        self._looked = 0.0

    async def events(self, first: bytes) -> AsyncIterator[bytes]:
        """Everything there is to tell, as ready SSE bytes."""
        yield first + resumable(self._telling.mark)
        with metrics.STREAMS.track_inprogress():
            async with self._parts.deltas.follow(self._telling.dialogue_id) as follower:
                if chunk := await self._look():
                    yield chunk
                told = time.monotonic()
                while not self._over():
                    chunk = await self._next(follower)
                    while follower.more and len(chunk) < PIECE and not self._over():
                        chunk += await self._next(follower)  # a busy process sends more at a time
                    now = time.monotonic()
                    if not chunk and now - told >= BEAT:
                        chunk = HEARTBEAT
                    if chunk:
                        told = now
                        yield chunk

    def _over(self) -> bool:
        return self._telling.over or self._streams.stopping or time.time() >= self._who.expires

    async def _next(self, follower: Follower) -> bytes:
        if self._telling.behind:
            return await self._look()
        heard = await follower.next(LOOK if self._telling.waits else BEAT)
        match heard:
            case Said():
                return await self._said(heard)
            case Hint(kind="end"):
                return b""
            case Hint(kind="rung") if self._over():
                return b""
            case Hint(kind="projected", version=version) if version <= self._telling.mark.version:
                return b""
            case Hint(kind="reset"):
                self._caught, self._hole = None, False
        return await self._look()

    async def _said(self, said: Said) -> bytes:
        if self._telling.expects(said):
            if said.after <= self._telling.mark.version:
                return self._telling.said(said)
            self._caught = None  # what comes before these words is committed; they are told once it is seen
            return await self._look()
        if self._telling.misses(said) and not self._hole:
            self._caught = None
            words = await self._words()
            self._hole = not words
            return words
        if self._telling.unheard_of(said) and time.monotonic() - self._looked > LOOK:
            return await self._look()  # the hint that its start is committed may be lost
        return b""

    async def _look(self) -> bytes:
        """What was committed since, and the words of a reply that has started."""
        telling, who, self._looked = self._telling, self._who, time.monotonic()
        whose = (who.tenant_id, telling.dialogue_id, who.id)
        events: list[bytes] = []
        try:
            async with self._parts.reads.tenant(who.tenant_id, live=True) as connection:
                if telling.only:
                    since = telling.mark.version
                    if reply := await transcripts.reply(
                        connection, *whose, telling.only, since_version=since
                    ):
                        events.extend(telling.reply(reply))
                elif changed := await transcripts.changes(connection, *whose, telling.mark.version):
                    events.extend(telling.dialogue(changed))
        except Unavailable:
            pass  # the next look will tell
        return b"".join(events) + await self._words()

    async def _words(self) -> bytes:
        attempt = self._telling.attempt
        if attempt is None or attempt == self._caught:
            return b""
        self._caught, self._hole = attempt, False
        telling = self._telling
        said = await self._parts.deltas.replay(telling.dialogue_id, *attempt, telling.mark.segments)
        due = list(takewhile(lambda one: one.after <= telling.mark.version, said))
        if len(due) < len(said):
            self._caught = None
        return b"".join(map(telling.said, due))
