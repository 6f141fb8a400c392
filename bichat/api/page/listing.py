"""The list beside every page: a person's dialogues in one state, searched and in pages."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Annotated, Literal
from urllib.parse import urlencode
from uuid import UUID

from litestar.params import QueryParameter
from msgspec import Struct

from bichat.api.page import quiet
from bichat.api.page.thread import name
from bichat.api.page.visit import Visit
from bichat.api.schemas import LINE
from bichat.errors import Unavailable
from bichat.projections import dialogues, openings
from bichat.projections.dialogues import Listed
from bichat.projections.finding import Hit

LENGTH = 20
HITS = 50
"""Messages that are looked for at once."""
PATIENCE = 2.0
"""Seconds for them; without them there are still names and last messages."""
LONGEST_SNIPPET = 140
Shelf = Annotated[Literal["active", "archived", "deleted"], QueryParameter(name="state")]
Query = Annotated[str, QueryParameter(max_length=200, pattern=LINE)]
After = Annotated[str | None, QueryParameter(max_length=512)]


class Line(Struct, frozen=True):
    """One dialogue in the list, and how the message begins that was found in it."""

    dialogue: Listed
    name: str
    snippet: str = ""
    asleep: bool = False
    """Waits for the quiet hours."""


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
    """What stands in the list; of what was looked for, the best first."""
    who, wanted = request.user, q.strip()
    hits = await _hits(request, wanted) if wanted and not after and shelf != "deleted" else []
    async with request.parts.reads.tenant(who.tenant_id) as connection:
        found = await dialogues.page(
            connection, who.tenant_id, who.id, state=shelf, limit=LENGTH, after=after, q=wanted
        )
        best = _best(hits, listed=bool(found.data))
        fitting = await dialogues.these(connection, who.tenant_id, who.id, list(best), shelf) if best else {}
        shown = _ordered(found.data, [fitting[i] for i in best if i in fitting][:LENGTH], wanted)
        unnamed = [entry.id for entry in shown if not entry.label]
        first = await openings.of(connection, who.tenant_id, who.id, unnamed) if unnamed else {}
    asleep = await quiet.resting(request, [one.id for one in shown if one.status == "waiting"])
    lines = [
        Line(one, name(one.label, (first.get(one.id), _last(one))), best.get(one.id, ""), one.id in asleep)
        for one in shown
    ]
    return Listing(lines=lines, next=found.next, total=found.total, shelf=shelf, q=q, after=after)


async def _hits(request: Visit, wanted: str) -> list[Hit]:
    if request.parts.config.bichat_embedding_model and await request.spent():
        return []  # a paid model would have to read what is looked for
    with suppress(Unavailable, TimeoutError):
        async with asyncio.timeout(PATIENCE):
            who = request.user
            found = await request.parts.search.find(who.tenant_id, who.id, text=wanted, top_k=HITS)
            return found.hits
    return []


def _best(hits: list[Hit], *, listed: bool) -> dict[UUID, str]:
    """By dialogue, how its best message begins; best first.

    Something is always nearest in meaning: only where no words fit does that alone count.
    """
    least = max(hits[0].score / 2, 0.5 if listed else 0.0) if hits else 0.0
    best: dict[UUID, str] = {}
    for hit in hits:
        if hit.score > least:
            best.setdefault(hit.dialogue_id, _beginning(hit.message.content or ""))
    return best


def _ordered(listed: tuple[Listed, ...], fitting: list[Listed], wanted: str) -> list[Listed]:
    """First those of that name, then those in which it was said, then the rest; each once."""
    named = [one for one in listed if one.label and wanted.casefold() in one.label.casefold()]
    return list({one.id: one for one in (*named, *fitting, *listed)}.values())


def _beginning(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LONGEST_SNIPPET else words[:LONGEST_SNIPPET].rsplit(" ", 1)[0] + "…"


def _last(one: Listed) -> str | None:
    return one.last_message.content if one.last_message else None
