"""Questions asked for the quiet hours: until these begin nobody works on them, and the page says so."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from uuid import UUID

from bichat.api.page.visit import Visit
from bichat.errors import Unavailable
from bichat.events.transcript import Turn
from bichat.projections import unanswered

PATIENCE = 1.0
"""Seconds for the queue to know what was asked just now."""


def hours(request: Visit) -> str:
    """When they are."""
    told = request.parts.config.bichat_off_peak
    return f"{told.begins:%H:%M}\u2013{told.ends:%H:%M} {told.zone}"


async def asleep(request: Visit, dialogue_id: UUID, turns: Sequence[Turn]) -> frozenset[UUID]:
    """Those of the questions that wait for them; none once they have begun."""
    waiting = [turn.position for turn in turns if turn.status == "waiting"]
    if not waiting:
        return frozenset()
    with suppress(Unavailable):  # the queue is a read model of its own
        await request.parts.reads.caught_up("replies", max(waiting), timeout=PATIENCE)
    return frozenset(message_id for _, message_id in await _later(request, [dialogue_id]))


async def resting(request: Visit, dialogues: Sequence[UUID]) -> frozenset[UUID]:
    """Those of the dialogues in which something waits for them."""
    return frozenset(dialogue_id for dialogue_id, _ in await _later(request, dialogues))


async def _later(request: Visit, dialogues: Sequence[UUID]) -> list[tuple[UUID, UUID]]:
    if not dialogues or request.parts.config.bichat_off_peak.open_at(datetime.now(UTC)):
        return []
    who = request.user
    async with request.parts.reads.tenant(who.tenant_id) as connection:
        return await unanswered.later(connection, who.tenant_id, who.id, dialogues)
