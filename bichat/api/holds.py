"""Legal holds: as long as there is one, its person cannot be forgotten."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID

from litestar import Response, Router, delete, get, post
from litestar.params import FromPath, JSONBody, QueryParameter
from msgspec import Meta, Struct

from bichat.api.call import Call, mint
from bichat.api.erasures import Asker, UserId
from bichat.api.ops import OPS
from bichat.api.parameters import Cursor, Limit
from bichat.api.schemas import TEXT, Time
from bichat.commands.person import PlaceHold, ReleaseHold
from bichat.errors import Invalid
from bichat.forgetting import finding, holding
from bichat.projections import cursor

Reason = Annotated[str, Meta(min_length=1, max_length=1000, pattern=TEXT)]


class Place(Struct, frozen=True, array_like=True):
    """Where a page begins."""

    hold_id: UUID


class NewHold(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """A hold on a person, or on one dialogue, which holds its person: one of the two."""

    user_id: UserId | None = None
    dialogue_id: UUID | None = None
    reason: Reason


class Hold(Struct, frozen=True, kw_only=True):
    """A hold in force; `dialogue_id` is null when it is on everything of the person."""

    hold_id: UUID
    user_id: str
    dialogue_id: UUID | None
    reason: str | None
    placed_at: Time
    placed_by: Asker


class Holds(Struct, frozen=True, kw_only=True):
    """A page of holds in force, first placed first; `next` goes on after it."""

    data: list[Hold]
    next: str | None


class HoldReleased(Struct, frozen=True, kw_only=True):
    """A hold is over."""

    hold_id: UUID
    position: int


@post("/", status_code=201, opt=OPS)
async def place(request: Call, data: JSONBody[NewHold]) -> Response[Hold]:
    """Forbids to forget a person, all of it or for the sake of one dialogue."""
    ledger, tenant_id = request.parts.executor.ledger, request.user.tenant_id
    if (data.user_id is None) == (data.dialogue_id is None):
        raise Invalid(field="user_id", reason="is required, or dialogue_id, not both")
    user_id = await asyncio.to_thread(holding.whose, ledger, tenant_id, data.user_id, data.dialogue_id)
    command = PlaceHold(
        tenant_id=tenant_id, user_id=user_id, hold_id=mint(), dialogue_id=data.dialogue_id, reason=data.reason
    )
    outcome = await request.execute(command, data)
    placed = await asyncio.to_thread(holding.placed, ledger, outcome)
    return Response(_hold(placed), headers={"Idempotent-Replayed": "true"} if outcome.replayed else None)


@get("/", opt=OPS)
async def holds(
    request: Call,
    *,
    user_id: Annotated[str | None, QueryParameter(max_length=128, description="Only this person's.")] = None,
    after: Cursor = None,
    limit: Limit = 20,
) -> Holds:
    """The tenant's holds in force, first placed first."""
    ledger, tenant_id = request.parts.executor.ledger, request.user.tenant_id
    place = cursor.read(after, Place).hold_id if after else None
    found = await asyncio.to_thread(finding.holds, ledger, tenant_id, user_id=user_id)
    found = [one for one in sorted(found, key=lambda one: one.hold_id) if not place or one.hold_id > place]
    listed = found[:limit]
    following = cursor.write((listed[-1].hold_id,)) if len(found) > limit else None
    return Holds(data=[_hold(one) for one in listed], next=following)


@delete("/{hold_id:str}", status_code=200, opt=OPS)
async def release(request: Call, hold_id: FromPath[UUID]) -> Response[HoldReleased]:
    """Ends a hold."""
    ledger, tenant_id = request.parts.executor.ledger, request.user.tenant_id
    found = await asyncio.to_thread(finding.holds, ledger, tenant_id, hold_id=hold_id)
    # One that is over, or never was, is answered from a receipt or not found.
    user_id = found[0].user_id if found else ""
    outcome = await request.execute(ReleaseHold(tenant_id=tenant_id, user_id=user_id, hold_id=hold_id))
    return Response(
        HoldReleased(hold_id=hold_id, position=outcome.position),
        headers={"Idempotent-Replayed": "true"} if outcome.replayed else None,
    )


def _hold(one: finding.Hold) -> Hold:
    return Hold(
        hold_id=one.hold_id,
        user_id=one.user_id,
        dialogue_id=one.dialogue_id,
        reason=one.reason,
        placed_at=one.placed_at,
        placed_by=Asker(one.placed_by.kind, one.placed_by.id),
    )


router = Router("/ops/holds", route_handlers=[place, holds, release], tags=["operations"])
