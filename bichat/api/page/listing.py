"""The list beside every page: a person's dialogues in one state, searched and in pages."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlencode
from uuid import UUID

from litestar.params import QueryParameter
from msgspec import Struct

from bichat.api.page.thread import name
from bichat.api.page.visit import Visit
from bichat.api.schemas import LINE
from bichat.projections import dialogues, openings
from bichat.projections.dialogues import Listed

LENGTH = 20
Shelf = Annotated[Literal["active", "archived", "deleted"], QueryParameter(name="state")]
Query = Annotated[str, QueryParameter(max_length=200, pattern=LINE)]
After = Annotated[str | None, QueryParameter(max_length=512)]


class Line(Struct, frozen=True):
    """One dialogue in the list."""

    dialogue: Listed
    name: str


class Listing(Struct, frozen=True, kw_only=True):
    """A page of the list, and what was asked for."""

    lines: list[Line]
    next: str | None
    total: int | None
    shelf: str
    q: str
    after: str | None

    def address(self, dialogue_id: UUID | None = None, **changed: str | None) -> str:
        """Where a page is that keeps the list as it is, but for what is `changed`."""
        kept = {"state": self.shelf if self.shelf != "active" else None, "q": self.q, "after": self.after}
        query = urlencode({name: value for name, value in (kept | changed).items() if value})
        return f"/bi-chat{f'/{dialogue_id}' if dialogue_id else ''}{f'?{query}' if query else ''}"


async def listing(
    request: Visit, shelf: Literal["active", "archived", "deleted"], q: str, after: str | None
) -> Listing:
    """What stands in the list."""
    who = request.user
    async with request.parts.reads.tenant(who.tenant_id) as connection:
        found = await dialogues.page(
            connection, who.tenant_id, who.id, state=shelf, limit=LENGTH, after=after, q=q.strip()
        )
        unnamed = [entry.id for entry in found.data if not entry.label]
        first = await openings.of(connection, who.tenant_id, who.id, unnamed) if unnamed else {}
    lines = [Line(one, name(one.label, (first.get(one.id), _last(one)))) for one in found.data]
    return Listing(lines=lines, next=found.next, total=found.total, shelf=shelf, q=q, after=after)


def _last(one: Listed) -> str | None:
    return one.last_message.content if one.last_message else None
