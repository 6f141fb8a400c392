"""Questions to the business database, in SQL."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from bichat.analytics import Result
from bichat.workers.function import Context, function


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked."""

    sql: Annotated[
        str,
        Meta(
            min_length=1, max_length=10_000,
            description="One SELECT in PostgreSQL's dialect. Aggregate: at most 200 rows come back.",
        ),
    ]  # fmt: skip


@function(needs="analytics")
async def query(context: Context, asked: Question) -> Result:
    """Runs one SELECT on the company's business database, which can only be read.

    Look at the tables with list_tables and describe_table first. Functions beyond the usual ones for
    numbers, texts, dates and aggregates are refused.
    """
    return await context.analytics.query(context.tenant_id, asked.sql, context.room)
