"""Streams: follows a dialogue, or the reply to one question, until its end and from any point."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated
from uuid import UUID

from litestar import Router, get
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.response import Stream

from bichat.api import reading
from bichat.api.call import Call
from bichat.api.conversation import Conversation
from bichat.api.problems import PRIVATE
from bichat.api.sse import Mark
from bichat.api.telling import Telling
from bichat.commands.job import Outcome
from bichat.errors import Stopping
from bichat.events.transcript import Turn
from bichat.projections import transcripts

SSE = "text/event-stream"
HEADERS = {**PRIVATE, "X-Accel-Buffering": "no"}
Id = "The `id:` of the last event received: goes on after it."


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
    telling, first = Telling(dialogue_id, mark, only=message_id), b""
    if text or not message_id:
        current = await reading.dialogue(request, dialogue_id, mark.version, field)
        first = b"" if message_id else b"".join(telling.begin(current))
    if message_id:
        await _find(request, dialogue_id, message_id)
    return stream_of(request, telling, first)


def follow_reply(call: Call, outcome: Outcome, headers: Mapping[str, str]) -> Stream:
    """The stream of the reply to a question that was just asked, or asked before under the same key."""
    mark = Mark() if outcome.replayed else Mark(version=outcome.version)
    return stream_of(call, Telling(outcome.dialogue_id, mark, only=outcome.message_id), b"", headers)


async def _find(call: Call, dialogue_id: UUID, message_id: UUID) -> None:
    """Raises `NotFound` unless there is such a question; returns once a retry of it would be seen."""
    who = call.user

    async def fetch() -> Turn | None:
        async with call.parts.reads.tenant(who.tenant_id) as connection:
            return await transcripts.turn(connection, who.tenant_id, dialogue_id, who.id, message_id)

    turn = await reading.waited(call, fetch, dialogue_id, what="question")
    if turn.status in ("failed", "cancelled"):  # it may have been asked again before this request
        await call.parts.reads.caught_up("transcripts", await call.parts.reads.head())


def stream_of(call: Call, telling: Telling, first: bytes, headers: Mapping[str, str] | None = None) -> Stream:
    """The answer that tells it, beginning with `first`."""
    if call.app.state["streams"].stopping:
        raise Stopping()
    content = Conversation(call, telling).events(first)
    return Stream(content, media_type=SSE, status_code=200, headers={**HEADERS, **(headers or {})})


router = Router("/dialogues/{dialogue_id:str}/stream", route_handlers=[follow], tags=["streams"])
