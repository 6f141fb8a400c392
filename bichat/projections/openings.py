"""How dialogues begin, out of `transcripts`: what a list calls those that have no label."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from bichat.projections import sql
from bichat.projections.transcripts import MODEL


async def of(
    connection: AsyncConnection[Any], tenant_id: UUID, user_id: str, dialogues: Sequence[UUID]
) -> dict[UUID, str | None]:
    """The first 200 characters of each of these dialogues of a user; None where they are erased."""
    values = {"tenant_id": tenant_id, "user_id": user_id, "dialogues": list(dialogues)}
    async with connection.cursor(row_factory=tuple_row) as found:
        await found.execute(_query(), values)
        return dict(await found.fetchall())


@cache
def _query() -> bytes:
    return sql.blocks("openings")["openings"].replace("_vN", f"_v{MODEL.shape}").encode()
