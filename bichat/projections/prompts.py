"""The read model `prompts`: a tenant's prompts with all their versions, and who wrote each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from msgspec import Struct
from psycopg import AsyncConnection, Connection
from psycopg.rows import class_row

from bichat.events.envelope import Event
from bichat.events.prompt import PromptChanged, PromptRemoved, stream_of
from bichat.projections import sql
from bichat.projections.read_model import Build, Piece, ReadModel, Row, Table

# --- from the log into the table --------------------------------------------------------------------


def apply(build: Build, connection: Connection[Any], events: Sequence[Event]) -> None:
    """Adds a row for each version."""
    sql.write(connection, build.sql("write"), fold(events))


def fold(events: Iterable[Event]) -> Iterator[dict[str, Any]]:
    """A version is what its event says, whatever came before."""
    for event in events:
        fact = event.fact
        if isinstance(fact, (PromptChanged, PromptRemoved)):
            yield {
                "stream_id": event.stream_id, "tenant_id": event.tenant_id, "name": fact.name,
                "version": event.version, "template": getattr(fact, "template", None),
                "changed_at": event.at, "author": event.actor.id,
            }  # fmt: skip


def rows(piece: Piece) -> Iterator[Row]:
    """All versions of a prompt."""
    for row in fold(piece.events):
        yield Row(0, row)


MODEL = ReadModel(
    name="prompts",
    subject="prompt",
    shape=1,
    tables=(Table("prompts", ("stream_id", "version"), "stream_id"),),
    apply=apply,
    rows=rows,
    pace=0.02,
)


# --- from the table to who asks ---------------------------------------------------------------------


class Listed(Struct, frozen=True, kw_only=True):
    """A prompt that is there; who wrote this version of it, and when."""

    name: str
    version: int
    changed_at: datetime
    author: str


class Version(Struct, frozen=True, kw_only=True):
    """One version of a prompt; `template` is there for the one that was asked for."""

    version: int
    changed_at: datetime
    author: str
    removed: bool
    """From this version on there was no such prompt."""
    template: str | None


async def page(
    connection: AsyncConnection[Any], tenant_id: UUID, *, after: str | None, limit: int
) -> list[Listed]:
    """A tenant's prompts by name, those after a name."""
    async with connection.cursor(row_factory=class_row(Listed)) as found:
        await found.execute(MODEL.sql("page"), {"tenant_id": tenant_id, "after": after, "limit": limit})
        return await found.fetchall()


async def versions(
    connection: AsyncConnection[Any], tenant_id: UUID, name: str, version: int | None = None
) -> list[Version]:
    """The newest hundred versions and `version`, newest first; the text of that one, or of the newest."""
    values = {"tenant_id": tenant_id, "name": name, "version": version}
    async with connection.cursor(row_factory=class_row(Version)) as found:
        await found.execute(MODEL.sql("versions"), values)
        return await found.fetchall()


async def parked(connection: AsyncConnection[Any], tenant_id: UUID, name: str) -> bool:
    """Whether its newer versions wait because one of them could not be digested."""
    values = {"shape": MODEL.shape, "tenant_id": tenant_id, "stream_id": stream_of(tenant_id, name)}
    return await (await connection.execute(MODEL.sql("parked"), values)).fetchone() is not None
