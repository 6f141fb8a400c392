"""A person's dialogues: open, list, read, rename, delete, restore, archive, unarchive."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from litestar import MediaType, Response, Router, delete, get, patch, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter
from msgspec.structs import replace

from bichat.api import answers, asking, reading
from bichat.api.call import Call, mint
from bichat.api.changing import changed
from bichat.api.parameters import Cursor, Limit, MinPosition, MinVersion
from bichat.api.schemas import LINE, Accepted, Changed, Dialogue, Dialogues, NewDialogue, NewLabel
from bichat.commands.dialogue import (
    ArchiveDialogue,
    DeleteDialogue,
    NewMessage,
    RenameDialogue,
    RestoreDialogue,
    StartDialogue,
    UnarchiveDialogue,
)
from bichat.errors import Invalid
from bichat.hot import BEHIND, Hot
from bichat.projections import dialogues

UNCHANGED = {304: ResponseSpec(data_container=None, description="Still at the version in If-None-Match.")}


@post("/", status_code=202, responses=asking.STREAMED)
async def start(request: Call, data: JSONBody[NewDialogue]) -> Response[Accepted]:
    """Opens a dialogue with a question that will be answered."""
    asking.check_length(request, "message", data.message)
    asked = replace(asking.asked(data), schedule=data.schedule)
    question = NewMessage(message_id=mint(), role="user", content=data.message, asks=asked)
    command = StartDialogue(
        dialogue_id=mint(), user_id=request.user.id, messages=(question,), label=data.label or ""
    )
    return await asking.answer(request, await request.execute(command, data))


@get("/")
async def page(
    request: Call,
    *,
    limit: Limit = 20,
    after: Cursor = None,
    offset: Annotated[int, QueryParameter(ge=0, le=10_000, schema_extra={"minimum": 0})] = 0,
    lifecycle: Annotated[Literal["active", "archived", "deleted"], QueryParameter(name="state")] = "active",
    q: Annotated[
        str, QueryParameter(max_length=200, pattern=LINE, description="In label or last message.")
    ] = "",
    min_position: MinPosition = None,
) -> Dialogues:
    """The caller's dialogues, last updated first."""
    if after and offset:
        raise Invalid(field="offset", reason="cannot be given together with after")
    await reading.reached(request, "dialogues", min_position)
    who = request.user
    async with request.parts.reads.tenant(who.tenant_id) as connection:
        found = await dialogues.page(
            connection, who.tenant_id, who.id, state=lifecycle, limit=limit, after=after, offset=offset, q=q
        )
    return answers.listed(found)


@get("/{dialogue_id:str}", responses=UNCHANGED)
async def show(
    request: Call,
    dialogue_id: FromPath[UUID],
    min_version: MinVersion = None,
    none_match: Annotated[str, HeaderParameter(name="If-None-Match")] = "",
) -> Response[Dialogue]:
    """A dialogue in whatever state, with its newest 50 messages."""
    hot: Hot | None = request.app.state["hot"]
    whose = (request.user.tenant_id, request.user.id, dialogue_id)
    if hot and (kept := await hot.find(*whose, min_version or 0)):
        return _told(*kept, none_match)
    found = await reading.dialogue(request, dialogue_id, min_version or 0)
    body = msgspec.json.encode(answers.whole(found))
    if found.erased > found.version:  # it is parked: text is gone without a new version
        return _told(found.version, body, none_match="")
    if hot and request.parts.reads.replica_lag < BEHIND:
        hot.keep(*whose, found.version, body)
    return _told(found.version, body, none_match)


def _told(version: int, body: bytes, none_match: str) -> Response[Any]:
    tag = f'"{version}"'
    if tag in re.findall(r'"[^"]*"', none_match) or none_match.strip() == "*":
        return Response(None, status_code=304, headers={"ETag": tag})
    return Response(body, media_type=MediaType.JSON, headers={"ETag": tag})


@patch("/{dialogue_id:str}")
async def rename(request: Call, dialogue_id: FromPath[UUID], data: JSONBody[NewLabel]) -> Response[Changed]:
    """Gives the dialogue another label."""
    return changed(await request.execute(RenameDialogue(dialogue_id=dialogue_id, label=data.label), data))


@delete("/{dialogue_id:str}", status_code=200)
async def remove(request: Call, dialogue_id: FromPath[UUID]) -> Response[Changed]:
    """Deletes the dialogue and ends its replies; `restore` brings it back."""
    return changed(await request.execute(DeleteDialogue(dialogue_id=dialogue_id)))


@post("/{dialogue_id:str}/restore", status_code=200)
async def restore(request: Call, dialogue_id: FromPath[UUID]) -> Response[Changed]:
    """Brings a deleted dialogue back."""
    return changed(await request.execute(RestoreDialogue(dialogue_id=dialogue_id)))


@post("/{dialogue_id:str}/archive", status_code=200)
async def archive(request: Call, dialogue_id: FromPath[UUID]) -> Response[Changed]:
    """Puts the dialogue away: it takes no commands but to be unarchived."""
    return changed(await request.execute(ArchiveDialogue(dialogue_id=dialogue_id)))


@post("/{dialogue_id:str}/unarchive", status_code=200)
async def unarchive(request: Call, dialogue_id: FromPath[UUID]) -> Response[Changed]:
    """Brings an archived dialogue back into use."""
    return changed(await request.execute(UnarchiveDialogue(dialogue_id=dialogue_id)))


router = Router(
    "/dialogues",
    route_handlers=[start, page, show, rename, remove, restore, archive, unarchive],
    tags=["dialogues"],
)
