"""The read model `replies` as ops see it: what waits, runs or failed, who works on it, and what is parked."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, get_args
from uuid import UUID

from msgspec import Struct
from psycopg import AsyncConnection, Connection
from psycopg.rows import args_row, class_row, tuple_row

from bichat.errors.model import (
    ContextTooLong,
    ModelSilent,
    QuestionErased,
    QuestionParked,
    WorkerLost,
    WorkerStopped,
)
from bichat.projections.replies import MODEL
from bichat.projections.sql import blocks

State = Literal["waiting", "running", "failed"]
STATES: tuple[State, ...] = get_args(State)
"""What there is to do something about; what its person cancelled is not."""


_OURS = frozenset(
    kind.code
    for kind in (ContextTooLong, ModelSilent, WorkerLost, WorkerStopped, QuestionErased, QuestionParked)
)
"""Codes of failures that are told in our words."""


class Unanswered(Struct, frozen=True, kw_only=True):
    """A question without an answer."""

    message_id: UUID
    dialogue_id: UUID
    tenant_id: UUID
    user_id: str
    position: int
    """Of the question in the log: the order of these lists."""
    state: State
    asked_at: datetime
    updated_at: datetime
    attempts: int
    tries: int
    """Attempts since it was asked or queued again."""
    off_peak: bool
    """Asked for the quiet hours."""
    code: str | None
    """Of the last failure, as is `detail`."""
    detail: str | None

    @property
    def plain_detail(self) -> str | None:
        """The detail as far as it is ours: a model's server may quote what it was sent."""
        if self.code in _OURS:
            return self.detail
        status = re.search(r"\bHTTP \d{3}\b", self.detail or "")
        return status[0] if status else None

    holder: str | None
    """The worker whose lease on it is good."""
    parked_at: datetime | None
    """Since when its dialogue's events wait; the rest of this row is then no news."""


class Found(NamedTuple):
    """Where a question belongs."""

    dialogue_id: UUID
    tenant_id: UUID


async def page(
    connection: AsyncConnection[Any], tenant_id: UUID, states: Collection[State], *, after: int, limit: int
) -> list[Unanswered]:
    """A tenant's questions that come after a position in the log, longest asked first."""
    async with connection.cursor(row_factory=class_row(Unanswered)) as found:
        await found.execute(_sql("page"), _wanted(tenant_id, states, after, limit))
        return await found.fetchall()


def everywhere(
    connection: Connection[Any], tenant_id: UUID | None, states: Collection[State], limit: int
) -> list[Unanswered]:
    """The questions of one tenant or all of them, longest asked first, for the installation's operator."""
    with connection.cursor(row_factory=class_row(Unanswered)) as found:
        return found.execute(_sql("page"), _wanted(tenant_id, states, 0, limit)).fetchall()


async def find(connection: AsyncConnection[Any], tenant_id: UUID, message_id: UUID) -> Found | None:
    """Where a tenant's question belongs, if it is not answered yet."""
    async with connection.cursor(row_factory=args_row(Found)) as found:
        await found.execute(_sql("find"), {"message_id": message_id, "tenant_id": tenant_id})
        return await found.fetchone()


def find_anywhere(connection: Connection[Any], message_id: UUID) -> Found | None:
    """The same across tenants."""
    with connection.cursor(row_factory=args_row(Found)) as found:
        return found.execute(_sql("find"), {"message_id": message_id, "tenant_id": None}).fetchone()


async def parked(connection: AsyncConnection[Any], after: UUID, limit: int) -> list[UUID]:
    """Dialogues whose events wait before the queue, in order of their ids, from the one after `after` on."""
    values = {"shape": MODEL.shape, "after": after, "limit": limit}
    async with connection.cursor(row_factory=tuple_row) as found:
        await found.execute(_sql("parked"), values)
        return [dialogue_id async for (dialogue_id,) in found]


async def worked_on(connection: AsyncConnection[Any], ids: Sequence[UUID]) -> set[UUID]:
    """Those questions on which a worker has a good lease."""
    async with connection.cursor(row_factory=tuple_row) as found:
        await found.execute(_sql("worked_on"), (list(ids),))
        return {message_id async for (message_id,) in found}


async def later(
    connection: AsyncConnection[Any], tenant_id: UUID, user_id: str, dialogues: Sequence[UUID]
) -> list[tuple[UUID, UUID]]:
    """The user's questions in these dialogues that wait for the quiet hours, each after its dialogue."""
    values = {"tenant_id": tenant_id, "user_id": user_id, "dialogues": list(dialogues)}
    async with connection.cursor(row_factory=tuple_row) as found:
        await found.execute(_sql("later"), values)
        return await found.fetchall()


def _wanted(tenant_id: UUID | None, states: Collection[State], after: int, limit: int) -> dict[str, Any]:
    return {
        "tenant_id": tenant_id, "states": list(states), "after": after, "limit": limit, "shape": MODEL.shape,
    }  # fmt: skip


def _sql(block: str) -> bytes:
    return blocks("unanswered")[block].replace("_vN", f"_v{MODEL.shape}").encode()
