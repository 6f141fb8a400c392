"""The messages of a dialogue on the page: ask, read how one question stands, stop its reply, retry it."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple
from uuid import UUID

from litestar import Response, Router, get, post
from litestar.params import QueryParameter
from msgspec.structs import replace

from bichat.api import asking, reading
from bichat.api.call import mint
from bichat.api.page import quiet
from bichat.api.page.answering import asked, changed
from bichat.api.page.dialogues import Id
from bichat.api.page.rendering import moved, shown
from bichat.api.page.session import PATH
from bichat.api.page.thread import Entry
from bichat.api.page.visit import Visit, id_of
from bichat.api.parameters import BIGGEST
from bichat.api.schemas import NewDialogue
from bichat.commands.dialogue import AddMessage, CancelReply, NewMessage, RetryReply
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


@get("/")
async def nothing(request: Visit, dialogue_id: Id) -> Response[Any]:
    """Where a form was sent that was refused; who comes back to its address wants the dialogue."""
    return moved(f"{PATH}/{id_of(dialogue_id)}")


@get("/{message_id:str}")
async def show(request: Visit, dialogue_id: Id, message_id: Id, version: Version = 0) -> Response[str]:
    """One question and what came of it, as a piece of the page; at `version` or newer."""
    wanted, of = id_of(dialogue_id), id_of(message_id, "question")

    async def fetch() -> _Found | None:
        return await _find(request, wanted, of)

    found = await reading.waited(request, fetch, wanted, what="question", version=version)
    turns = [found.entry.turn] if found.entry.turn else []
    entry = replace(found.entry, asleep=of in await quiet.asleep(request, wanted, turns))
    return await shown(
        request, "turn.html", dialogue=found.dialogue, entry=entry, quiet_hours=quiet.hours(request)
    )


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


class _Found(NamedTuple):
    dialogue: Dialogue
    entry: Entry

    @property
    def version(self) -> int:
        return self.dialogue.version


async def _find(request: Visit, dialogue_id: UUID, message_id: UUID) -> _Found | None:
    """A question at any distance, with its answer and calls at any distance from it."""
    who = request.user
    whose = (who.tenant_id, dialogue_id, who.id)
    async with request.parts.reads.tenant(who.tenant_id) as connection:
        turn = await transcripts.turn(connection, *whose, message_id)
        if turn is None:
            return None
        found = await transcripts.messages(connection, *whose, after_seq=turn.seq - 1, limit=1)
        # Last, so that it is no older than the version that goes with it.
        reply = await transcripts.reply(connection, *whose, message_id, since_version=0)
    if found is None or reply is None:
        return None
    said = found.messages[0] if found.messages else None
    return _Found(found, Entry(said=said, turn=reply.turn, calls=reply.calls, answer=reply.answer))


router = Router("/{dialogue_id:str}/messages", route_handlers=[add, nothing, show, cancel, retry])
