"""The read model `transcripts`: what is said in each dialogue, in pages, and how each reply stands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple
from uuid import UUID

import immutables
import msgspec
from msgspec.structs import asdict, replace
from psycopg import AsyncConnection, Connection
from psycopg.rows import tuple_row

from bichat.events.envelope import Event
from bichat.events.transcript import Dialogue, Message, Turn, transcribe
from bichat.projections import erasures, sql
from bichat.projections.read_model import (
    PAGE,
    Build,
    Piece,
    ReadModel,
    Row,
    Table,
    asked_before,
    known_before,
)

PIECE = 4
"""Pages that `changes` reads at once."""

_LAST = 2**62
"""A version after every other."""

Dialogues = dict[UUID, Dialogue]
_messages = msgspec.json.Decoder(tuple[Message, ...])
_turns = msgspec.json.Decoder(tuple[Turn, ...])
_turn = msgspec.json.Decoder(Turn)


# --- from the log into the tables ------------------------------------------------------------------


def apply(build: Build, connection: Connection[Any], events: Sequence[Event]) -> None:
    """Folds events into the tables; of what was there only headers and touched turns are read."""
    held = _held(build, connection, events)
    now = fold(held, events)
    erasures.blank(connection, build, erasures.told(events))
    sql.write(connection, build.sql("write_headers"), map(_header, now.values()))
    _move(build, connection, held, now)
    sql.write(connection, build.sql("write_pages"), (p for d in now.values() for p in _pages(d)))
    turns = (_row(d, t) for d in now.values() for t in _changed(d, held.get(d.id)))
    sql.write(connection, build.sql("write_turns"), turns)


def fold(held: Dialogues, events: Iterable[Event]) -> Dialogues:
    """Each dialogue touched, after `events`; of its messages only the new ones."""
    now: Dialogues = {}
    for event in events:
        before = now.get(event.stream_id) or held.get(event.stream_id)
        now[event.stream_id] = transcribe(before, event)
    return now


def _move(build: Build, connection: Connection[Any], held: Dialogues, now: Dialogues) -> None:
    """Brings the pages there are to where those of archived dialogues lie, or back."""
    moved = {i: _cold(now[i]) for i, before in held.items() if _cold(before) != _cold(now[i])}
    if moved:
        connection.execute(build.sql("move"), (list(moved), list(moved.values())))


def _cold(dialogue: Dialogue) -> bool:
    return dialogue.state == "archived"


def _held(build: Build, connection: Connection[Any], events: Sequence[Event]) -> Dialogues:
    headers = sql.find(connection, build.sql("held_headers"), known_before(events))
    held = {header[0]: _dialogue(header) for header in headers}
    asked = sql.pairs(asked_before(events))
    for dialogue_id, *row in sql.find(connection, build.sql("held_turns"), *asked):
        values = dict(zip(_TURN, row, strict=True), usage=msgspec.json.decode(row[_TURN.index("usage")]))
        turn = msgspec.convert(values, Turn)
        dialogue = held[dialogue_id]
        held[dialogue_id] = replace(dialogue, turns=dialogue.turns.set(turn.message_id, turn))
    return held


_TURN = Turn.__struct_fields__
_HEADER = tuple(n for n in Dialogue.__struct_fields__ if n not in ("messages", "turns"))


def _dialogue(row: Sequence[Any]) -> Dialogue:
    return Dialogue(**dict(zip(_HEADER, row, strict=False)))


def _header(dialogue: Dialogue) -> dict[str, Any]:
    row = {name: getattr(dialogue, name) for name in _HEADER}
    return row | {"last_message": dialogue.last_message}


def _pages(dialogue: Dialogue) -> Iterator[dict[str, Any]]:
    pages: dict[int, list[Message]] = {}
    for message in dialogue.messages:
        pages.setdefault((message.seq - 1) // PAGE, []).append(message)
    for page, messages in pages.items():
        yield {
            "dialogue_id": dialogue.id, "page": page, "tenant_id": dialogue.tenant_id, "messages": messages,
            "version": messages[-1].version, "questions": [m.id for m in messages if m.asks],
            "cold": _cold(dialogue),
        }  # fmt: skip


def _changed(dialogue: Dialogue, before: Dialogue | None) -> Iterable[Turn]:
    old = before.turns if before else immutables.Map[UUID, Turn]()
    return (turn for turn in dialogue.turns.values() if turn is not old.get(turn.message_id))


def _row(dialogue: Dialogue, turn: Turn) -> dict[str, Any]:
    return asdict(turn) | {"dialogue_id": dialogue.id, "tenant_id": dialogue.tenant_id}


def rows(piece: Piece) -> Iterator[Row]:
    """The pages that are full, and at the end all the rest."""
    dialogue = piece.dialogue
    for page in _pages(dialogue):
        full = piece.pages_before <= page["page"] < dialogue.message_count // PAGE
        if full or (piece.last and page["page"] >= piece.pages_before):
            yield Row(1, page)
    if piece.last:
        yield Row(0, _header(dialogue))
        for turn in dialogue.turns.values():
            yield Row(2, _row(dialogue, turn))


MODEL = ReadModel(
    name="transcripts",
    shape=2,
    tables=(
        Table("transcripts", ("id",), "id"),
        Table("transcripts_pages", ("dialogue_id", "page"), "dialogue_id"),
        Table("transcripts_turns", ("dialogue_id", "message_id"), "dialogue_id"),
    ),
    apply=apply,
    rows=rows,
)


# --- from the tables to who asks -------------------------------------------------------------------

Found = tuple[Any, ...]


async def newest(
    connection: AsyncConnection[Any], tenant_id: UUID, dialogue_id: UUID, user_id: str, limit: int = PAGE
) -> Dialogue | None:
    """The dialogue, in whatever state, with its newest messages and the turns of the questions among them."""
    row = await _one(connection, "newest", tenant_id, dialogue_id, user_id, limit=limit)
    return _read(row, lambda m: m.seq > row[8] - limit) if row else None


async def messages(
    connection: AsyncConnection[Any], tenant_id: UUID, dialogue_id: UUID, user_id: str, *,
    after_seq: int | None = None, order: Literal["asc", "desc"] = "asc", limit: int = PAGE,
) -> Dialogue | None:  # fmt: skip
    """The dialogue with at most `limit` messages that come after `after_seq` in `order`, and their turns.

    Its messages are in that order. There is more while the last one's `seq` is not the end's
    (`message_count` or 1).
    """
    if order == "asc":
        first = (after_seq or 0) + 1
        low, high = first, first + limit - 1
    else:
        if after_seq is None:
            found = await newest(connection, tenant_id, dialogue_id, user_id, limit)
            return found and replace(found, messages=found.messages[::-1])
        low, high = after_seq - limit, after_seq - 1
    pages = {"first": max(low - 1, 0) // PAGE, "last": (high - 1) // PAGE}
    row = await _one(connection, "slice", tenant_id, dialogue_id, user_id, **pages)
    found = _read(row, lambda m: low <= m.seq <= high) if row else None
    if found and order == "desc":
        return replace(found, messages=found.messages[::-1])
    return found


class Changes(NamedTuple):
    """What is new in a dialogue, in pieces of bounded size: this one has everything up to version `upto`."""

    dialogue: Dialogue
    upto: int


async def changes(
    connection: AsyncConnection[Any], tenant_id: UUID, dialogue_id: UUID, user_id: str, since_version: int
) -> Changes | None:
    """The messages and turns that are newer than `since_version`, the first few pages of them.

    There is more while `upto` is not the dialogue's version.
    """
    values = {"since": since_version, "pages": PIECE}
    row = await _one(connection, "changes", tenant_id, dialogue_id, user_id, **values)
    if row is None:
        return None
    *found, upto = row
    return Changes(_read(found, lambda m: m.version > since_version), upto)


class Reply(NamedTuple):
    """How the reply to a question stands; `answer` once it is answered."""

    turn: Turn
    answer: Message | None
    calls: tuple[Message, ...] = ()
    """Of functions, in its last attempt; the newer ones, if that was asked for."""


async def reply(
    connection: AsyncConnection[Any], tenant_id: UUID, dialogue_id: UUID, user_id: str, message_id: UUID,
    *, since_version: int = _LAST,
) -> Reply | None:  # fmt: skip
    """The turn of one question with its answer, at any distance; None when there is no such question.

    With the calls of functions from after `since_version`, if that is given.
    """
    values = {"message_id": message_id, "since": since_version}
    row = await _one(connection, "reply", tenant_id, dialogue_id, user_id, **values)
    if row is None:
        return None
    turn = _turn.decode(row[0])
    held = _messages.decode(row[1]) if row[1] else ()
    calls = tuple(_messages.decode(row[2]))
    return Reply(turn, next((m for m in held if m.version == turn.version), None), calls)


async def turn(
    connection: AsyncConnection[Any], tenant_id: UUID, dialogue_id: UUID, user_id: str, message_id: UUID
) -> Turn | None:
    """The turn of one question."""
    found = await reply(connection, tenant_id, dialogue_id, user_id, message_id)
    return found.turn if found else None


async def parked(connection: AsyncConnection[Any], tenant_id: UUID, dialogue_id: UUID, user_id: str) -> bool:
    """Whether the dialogue waits because an event of it could not be digested."""
    row = await _one(connection, "parked", tenant_id, dialogue_id, user_id, shape=MODEL.shape)
    return row is not None


async def _one(
    connection: AsyncConnection[Any],
    block: str,
    tenant_id: UUID,
    dialogue_id: UUID,
    user_id: str,
    **more: Any,
) -> Found | None:
    values = {"tenant_id": tenant_id, "dialogue_id": dialogue_id, "user_id": user_id, **more}
    cursor = connection.cursor(row_factory=tuple_row)
    await cursor.execute(MODEL.sql(block), values)
    return await cursor.fetchone()


def _read(row: Sequence[Any], wanted: Callable[[Message], bool]) -> Dialogue:
    *header, pages, turns = row
    held = tuple(m for page in pages for m in _messages.decode(page) if wanted(m))
    by_id = immutables.Map((t.message_id, t) for t in _turns.decode(turns))
    return replace(_dialogue(header), messages=held, turns=by_id)
