"""What there is to be asked about in the business database."""

from __future__ import annotations

from msgspec import Struct

from bichat.analytics import Table
from bichat.workers.function import Context, function


class Nothing(Struct, frozen=True, forbid_unknown_fields=True):
    """There is nothing to choose."""


@function(needs="analytics")
async def list_tables(context: Context, asked: Nothing) -> list[Table]:
    """Lists the tables and views of the company's business database, with what they hold."""
    return await context.analytics.tables(context.tenant_id)
