"""What a form is answered with: the page to go on with, or what the API would say to the page's script."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from litestar import Response

from bichat.api import changing
from bichat.api.page.rendering import moved
from bichat.api.page.session import PATH
from bichat.api.page.visit import Visit
from bichat.api.schemas import Accepted
from bichat.commands.job import Outcome
from bichat.errors import Unavailable


async def asked(request: Visit, outcome: Outcome) -> Response[Any]:
    """To who has asked something."""
    await _settled(request, outcome)
    assert outcome.message_id is not None  # noqa: S101 - commands that ask say what they asked
    if not request.by_script:
        return moved(f"{PATH}/{outcome.dialogue_id}#turn-{outcome.message_id}")
    accepted = Accepted(
        dialogue_id=outcome.dialogue_id, message_id=outcome.message_id, version=outcome.version,
        position=outcome.position,
    )  # fmt: skip
    return Response(accepted, status_code=202)


async def changed(request: Visit, outcome: Outcome, to: str = "") -> Response[Any]:
    """To who has changed something; goes on at `to`, or at the dialogue."""
    await _settled(request, outcome)
    if request.by_script:
        answer = changing.changed(outcome)
        answer.status_code = 200
        return answer
    return moved(to or f"{PATH}/{outcome.dialogue_id}")


async def _settled(request: Visit, outcome: Outcome) -> None:
    """Returns when the next page shows what was done; if that takes long, it will later."""
    with suppress(Unavailable):
        for read_model in ("transcripts", "dialogues"):
            await request.parts.reads.caught_up(read_model, outcome.position)
