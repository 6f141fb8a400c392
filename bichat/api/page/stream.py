"""The stream of a dialogue for the page: the API's own, for who is signed in."""

from __future__ import annotations

from typing import Annotated

from litestar import Router, get
from litestar.params import HeaderParameter, QueryParameter
from litestar.response import Stream

from bichat.api import reading
from bichat.api.page.dialogues import Id
from bichat.api.page.messages import Version
from bichat.api.page.visit import Visit, id_of
from bichat.api.sse import Mark
from bichat.api.stream import SSE, stream_of
from bichat.api.telling import Telling

STALE = b"event: page.stale\ndata: {}\n\n"
"""What the page shows is older than where this stream begins: it has to be read again."""


@get("/", media_type=SSE)
async def follow(
    request: Visit,
    dialogue_id: Id,
    version: Version = 0,
    last_event_id: Annotated[str | None, HeaderParameter(name="Last-Event-ID")] = None,
    starting_after: Annotated[str | None, QueryParameter()] = None,
) -> Stream:
    """Server-sent events from now on, for a page that shows `version`, or from where it was cut off."""
    text = last_event_id or starting_after
    mark = Mark.read("Last-Event-ID", text) if text else Mark()
    telling = Telling(id_of(dialogue_id), mark)
    current = await reading.dialogue(request, telling.dialogue_id, mark.version, "Last-Event-ID")
    first = b"".join(telling.begin(current))
    if not text and current.version != version:
        first = STALE + first
    return stream_of(request, telling, first)


router = Router("/{dialogue_id:str}/stream", route_handlers=[follow])
