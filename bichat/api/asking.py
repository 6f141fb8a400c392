"""What the two ways to ask a question share: the limits, the settings, and the answer 202 or a stream."""

from __future__ import annotations

import re
from typing import Any

from litestar import Response
from litestar.openapi.datastructures import ResponseSpec

from bichat.api.call import Call
from bichat.api.schemas import Accepted, Settings
from bichat.api.stream import follow_reply
from bichat.commands.job import Outcome
from bichat.errors import Invalid
from bichat.events.dialogue import Asked

STREAMED = {
    200: ResponseSpec(
        data_container=str,
        media_type="text/event-stream",
        generate_examples=False,
        description="With `Accept: text/event-stream`: the stream of the reply.",
    )
}


_QUALITY = re.compile(r"q=([01](?:\.[0-9]{0,3})?)")


def asked(settings: Settings) -> Asked:
    """What the question asks of the model."""
    return Asked(
        model=settings.model or "",
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        top_p=settings.top_p,
    )


def check_length(call: Call, field: str, text: str) -> None:
    """Refuses a text that is longer than the installation allows."""
    longest = call.parts.config.bichat_max_message_chars
    if len(text) > longest:
        raise Invalid(field=field, reason=f"must be at most {longest} characters long")


def streamed(accept: str) -> bool:
    """Whether a stream is asked for by its name, and JSON is not preferred to it."""
    worth: dict[str, float] = {}
    for given in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in given.split(";"))
        qualities = [found[1] for part in parameters if (found := _QUALITY.fullmatch(part))]
        worth[kind] = float(qualities[0]) if qualities else 1.0
    return 0 < worth.get("text/event-stream", 0) >= worth.get("application/json", 0)


async def answer(call: Call, outcome: Outcome) -> Response[Any]:
    """202, or the stream of the reply when the caller accepts one."""
    assert outcome.message_id is not None  # noqa: S101 - commands that ask say what they asked
    headers = {"Location": f"/v1/dialogues/{outcome.dialogue_id}?min_version={outcome.version}"}
    if outcome.replayed:
        headers["Idempotent-Replayed"] = "true"
    if streamed(",".join(call.headers.getall("accept", []))):
        return follow_reply(call, outcome, headers)
    accepted = Accepted(
        dialogue_id=outcome.dialogue_id,
        message_id=outcome.message_id,
        version=outcome.version,
        position=outcome.position,
    )
    return Response(accepted, status_code=202, headers=headers)
