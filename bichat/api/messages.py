"""The messages of a dialogue: say, list, cancel a reply, retry one."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from litestar import Response, Router, get, post
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import UNSET, Meta, Struct
from msgspec.structs import replace

from bichat.api import answers, asking, reading
from bichat.api.call import Call, mint
from bichat.api.changing import changed
from bichat.api.parameters import BIGGEST, Cursor, Limit, MinVersion
from bichat.api.schemas import Accepted, Changed, Messages, NewMessages
from bichat.commands.dialogue import AddMessage, CancelReply, NewMessage, RetryReply
from bichat.errors import Invalid
from bichat.events.transcript import Dialogue
from bichat.projections import cursor, transcripts


class Place(Struct, frozen=True, array_like=True):
    """Where a page begins."""

    seq: Annotated[int, Meta(ge=0, le=BIGGEST)]


@post("/", status_code=202, responses=asking.STREAMED)
async def add(request: Call, dialogue_id: FromPath[UUID], data: JSONBody[NewMessages]) -> Response[Accepted]:
    """Says one or several messages; the last one is a question that will be answered."""
    outcome = await request.execute(AddMessage(dialogue_id=dialogue_id, messages=_said(request, data)), data)
    return await asking.answer(request, outcome)


@get("/")
async def page(
    request: Call,
    dialogue_id: FromPath[UUID],
    *,
    after: Cursor = None,
    order: Annotated[Literal["asc", "desc"], QueryParameter()] = "asc",
    limit: Limit = 50,
    min_version: MinVersion = None,
) -> Messages:
    """The messages, oldest first unless `order=desc`."""
    seq = cursor.read(after, Place).seq if after else None

    async def fetch() -> Dialogue | None:
        who = request.user
        async with request.parts.reads.tenant(who.tenant_id) as connection:
            return await transcripts.messages(
                connection, who.tenant_id, dialogue_id, who.id, after_seq=seq, order=order, limit=limit
            )

    found = await reading.waited(request, fetch, dialogue_id, version=min_version or 0)
    listed = answers.messages(found)
    end = found.message_count if order == "asc" else 1
    more = listed and listed[-1].seq != end
    return Messages(data=listed, next=cursor.write((listed[-1].seq,)) if more else None)


@post("/{message_id:str}/cancel", status_code=202)
async def cancel(request: Call, dialogue_id: FromPath[UUID], message_id: FromPath[UUID]) -> Response[Changed]:
    """Ends the reply to this question, if it still waits or runs."""
    return changed(await request.execute(CancelReply(dialogue_id=dialogue_id, message_id=message_id)))


@post("/{message_id:str}/retry", status_code=202)
async def retry(request: Call, dialogue_id: FromPath[UUID], message_id: FromPath[UUID]) -> Response[Changed]:
    """Asks again for a reply that failed or was cancelled."""
    return changed(await request.execute(RetryReply(dialogue_id=dialogue_id, message_id=message_id)))


def _said(request: Call, data: NewMessages) -> tuple[NewMessage, ...]:
    asked = replace(asking.asked(data), schedule=data.schedule)
    if data.messages is UNSET:
        if data.content is UNSET:
            raise Invalid(field="content", reason="is required, or messages")
        asking.check_length(request, "content", data.content)
        return (
            NewMessage(
                message_id=mint(), role="user", content=data.content, name=data.name or "", asks=asked
            ),
        )
    if data.content is not UNSET or data.name is not None:
        raise Invalid(field="messages", reason="cannot be given together with content or name")
    for place, given in enumerate(data.messages):
        asking.check_length(request, f"messages[{place}].content", given.content)
    last = len(data.messages) - 1
    return tuple(
        NewMessage(
            message_id=mint(),
            role=given.role,
            content=given.content,
            name=given.name or "",
            asks=asked if place == last else None,
        )
        for place, given in enumerate(data.messages)
    )


router = Router(
    "/dialogues/{dialogue_id:str}/messages", route_handlers=[add, page, cancel, retry], tags=["messages"]
)
