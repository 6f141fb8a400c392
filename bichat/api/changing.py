"""The answer to a command that changes a dialogue but asks nothing."""

from __future__ import annotations

from litestar import Response

from bichat.api.schemas import Changed
from bichat.commands.job import Outcome


def changed(outcome: Outcome) -> Response[Changed]:
    """Where the dialogue stands now; the route says the status."""
    return Response(
        Changed(dialogue_id=outcome.dialogue_id, version=outcome.version, position=outcome.position),
        headers={"Idempotent-Replayed": "true"} if outcome.replayed else None,
    )
