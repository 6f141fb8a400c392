"""The messages of a dialogue on the page: ask, read how one question stands, stop its reply, retry it."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Response, Router, get, post
from litestar.params import QueryParameter
from msgspec.structs import replace

from bichat.api import asking, reading
from bichat.api.call import mint
from bichat.api.page.answering import asked, changed
from bichat.api.page.dialogues import Id
from bichat.api.page.rendering import shown
from bichat.api.page.session import PATH
from bichat.api.page.thread import entries
from bichat.api.page.visit import Visit, id_of
from bichat.api.parameters import BIGGEST
from bichat.api.schemas import NewDialogue
from bichat.commands.dialogue import AddMessage, CancelReply, NewMessage, RetryReply
from bichat.errors import NotFound
from bichat.events.dialogue import Asked
from bichat.events.transcript import Dialogue
from bichat.projections import transcripts

Version = Annotated[int, QueryParameter(ge=0, le=BIGGEST)]


@post("/")
async def add(request: Visit, dialogue_id: Id) -> Response[Any]:
    """Asks one more question."""
    data = request.said(NewDialogue, message=request.fields.get("message", ""))
    asking.check_length(request, "message", data.message)
    question = NewMessage(message_id=mint(), role="user", content=data.message, asks=Asked())
    command = AddMessage(dialogue_id=id_of(dialogue_id), messages=(question,))
    return await asked(request, await request.execute(command, data))


@get("/{message_id:str}")
async def show(request: Visit, dialogue_id: Id, message_id: Id, version: Version = 0) -> Response[str]:
    """One question and what came of it, as a piece of the page; at `version` or newer."""
    wanted, of = id_of(dialogue_id), id_of(message_id, "question")
    found = await reading.dialogue(request, wanted, version)
    entry = next((entry for entry in entries(found) if entry.id == str(of)), None)
    if entry is None or entry.said is None:
        found = await _around(request, found, message_id)
        entry = next(entry for entry in entries(found) if entry.id == str(of))
    return await shown(request, "turn.html", dialogue=found, entry=entry)


@post("/{message_id:str}/cancel")
async def cancel(request: Visit, dialogue_id: Id, message_id: Id) -> Response[Any]:
    """Ends the reply to this question, if it still waits or runs."""
    command = CancelReply(dialogue_id=id_of(dialogue_id), message_id=id_of(message_id, "question"))
    return await changed(request, await request.execute(command), _at(dialogue_id, message_id))


@post("/{message_id:str}/retry")
async def retry(request: Visit, dialogue_id: Id, message_id: Id) -> Response[Any]:
    """Asks again for a reply that failed or was cancelled."""
    command = RetryReply(dialogue_id=id_of(dialogue_id), message_id=id_of(message_id, "question"))
    return await changed(request, await request.execute(command), _at(dialogue_id, message_id))


def _at(dialogue_id: str, message_id: str) -> str:
    return f"{PATH}/{id_of(dialogue_id)}#turn-{id_of(message_id)}"


async def _around(request: Visit, newest: Dialogue, message_id: str) -> Dialogue:
    """An older question with the messages after it, and its answer wherever that stands."""
    who = request.user
    whose = (who.tenant_id, newest.id, who.id)
    async with request.parts.reads.tenant(who.tenant_id) as connection:
        reply = await transcripts.reply(connection, *whose, id_of(message_id))
        if reply is None:
            raise NotFound(what="question")
        found = await transcripts.messages(connection, *whose, after_seq=reply.turn.seq - 1)
    if found is None:
        raise NotFound(what="dialogue")
    # A retry may have been asked for much later, with a page of other messages between.
    late = {m.id: m for m in newest.messages if m.reply_to == reply.turn.message_id}
    late |= {m.id: m for m in (reply.answer,) if m}
    held = {m.id for m in found.messages}
    return replace(found, messages=(*found.messages, *(m for m in late.values() if m.id not in held)))


router = Router("/{dialogue_id:str}/messages", route_handlers=[add, show, cancel, retry])
