"""What the person has said or been told before, in other dialogues of theirs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta, Struct

from bichat.workers.function import Context, function

LONGEST = 1_000
"""Characters of a message that are told."""


class Wanted(Struct, frozen=True, forbid_unknown_fields=True):
    """What is looked for."""

    text: Annotated[str, Meta(min_length=1, max_length=2000, description="What the messages are about.")]
    top_k: Annotated[int, Meta(ge=1, le=20, description="How many messages at most.")] = 5


class Similar(Struct, frozen=True):
    """A message; scores, from 0 to 1, compare those of one search."""

    role: str
    at: datetime
    content: str
    score: float


@function(needs="search")
async def similar_messages(context: Context, asked: Wanted) -> list[Similar]:
    """Finds messages about something similar in the same person's other conversations, the best first."""
    # This dialogue's are not wanted: the model has it before it, and the question is most like itself.
    found = await context.search.find(
        context.tenant_id, context.user_id, text=asked.text, top_k=2 * asked.top_k
    )
    return [
        Similar(hit.message.role, hit.message.at, (hit.message.content or "")[:LONGEST], round(hit.score, 3))
        for hit in found.hits
        if hit.dialogue_id != context.dialogue_id
    ][: asked.top_k]
