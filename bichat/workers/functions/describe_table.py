"""What a table of the business database is made of."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from bichat.analytics import Column
from bichat.workers.function import Context, function


class Which(Struct, frozen=True, forbid_unknown_fields=True):
    """One table."""

    table: Annotated[
        str, Meta(min_length=1, max_length=200, description="Its name, as list_tables tells it.")
    ]


@function(needs="analytics")
async def describe_table(context: Context, asked: Which) -> list[Column]:
    """Describes the columns of a table or view of the company's business database."""
    return await context.analytics.columns(context.tenant_id, asked.table)
