"""The read model `search`: the words of each message, by which people find again what was said to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
from psycopg import AsyncConnection, Connection
from psycopg.errors import UndefinedTable
from psycopg.rows import args_row, tuple_row

from bichat.errors import NotSimilar
from bichat.events.envelope import Event
from bichat.events.transcript import Dialogue, Message
from bichat.projections import dialogues, erasures, sql, transcripts, words
from bichat.projections.read_model import PAGE, Build, Piece, ReadModel, Row, Table, known_before
from bichat.projections.vectors import Serving

# --- from the log into the tables ------------------------------------------------------------------


def apply(build: Build, connection: Connection[Any], events: Sequence[Event]) -> None:
    """Adds what was said, and takes away what was erased."""
    held = {row[0]: _held(row) for row in sql.find(connection, build.sql("held"), known_before(events))}
    now = dialogues.fold(held, events)
    erasures.blank(connection, build, erasures.told(events))
    sql.write(connection, build.sql("write_dialogues"), map(_header, now.values()))
    sql.write(connection, build.sql("write"), (row for d in now.values() for row in _said(d, d.messages)))


def _held(row: Sequence[Any]) -> Dialogue:
    dialogue_id, tenant_id, user_id, state, version, at, count = row
    return Dialogue(
        id=dialogue_id, tenant_id=tenant_id, user_id=user_id, label="", state=state, version=version,
        created_at=at, updated_at=at, message_count=count,
    )  # fmt: skip


def _header(dialogue: Dialogue) -> dict[str, Any]:
    return {
        "id": dialogue.id, "tenant_id": dialogue.tenant_id, "user_id": dialogue.user_id,
        "state": dialogue.state, "version": dialogue.version, "at": dialogue.updated_at,
        "message_count": dialogue.message_count,
    }  # fmt: skip


def _said(dialogue: Dialogue, messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    for message in messages:
        if message.role in ("user", "assistant") and message.content:
            yield {
                "message_id": message.id, "dialogue_id": dialogue.id, "tenant_id": dialogue.tenant_id,
                "user_id": dialogue.user_id, "seq": message.seq,
                "words": words.kept(message.content),
            }  # fmt: skip


def rows(piece: Piece) -> Iterator[Row]:
    """The messages of this piece, and at the end the dialogue."""
    dialogue = piece.dialogue
    before = piece.before.dialogue.message_count if piece.before else 0
    for row in _said(dialogue, [message for message in dialogue.messages if message.seq > before]):
        yield Row(0, row)
    if piece.last:
        yield Row(1, _header(dialogue))


MODEL = ReadModel(
    name="search",
    shape=1,
    fold=2,  # signs made of capitals, as in "№", are small letters too
    tables=(Table("search", ("message_id",), "dialogue_id"), Table("search_dialogues", ("id",), "id")),
    apply=apply,
    rows=rows,
    pace=0.05,
)


# --- from the tables to who asks -------------------------------------------------------------------

FEW = 10_000
"""Vectors of a person that are all looked at; of more, the index finds the nearest."""


class Place(NamedTuple):
    """Where a message is, and how well it fits: the share of the words, or the nearness of the vectors."""

    message_id: UUID
    dialogue_id: UUID
    seq: int
    share: float


async def matching(connection: AsyncConnection[Any], who: dict[str, Any], text: str) -> list[Place]:
    """Messages with words of a text, best first; `who`: tenant_id, user_id, and a limit."""
    return await _places(connection, MODEL.sql("matching"), who | {"words": words.asked(text)})


async def nearest(
    connection: AsyncConnection[Any], who: dict[str, Any], serving: Serving, embedding: str
) -> list[Place]:
    """Messages by nearness to a vector, as Postgres reads it: all are looked at, unless they are many."""
    who = who | {"embedding": embedding}
    names = {"table": serving.store.table, "vector": serving.store.vector}

    def query(block: str) -> bytes:
        return MODEL.sql(block).decode().format(**names).encode()

    try:
        cursor = await connection.execute(query("vectors"), who | {"limit": FEW + 1})
        row = await cursor.fetchone()
        if row and row[0] > FEW:
            async with connection.transaction():
                await connection.execute(MODEL.sql("approximately"), prepare=False)
                near = await _places(connection, query("nearest_of_many"), who)
            if len(near) == who["limit"]:
                return near
        return await _places(connection, query("nearest_of_few"), who)
    except UndefinedTable:
        raise NotSimilar(why="another model has just taken over") from None


async def _places(connection: AsyncConnection[Any], query: bytes, values: dict[str, Any]) -> list[Place]:
    async with connection.cursor(row_factory=args_row(Place)) as cursor:
        await cursor.execute(query, values)
        return await cursor.fetchall()


_message = msgspec.json.Decoder(Message)


async def said(
    connection: AsyncConnection[Any], tenant_id: UUID, places: Sequence[Place]
) -> dict[UUID, Message]:
    """The messages there, but for those that the transcripts do not have, or whose text is gone."""
    values = {
        "tenant_id": tenant_id, "dialogues": [place.dialogue_id for place in places],
        "seqs": [place.seq for place in places],
    }  # fmt: skip
    query = MODEL.sql("said").decode().format(page=PAGE, pages=transcripts.MODEL.views[1])
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(query.encode(), values)
        found = [_message.decode(text) for (text,) in await cursor.fetchall() if text]
    return {message.id: message for message in found if message.content}
