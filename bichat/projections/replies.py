"""The read model `replies`: the questions without an answer, which are the workers' queue."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace
from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row, tuple_row
from uuid_utils.compat import uuid7

from bichat.events.dialogue import MessageAdded, ReplyFailed, TextErased
from bichat.events.dialogue_state import DialogueState, Question, QuestionStatus, evolve
from bichat.events.envelope import Event
from bichat.events.transcript import blank
from bichat.projections import erasures, sql
from bichat.projections.read_model import (
    Build,
    Piece,
    ReadModel,
    Row,
    Table,
    asked_before,
    known_before,
    question_of,
)

States = dict[UUID, DialogueState]


# --- from the log into the tables ------------------------------------------------------------------


class Change(NamedTuple):
    """What events did to one question: how it stands (None: answered) and what to write beside that."""

    dialogue_id: UUID
    question: Question | None
    asked: Event | None
    failed: ReplyFailed | None
    last: Event


def apply(build: Build, connection: Connection[Any], events: Sequence[Event]) -> None:
    """Folds events into the queue; leases are not its business."""
    held = _held(build, connection, events)
    now = fold(held, events)
    changes = touched(now, events)
    started = (_owner(i, s) for i, s in now.items() if i not in held)
    sql.write(connection, build.sql("write_owners"), started)
    erasures.blank(connection, build, erasures.told(events))
    sql.write(connection, build.sql("write"), _rows(now, changes))
    answered = [message_id for message_id, change in changes.items() if change.question is None]
    if answered:
        connection.execute(build.sql("answered"), (answered,))
    if changes:
        dialogues = list({change.dialogue_id for change in changes.values()})
        connection.execute(build.sql("arrange"), {"dialogues": dialogues})


def fold(held: States, events: Iterable[Event]) -> States:
    """The deciding state of each dialogue touched, after `events`, as far as these questions go."""
    now: States = {}
    for event in events:
        before = now.get(event.stream_id) or held.get(event.stream_id, DialogueState())
        now[event.stream_id] = evolve(before, event)
    return now


def touched(
    now: States, events: Iterable[Event], before: Mapping[UUID, Change] = MappingProxyType({})
) -> dict[UUID, Change]:
    """The questions that `events` are about, after what `before` says of them."""
    changes = dict(before)
    for event in events:
        fact = event.fact
        if isinstance(fact, TextErased):
            changes = blanked(changes, event.stream_id)
        asks = isinstance(fact, MessageAdded) and fact.asks is not None
        message_id = fact.message_id if isinstance(fact, MessageAdded) and asks else question_of(fact)
        if message_id is None:
            continue
        old = changes.get(message_id)
        changes[message_id] = Change(
            dialogue_id=event.stream_id,
            question=now[event.stream_id].unanswered.get(message_id),
            asked=event if asks else old and old.asked,
            failed=fact if isinstance(fact, ReplyFailed) else old and old.failed,
            last=event,
        )
    return changes


def blanked(changes: Mapping[UUID, Change], dialogue_id: UUID) -> dict[UUID, Change]:
    """The changes, those of one dialogue without a word."""
    return {
        message_id: change._replace(failed=replace(change.failed, detail=blank(change.failed.detail)))
        if change.failed and change.dialogue_id == dialogue_id
        else change
        for message_id, change in changes.items()
    }


def _held(build: Build, connection: Connection[Any], events: Sequence[Event]) -> States:
    held = {
        dialogue_id: DialogueState(lifecycle="active", tenant_id=tenant_id, user_id=user_id)
        for dialogue_id, tenant_id, user_id in sql.find(
            connection, build.sql("held_owners"), known_before(events)
        )
    }
    _, asked = sql.pairs(asked_before(events))
    for dialogue_id, message_id, *how in sql.find(connection, build.sql("held"), asked):
        unanswered = held[dialogue_id].unanswered.set(message_id, Question(*how))
        held[dialogue_id] = replace(held[dialogue_id], unanswered=unanswered)
    return held


def _owner(dialogue_id: UUID, state: DialogueState) -> dict[str, Any]:
    return {"dialogue_id": dialogue_id, "tenant_id": state.tenant_id, "user_id": state.user_id}


def _rows(now: States, changes: dict[UUID, Change]) -> Iterator[dict[str, Any]]:
    # Of a question already there, position and asked_at are not written.
    for message_id, (dialogue_id, question, asked, failed, last) in changes.items():
        if question is None:
            continue
        yield _owner(dialogue_id, now[dialogue_id]) | {
            "message_id": message_id, "version": question.version, "position": (asked or last).position,
            "asked_at": (asked or last).at, "updated_at": last.at, "status": question.status,
            "due": question.status in ("waiting", "running"), "first": False, "attempt": question.attempt,
            "tries": question.tries, "cancel_requested": question.cancel_requested,
            "off_peak": question.off_peak, "later": question.off_peak and question.status == "waiting",
            "code": failed and failed.code, "detail": failed and failed.detail,
        }  # fmt: skip


def rows(piece: Piece) -> Iterator[Row]:
    """At the end, whose the dialogue is and its questions without an answer."""
    now = {piece.dialogue_id: piece.state}
    changes: dict[UUID, Change] = {}
    if piece.state.unanswered:  # in most dialogues there are none, and nothing is looked for
        before = piece.carried.get("replies", {})
        changes = {
            message_id: change._replace(question=question)
            for message_id, change in touched(now, piece.events, before).items()
            if (question := piece.state.unanswered.get(message_id))
        }
    if piece.ahead:
        changes = blanked(changes, piece.dialogue_id)
    piece.carried["replies"] = changes
    if piece.last:
        yield Row(1, _owner(piece.dialogue_id, piece.state))
        open_ = list(_rows(now, changes))
        firsts = _firsts(open_)
        for row in open_:
            yield Row(0, row | {"first": row["version"] in firsts})


def _firsts(rows: Iterable[Mapping[str, Any]]) -> set[int]:
    """As `arrange`: the versions of the questions of a dialogue that can be claimed."""
    due = [row for row in rows if row["due"]]
    running = {row["version"] for row in due if row["status"] == "running"}
    lanes = ([row["version"] for row in due if row["off_peak"] == lane] for lane in (False, True))
    return running or {min(waiting) for waiting in lanes if waiting}


MODEL = ReadModel(
    name="replies",
    shape=2,
    tables=(
        Table("replies", ("message_id",), "dialogue_id"),
        Table("replies_owners", ("dialogue_id",), "dialogue_id"),
    ),
    apply=apply,
    rows=rows,
)


# --- the workers' side, on a connection of the owner in autocommit mode -----------------------------


class Claim(Struct, frozen=True, kw_only=True):
    """A question leased to a worker. One that runs has lost its worker; the next attempt is one more."""

    message_id: UUID
    dialogue_id: UUID
    tenant_id: UUID
    user_id: str
    version: int
    """Of the question's event in its dialogue."""
    status: QuestionStatus
    attempt: int
    tries: int
    """Attempts since it was asked or requeued."""
    cancel_requested: bool
    off_peak: bool


