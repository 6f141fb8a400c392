"""The tenant's unanswered questions: what waits, runs or failed, and queueing again what failed."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from litestar import Response, Router, get, post
from litestar.params import FromPath, QueryParameter
from msgspec import Meta, Struct

from bichat.api import reading
from bichat.api.call import Call
from bichat.api.changing import changed
from bichat.api.parameters import BIGGEST, Cursor, Limit, MinPosition
from bichat.api.schemas import Changed, Time
from bichat.commands.dialogue import RetryFailedReply
from bichat.errors import NotFound
from bichat.projections import cursor, unanswered

OPS = {"roles": ("ops",)}
NOWHERE = UUID(int=0)
"""A dialogue that never is: what is asked of it is answered from a receipt, or not found."""


class Place(Struct, frozen=True, array_like=True):
    """Where a page begins."""

    position: Annotated[int, Meta(ge=0, le=BIGGEST)]


class LastError(Struct, frozen=True, kw_only=True):
    """How the last attempt ended; `detail` as far as it cannot quote a person."""

    code: str
    detail: str | None


class Unanswered(Struct, frozen=True, kw_only=True):
    """A question without an answer; `tries` counts the attempts since it was asked or queued again.

    `worked_on` says whether a worker has it in hand now. With `parked_at` its dialogue waits for a fix
    since then, and the rest is how it stood before. What was asked for the quiet hours waits
    until `waits_until`, if they are not now.
    """

    message_id: UUID
    dialogue_id: UUID
    user_id: str
    state: unanswered.State
    asked_at: Time
    updated_at: Time
    attempts: int
    tries: int
    off_peak: bool
    waits_until: Time | None
    worked_on: bool
    parked_at: Time | None
    last_error: LastError | None


class Questions(Struct, frozen=True, kw_only=True):
    """A page of questions without an answer, longest asked first; `next` goes on after it."""

    data: list[Unanswered]
    next: str | None


@get("/", opt=OPS)
async def replies(
    request: Call,
    *,
    which: Annotated[unanswered.State | None, QueryParameter(name="state")] = None,
    after: Cursor = None,
    limit: Limit = 20,
    min_position: MinPosition = None,
) -> Questions:
    """The tenant's questions that wait, run or failed, longest asked first."""
    await reading.reached(request, "replies", min_position)
    tenant_id = request.user.tenant_id
    states = (which,) if which else unanswered.STATES
    place = cursor.read(after, Place).position if after else 0
    async with request.parts.reads.tenant(tenant_id) as connection:
        found = await unanswered.page(connection, tenant_id, states, after=place, limit=limit + 1)
    listed = found[:limit]
    following = cursor.write((listed[-1].position,)) if len(found) > limit else None
    opens = _opens(request)
    return Questions(data=[_shown(one, opens) for one in listed], next=following)


def _opens(request: Call) -> datetime | None:
    """When the quiet hours begin, unless these are."""
    now = datetime.now(UTC)
    opens = request.parts.config.bichat_off_peak.next_open(now)
    return opens if opens > now else None


def _shown(one: unanswered.Unanswered, opens: datetime | None) -> Unanswered:
    return Unanswered(
        message_id=one.message_id,
        dialogue_id=one.dialogue_id,
        user_id=one.user_id,
        state=one.state,
        asked_at=one.asked_at,
        updated_at=one.updated_at,
        attempts=one.attempts,
        tries=one.tries,
        off_peak=one.off_peak,
        waits_until=opens if one.off_peak and one.state == "waiting" else None,
        worked_on=one.holder is not None,
        parked_at=one.parked_at,
        last_error=LastError(code=one.code, detail=one.plain_detail) if one.code else None,
    )


@post("/{message_id:str}/retry", status_code=202, opt=OPS)
async def retry(request: Call, message_id: FromPath[UUID]) -> Response[Changed]:
    """Queues a failed question of anybody in the tenant again."""
    dialogue_id = await _dialogue(request, message_id)
    try:
        outcome = await request.execute(RetryFailedReply(dialogue_id=dialogue_id, message_id=message_id))
    except NotFound:
        raise NotFound(what="unanswered question") from None
    return changed(outcome)


async def _dialogue(call: Call, message_id: UUID) -> UUID:
    """Where a question of the tenant belongs; what was asked before this request is never missed."""
    found = await _find(call, message_id)
    if found is None:
        await call.parts.reads.caught_up("replies", await call.parts.reads.head())
        found = await _find(call, message_id)
    return found.dialogue_id if found else NOWHERE


async def _find(call: Call, message_id: UUID) -> unanswered.Found | None:
    tenant_id = call.user.tenant_id
    async with call.parts.reads.tenant(tenant_id) as connection:
        return await unanswered.find(connection, tenant_id, message_id)


router = Router("/ops/replies", route_handlers=[replies, retry], tags=["operations"])
