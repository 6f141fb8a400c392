"""A person's dialogues on the page: open one, read it, rename, archive, delete, and take that back."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, Router, delete, get, post
from litestar.params import FromPath, QueryParameter
from msgspec import Struct

from bichat.api import asking, reading
from bichat.api.call import mint
from bichat.api.page import quiet
from bichat.api.page.answering import asked, changed
from bichat.api.page.listing import After, Query, Shelf, listing
from bichat.api.page.rendering import moved, shown
from bichat.api.page.session import PATH
from bichat.api.page.thread import entries, name
from bichat.api.page.visit import Visit, id_of
from bichat.api.parameters import BIGGEST
from bichat.api.schemas import NewDialogue, NewLabel
from bichat.commands.command import DialogueCommand
from bichat.commands.dialogue import (
    ArchiveDialogue,
    DeleteDialogue,
    NewMessage,
    RenameDialogue,
    RestoreDialogue,
    StartDialogue,
    UnarchiveDialogue,
)
from bichat.errors import NotFound
from bichat.events.dialogue import Asked
from bichat.events.transcript import Dialogue
from bichat.projections import transcripts

LENGTH = 50
"""Messages on a page."""
Id = FromPath[str]
"""Read by `id_of`: an address with no id in it is a page that is not there, as any other."""
Undo = Annotated[str, QueryParameter(max_length=40)]
Before = Annotated[int | None, QueryParameter(ge=2, le=BIGGEST)]


class Undone(Struct, frozen=True):
    """What was just put away, and can be brought back."""

    dialogue: Dialogue
    name: str


@get("/")
async def home(
    request: Visit, *, shelf: Shelf = "active", q: Query = "", after: After = None, undo: Undo = ""
) -> Response[str]:
    """The list, and a new question."""
    listed = await listing(request, shelf, q, after)
    return await shown(
        request,
        "home.html",
        list=listed,
        user=request.user,
        current=None,
        undone=await _undone(request, undo),
    )


@post("/new")
async def start(request: Visit) -> Response[Any]:
    """Opens a dialogue with a question, and goes there."""
    data = request.said(NewDialogue, message=request.fields.get("message", ""))
    asking.check_length(request, "message", data.message)
    question = NewMessage(message_id=mint(), role="user", content=data.message, asks=Asked())
    command = StartDialogue(dialogue_id=mint(), user_id=request.user.id, messages=(question,))
    return await asked(request, await request.execute(command, data))


@get("/new")
async def nothing_new(request: Visit) -> Response[Any]:
    """Where a form was sent that was refused; who comes back to its address wants to ask."""
    return moved(PATH)


@get("/{dialogue_id:str}")
async def show(
    request: Visit,
    dialogue_id: Id,
    *,
    shelf: Shelf = "active",
    q: Query = "",
    after: After = None,
    before: Before = None,
) -> Response[str]:
    """A dialogue with its newest messages, or those before one of them."""
    found = await reading.dialogue(request, id_of(dialogue_id))
    if before:
        found = await _earlier(request, found, before)
    asleep = await quiet.asleep(request, found.id, list(found.turns.values()))
    first = found.messages[0] if found.messages else None
    return await shown(
        request,
        "dialogue.html",
        list=await listing(request, shelf, q, after),
        user=request.user,
        current=found.id,
        dialogue=found,
        name=_name(found),
        entries=entries(found, asleep),
        quiet_hours=quiet.hours(request),
        earlier=first.seq if first and first.seq > 1 else None,
        newest=before is None,
    )


@post("/{dialogue_id:str}/rename")
async def rename(request: Visit, dialogue_id: Id) -> Response[Any]:
    """Gives the dialogue another label."""
    data = request.said(NewLabel, label=request.fields.get("label", "").strip())
    return await _change(request, RenameDialogue(dialogue_id=id_of(dialogue_id), label=data.label), data)


@post("/{dialogue_id:str}/archive")
async def archive(request: Visit, dialogue_id: Id) -> Response[Any]:
    """Puts the dialogue away; the next page offers to take that back."""
    return await _change(request, ArchiveDialogue(dialogue_id=id_of(dialogue_id)), to=_undoing(dialogue_id))


@post("/{dialogue_id:str}/restore")
async def restore(request: Visit, dialogue_id: Id) -> Response[Any]:
    """Brings back a dialogue that was archived or deleted."""
    found = await reading.dialogue(request, id_of(dialogue_id))
    back = RestoreDialogue if found.state == "deleted" else UnarchiveDialogue
    return await _change(request, back(dialogue_id=found.id))


@post("/{dialogue_id:str}/delete")
async def delete_by_form(request: Visit, dialogue_id: Id) -> Response[Any]:
    """Deletes the dialogue, for browsers without scripts: forms know no DELETE."""
    return await _change(request, DeleteDialogue(dialogue_id=id_of(dialogue_id)), to=_undoing(dialogue_id))


@delete("/{dialogue_id:str}", status_code=200)
async def remove(request: Visit, dialogue_id: Id) -> Response[Any]:
    """Deletes the dialogue."""
    command = DeleteDialogue(dialogue_id=id_of(dialogue_id))
    return await changed(request, await request.execute(command))


async def _change(
    request: Visit, command: DialogueCommand, body: Struct | None = None, to: str = ""
) -> Response[Any]:
    return await changed(request, await request.execute(command, body), to)


def _undoing(dialogue_id: str) -> str:
    return f"{PATH}?undo={id_of(dialogue_id)}"


def _name(found: Dialogue) -> str:
    return name(found.label, (message.content for message in found.messages[:1]))


async def _undone(request: Visit, dialogue_id: str) -> Undone | None:
    try:
        found = await reading.dialogue(request, id_of(dialogue_id))
    except NotFound:
        return None
    return Undone(found, _name(found)) if found.state != "active" else None


async def _earlier(request: Visit, found: Dialogue, before: int) -> Dialogue:
    who = request.user

    async def fetch() -> Dialogue | None:
        async with request.parts.reads.tenant(who.tenant_id) as connection:
            return await transcripts.messages(
                connection, who.tenant_id, found.id, who.id, after_seq=max(before - 1 - LENGTH, 0),
                limit=min(LENGTH, before - 1),
            )  # fmt: skip

    return await reading.waited(request, fetch, found.id)


router = Router(
    "/", route_handlers=[home, start, nothing_new, show, rename, archive, restore, delete_by_form, remove]
)