async def claim(
    connection: AsyncConnection[Any], holder: str, limit: int, lease_seconds: float = 15.0,
    *, later: bool = False, most: int | None = None,
) -> list[Claim]:  # fmt: skip
    """Leases up to `limit` due questions to `holder`: of each dialogue the first, tenants in turns.

    `later`: those that wait for the quiet hours, else those that do not; a question for the quiet hours
    that runs, and has lost its worker, waits for nothing. `most`: so many leases there may be of all workers.
    """
    values = {"holder": holder, "limit": limit, "seconds": lease_seconds, "later": later, "most": most}
    async with _counting(connection, most), connection.cursor(row_factory=class_row(Claim)) as found:
        await found.execute(MODEL.sql("claim"), values)
        return await found.fetchall()


async def take_place(
    connection: AsyncConnection[Any], holder: str, tenant_id: UUID, seconds: float, most: int
) -> UUID | None:
    """A place at the model for what is no reply, if there is one left; lasts for `seconds` at most."""
    values = {"id": uuid7(), "tenant_id": tenant_id, "holder": holder, "seconds": seconds, "most": most}
    async with _counting(connection, most):
        return next(iter(await _ids(connection, MODEL.sql("take_place"), values)), None)


async def leave_place(connection: AsyncConnection[Any], place: UUID) -> None:
    """Gives it up."""
    await connection.execute(MODEL.sql("leave_place"), (place,))


@asynccontextmanager
async def _counting(connection: AsyncConnection[Any], most: int | None) -> AsyncIterator[None]:
    """What is done inside counts leases: nobody else does meanwhile."""
    if most is None:
        yield
        return
    async with connection.transaction():
        await connection.execute(MODEL.sql("one_counts"))
        yield


async def renew(
    connection: AsyncConnection[Any], holder: str, ids: Sequence[UUID], lease_seconds: float = 15.0
) -> set[UUID]:
    """Prolongs leases; those not in the answer are lost to another holder."""
    values = {"holder": holder, "ids": list(ids), "seconds": lease_seconds}
    kept = await _ids(connection, MODEL.sql("renew"), values)
    # Afterwards: a lease that ran out while the database was away is kept, unless another took it.
    await connection.execute(MODEL.sql("sweep"))
    return kept


async def hand_back(
    connection: AsyncConnection[Any], holder: str, message_id: UUID, wait_seconds: float
) -> None:
    """Gives a question up; nobody may claim it before `wait_seconds` have passed."""
    values = {"holder": holder, "id": message_id, "seconds": wait_seconds}
    await connection.execute(MODEL.sql("hand_back"), values)


async def live(connection: AsyncConnection[Any], holder: str) -> None:
    """Shows that `holder` is alive for as long as this connection is open."""
    await connection.execute(MODEL.sql("live"), (holder,))


async def bury(connection: AsyncConnection[Any], myself: str, seconds: float) -> set[str]:
    """Cuts the leases of holders without a sign of life to `seconds`; returns those cut just now."""
    async with connection.cursor(row_factory=tuple_row) as found:
        await found.execute(MODEL.sql("bury"), {"myself": myself, "seconds": seconds})
        return {holder async for (holder,) in found}


async def cancel_requested(connection: AsyncConnection[Any], ids: Sequence[UUID]) -> set[UUID]:
    """Those of `ids` that nobody wants answered any more: to be cancelled, or ended already."""
    return await _ids(connection, MODEL.sql("unwanted"), (list(ids),))


async def _ids(connection: AsyncConnection[Any], query: bytes, values: Any) -> set[UUID]:
    async with connection.cursor(row_factory=tuple_row) as found:
        await found.execute(query, values)
        return {message_id async for (message_id,) in found}
