"""Streams: follows a dialogue, or the reply to one question, until its end and from any point."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.response import Stream

from bichat.api import reading
from bichat.api.call import Call
from bichat.api.problems import PRIVATE
from bichat.api.telling import HEARTBEAT, RETRY, Mark, Telling
from bichat.commands.batch import Outcome
from bichat.deltas import Deltas, Follower, Hint, Said
from bichat.errors import Stopping, Unavailable
from bichat.events.transcript import Turn
from bichat.projections import transcripts

SSE = "text/event-stream"
HEADERS = {**PRIVATE, "X-Accel-Buffering": "no"}
BEAT = 10.0
"""Seconds of silence after which a comment is sent; clients are promised one every 15."""
LOOK = 2.0
"""Seconds of silence after which an awaited reply is looked for in the read model, whatever Redis says."""

Id = "The `id:` of the last event received: goes on after it."


class Streams:
    """Those that are open in this process."""

    def __init__(self) -> None:
        self.stopping = False

    def stop(self, deltas: Deltas) -> None:
        """Ends them all at once; each client has an id to resume from elsewhere."""
        self.stopping = True
        deltas.wake()


@get("/", media_type=SSE)
async def follow(
    request: Call,
    dialogue_id: FromPath[UUID],
    message_id: Annotated[UUID | None, QueryParameter(description="Only the reply to this question.")] = None,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID", description=Id)] = None,
    starting_after: Annotated[str | None, QueryParameter(description=Id)] = None,
) -> Stream:
    """Server-sent events: what is committed, and the words of a reply as they are written."""
    field, text = ("Last-Event-ID", last_event_id) if last_event_id else ("starting_after", starting_after)
    mark = Mark.read(field, text) if text else Mark()
    current = await reading.dialogue(request, dialogue_id, mark.version, field)
    telling = Telling(dialogue_id, mark, only=message_id)
    first = b""
    if message_id:
        await _find(request, dialogue_id, message_id)
    else:
        first = b"".join(telling.begin(current))
    return _stream(request, telling, first)


def follow_reply(call: Call, outcome: Outcome, headers: Mapping[str, str]) -> Stream:
    """The stream of the reply to a question that was just asked, or asked before under the same key."""
    mark = Mark() if outcome.replayed else Mark(version=outcome.version)
    return _stream(call, Telling(outcome.dialogue_id, mark, only=outcome.message_id), b"", headers)


async def _find(call: Call, dialogue_id: UUID, message_id: UUID) -> None:
    """Raises `NotFound` unless there is such a question; returns once a retry of it would be seen."""
    who = call.user

    async def fetch() -> Turn | None:
        async with call.parts.reads.tenant(who.tenant_id) as connection:
            return await transcripts.turn(connection, who.tenant_id, dialogue_id, who.id, message_id)

    turn = await reading.waited(call, fetch, 0, "question")
    if turn.status in ("failed", "cancelled"):  # it may have been asked again before this request
        await call.parts.reads.caught_up("transcripts", await call.parts.reads.head())


def _stream(call: Call, telling: Telling, first: bytes, headers: Mapping[str, str] | None = None) -> Stream:
    if call.app.state["streams"].stopping:
        raise Stopping()
    content = _Conversation(call, telling).events(first)
    return Stream(content, media_type=SSE, status_code=200, headers={**HEADERS, **(headers or {})})


class _Conversation:
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
        yield RETRY + first
        async with self._parts.deltas.follow(self._telling.dialogue_id) as follower:
            if chunk := await self._look():
                yield chunk
            told = time.monotonic()
            while not self._over():
                chunk = await self._next(follower)
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
            return self._telling.said(said)
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
            async with self._parts.reads.tenant(who.tenant_id) as connection:
                if telling.only:
                    if reply := await transcripts.reply(connection, *whose, telling.only):
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
        said = await self._parts.deltas.replay(*attempt, self._telling.mark.segments)
        return b"".join(map(self._telling.said, said))


router = Router("/dialogues/{dialogue_id:str}/stream", route_handlers=[follow], tags=["streams"])
