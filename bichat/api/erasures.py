"""Forgetting a person, and the tenant's register of those who were."""

from __future__ import annotations

import asyncio
from typing import Annotated, Literal
from uuid import UUID

from anyio import CancelScope
from litestar import Response, Router, get, post
from litestar.params import JSONBody
from msgspec import Meta, Struct

from bichat.api.call import Call
from bichat.api.ops import OPS
from bichat.api.parameters import Cursor, Limit
from bichat.api.schemas import LINE, Time
from bichat.events.envelope import Actor
from bichat.events.keys import register
from bichat.forgetting.erasing import Forgetting, Forgotten
from bichat.projections import cursor

UserId = Annotated[str, Meta(min_length=1, max_length=128, pattern=LINE)]


class Place(Struct, frozen=True, array_like=True):
    """Where a page begins."""

    erasure_id: UUID


class Forget(Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """Who is to be forgotten: the `sub` of their tokens."""

    user_id: UserId


class Erasure(Struct, frozen=True, kw_only=True):
    """A person who is forgotten, or being so.

    `dialogues` were told to drop their text and `keys` destroyed. `unreadable` dialogues could not be
    told: what is sealed in them is gone with the keys all the same. `done`: everywhere, and if not,
    `behind` names the read models that have still to follow, which they do by themselves.
    """

    erasure_id: UUID
    user_id: str
    dialogues: int
    keys: int
    unreadable: list[UUID]
    position: int
    done: bool
    behind: list[str]


class Asker(Struct, frozen=True):
    """Who asked for it: a user, or the system by name."""

    kind: Literal["user", "worker", "system"]
    id: str


class Entry(Struct, frozen=True, kw_only=True):
    """An erasure in the register; without `done_at` it is under way.

    With it, keys and words in Redis are gone and the log says so; read models follow by themselves, and who
    asked was told which of them were `behind`.
    """

    erasure_id: UUID
    user_id: str
    asked_by: Asker
    asked_at: Time
    done_at: Time | None
    dialogues: int
    keys: int
    unreadable: list[UUID]


class Erasures(Struct, frozen=True, kw_only=True):
    """A page of the register, newest first; `next` goes on after it."""

    data: list[Entry]
    next: str | None


@post("/", status_code=200, opt=OPS)
async def forget(request: Call, data: JSONBody[Forget]) -> Response[Erasure]:
    """Forgets a person for good: their key is destroyed, their text goes everywhere, the log stays whole."""
    who, parts = request.user, request.parts
    once, if_match = request.once(data), request.if_match()
    with CancelScope(shield=True):  # a client that goes away stops nothing
        told = await Forgetting(parts.executor, parts.deltas).forget(
            who.tenant_id, data.user_id, Actor("user", who.id), once=once, if_match=if_match
        )
    behind = await parts.reads.lagging(told.position)
    return Response(
        _erasure(told, behind), headers={"Idempotent-Replayed": "true"} if told.replayed else None
    )


@get("/", opt=OPS)
async def erasures(request: Call, *, after: Cursor = None, limit: Limit = 20) -> Erasures:
    """The tenant's register of erasures, newest first."""
    place = cursor.read(after, Place).erasure_id if after else None
    keys = request.parts.executor.ledger.keys
    found = await asyncio.to_thread(register.of_tenant, keys, request.user.tenant_id, limit + 1, place)
    listed = found[:limit]
    following = cursor.write((listed[-1].erasure_id,)) if len(found) > limit else None
    return Erasures(data=[_entry(one) for one in listed], next=following)


def _erasure(told: Forgotten, behind: list[str]) -> Erasure:
    one = told.erasure
    return Erasure(
        erasure_id=one.erasure_id,
        user_id=one.user_id,
        dialogues=one.dialogues,
        keys=one.keys,
        unreadable=one.unreadable,
        position=told.position,
        done=one.done_at is not None and not behind,
        behind=behind,
    )


def _entry(one: register.Erasure) -> Entry:
    return Entry(
        erasure_id=one.erasure_id,
        user_id=one.user_id,
        asked_by=Asker(one.actor.kind, one.actor.id),
        asked_at=one.asked_at,
        done_at=one.done_at,
        dialogues=one.dialogues,
        keys=one.keys,
        unreadable=one.unreadable,
    )


router = Router("/ops/erasures", route_handlers=[forget, erasures], tags=["operations"])
