"""The read model `dialogues`: the list of a user's dialogues, last changed first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

import immutables
import msgspec
from msgspec import Struct
from msgspec.structs import replace
from psycopg import AsyncConnection, Connection
from psycopg.rows import tuple_row

from bichat.errors import Invalid
from bichat.events.dialogue_state import Lifecycle, QuestionStatus
from bichat.events.envelope import Event
from bichat.events.transcript import Dialogue, Message, Turn, transcribe
from bichat.projections import cursor, erasures, sql
from bichat.projections.read_model import Build, Piece, ReadModel, Row, Table, known_before, question_of

Dialogues = dict[UUID, Dialogue]


# --- from the log into the tables ------------------------------------------------------------------


def apply(build: Build, connection: Connection[Any], events: Sequence[Event]) -> None:
    """Folds events into the list and the counts."""
    held = _held(build, connection, events)
    now = fold(held, events)
    erasures.blank(connection, build, erasures.told(events))
    sql.write(connection, build.sql("write"), map(_row, now.values()))
    sql.write(connection, build.sql("count"), _moved(held, now))


def fold(held: Dialogues, events: Iterable[Event]) -> Dialogues:
    """Each dialogue touched, after `events`; of its turns it knows the newest question's."""
    now: Dialogues = {}
    for event in events:
        before = now.get(event.stream_id) or held.get(event.stream_id)
        now[event.stream_id] = transcribe(before and _with_turn(before, event), event)
    return now


def _with_turn(dialogue: Dialogue, event: Event) -> Dialogue:
    """Older questions are not held: one that `event` is about gets a turn that is never the newest."""
    question = question_of(event.fact)
    if question is None or question in dialogue.turns:
        return dialogue
    turn = Turn(message_id=question, seq=0, version=0, at=event.at)
    return replace(dialogue, turns=dialogue.turns.set(question, turn))


def _held(build: Build, connection: Connection[Any], events: Sequence[Event]) -> Dialogues:
    held: Dialogues = {}
    for *header, question, seq, status in sql.find(connection, build.sql("held"), known_before(events)):
        dialogue = Dialogue(**dict(zip(_HEADER, header, strict=True)))
        if question:
            turn = Turn(message_id=question, seq=seq, version=0, at=dialogue.updated_at, status=status)
            dialogue = replace(dialogue, turns=immutables.Map({question: turn}))
        held[dialogue.id] = dialogue
    return held


_HEADER = tuple(n for n in Dialogue.__struct_fields__ if n not in ("erased", "messages", "turns"))


def _row(dialogue: Dialogue) -> dict[str, Any]:
    newest = max(dialogue.turns.values(), key=lambda turn: turn.seq, default=None)
    newest = newest if newest and newest.seq else None
    return {name: getattr(dialogue, name) for name in _HEADER} | {
        "last_message": dialogue.last_message,
        "question_id": newest and newest.message_id,
        "question_seq": newest and newest.seq,
        "status": newest and newest.status,
    }


def _moved(held: Dialogues, now: Dialogues) -> Iterator[dict[str, Any]]:
    """By how much each user's numbers change; all states, so that no row depends on the batches."""
    moved: defaultdict[tuple[UUID, str], Counter[str]] = defaultdict(Counter)
    for dialogue in now.values():
        before = held.get(dialogue.id)
        if before is None or before.state != dialogue.state:
            user = moved[dialogue.tenant_id, dialogue.user_id]
            user[dialogue.state] += 1
            user[before.state if before else "none"] -= 1
    for (tenant_id, user_id), by_state in moved.items():
        for state in ("active", "archived", "deleted"):
            yield {"tenant_id": tenant_id, "user_id": user_id, "state": state, "dialogues": by_state[state]}


def rows(piece: Piece) -> Iterator[Row]:
    """The dialogue in the list, and one more in its user's count."""
    if piece.last:
        dialogue = piece.dialogue
        yield Row(0, _row(dialogue))
        whose = {"tenant_id": dialogue.tenant_id, "user_id": dialogue.user_id, "state": dialogue.state}
        yield Row(1, whose | {"dialogues": 1})


MODEL = ReadModel(
    name="dialogues",
    shape=1,
    tables=(
        Table("dialogues", ("id",), "id"),
        Table("dialogues_counts", ("tenant_id", "user_id", "state"), None),
    ),
    apply=apply,
    rows=rows,
    pace=0.02,
)


# --- from the tables to who asks -------------------------------------------------------------------


class Listed(Struct, frozen=True, kw_only=True):
    """One dialogue in the list; `status` is that of the reply to its newest question."""

    id: UUID
    tenant_id: UUID
    user_id: str
    label: str | None
    state: Lifecycle
    version: int
    created_at: datetime
    updated_at: datetime
    message_count: int
    last_message: Message | None
    status: QuestionStatus | None


class Page(Struct, frozen=True, kw_only=True):
    """Some dialogues; `next` is where the following ones begin, `total` is not known for a search."""

    data: tuple[Listed, ...]
    next: str | None
    total: int | None


_message = msgspec.json.Decoder(Message)
_FIRST = ("infinity", UUID(int=2**128 - 1))


async def page(
    connection: AsyncConnection[Any], tenant_id: UUID, user_id: str, *,
    state: Literal["active", "archived", "deleted"] = "active", limit: int = 20,
    after: str | None = None, offset: int = 0, q: str = "",
) -> Page:  # fmt: skip
    """A page of a user's dialogues, last changed first; `q` looks in labels and last messages.

    Raises `Invalid` for an `after` that is no cursor of this list.
    """
    before, before_id = _place(after) if after else _FIRST
    values = {
        "tenant_id": tenant_id, "user_id": user_id, "state": state, "limit": limit + 1, "offset": offset,
        "before": str(before), "before_id": before_id, "pattern": f"%{_escaped(q)}%",
    }  # fmt: skip
    async with connection.cursor(row_factory=tuple_row) as found:
        await found.execute(MODEL.sql("matching" if q else "page"), values)
        found_rows = await found.fetchall()
    rows = [_listed(row) for row in found_rows if row[0]]
    total = None if q else found_rows[0][-1] or 0
    more = rows[limit - 1] if len(rows) > limit else None
    return Page(
        data=tuple(rows[:limit]), next=cursor.write((more.updated_at, more.id)) if more else None, total=total
    )


async def these(
    connection: AsyncConnection[Any], tenant_id: UUID, user_id: str, ids: Sequence[UUID], state: Lifecycle
) -> dict[UUID, Listed]:
    """Those of the dialogues that are the user's and in this state."""
    values = {"tenant_id": tenant_id, "user_id": user_id, "ids": list(ids), "state": state}
    async with connection.cursor(row_factory=tuple_row) as found:
        await found.execute(MODEL.sql("these"), values)
        return {row[0]: _listed(row) for row in await found.fetchall()}


def _place(after: str) -> tuple[datetime, UUID]:
    at, dialogue_id = cursor.read(after, tuple[datetime, UUID])
    try:
        if at.tzinfo is None:
            raise ValueError(at)
        return at.astimezone(UTC), dialogue_id
    except (ValueError, OverflowError):  # in UTC it would be before year 1, or after year 9999
        raise Invalid(field="after", reason="is not a cursor that this list gave out") from None


def _listed(row: Sequence[Any]) -> Listed:
    *header, last, status, _total = row
    values = dict(zip(_HEADER, header, strict=True))
    return Listed(**values, last_message=_message.decode(last) if last else None, status=status)


def _escaped(q: str) -> str:
    return q.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_").replace("\x00", "")
