"""The read model `dialogues` as the archiver sees it: what nobody has used for so long."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from psycopg import Connection
from psycopg.rows import tuple_row

from bichat.projections.dialogues import MODEL
from bichat.projections.sql import blocks, statement

START = UUID(int=0)
"""Where the walk begins."""


class Idle(NamedTuple):
    """A dialogue in use of which nothing has changed; the log may know better."""

    dialogue_id: UUID
    tenant_id: UUID
    version: int
    messages: int


def alone(connection: Connection[Any]) -> bool:
    """Whether nobody else walks; from here on, for as long as the connection is open."""
    return connection.execute(statement("idle", "lock")).fetchone() == (True,)


def step(
    connection: Connection[Any], after: UUID, before: datetime, limit: int
) -> tuple[list[Idle], UUID | None]:
    """Of the next dialogues those that are unchanged since `before`; and the place to go on from, if any."""
    query = blocks("idle")["step"].replace("_vN", f"_v{MODEL.shape}").encode()
    with connection.cursor(row_factory=tuple_row) as cursor:
        rows = cursor.execute(query, {"after": after, "before": before, "limit": limit}).fetchall()
    return [Idle(*row[1:]) for row in rows if row[1]], rows[0][0] if rows else None
