"""Whose a hold is to be, and what was placed."""

from __future__ import annotations

from uuid import UUID

from bichat.commands.job import Outcome
from bichat.errors import NotFound
from bichat.events.ledger import Ledger
from bichat.forgetting import finding
from bichat.forgetting.finding import Hold


def whose(ledger: Ledger, tenant_id: UUID, user_id: str | None, dialogue_id: UUID | None) -> str:
    """The person that a hold on `user_id`, else on a dialogue, is recorded of; raises `NotFound`."""
    if dialogue_id:
        state = ledger.load(dialogue_id).state
        if state.tenant_id != tenant_id:
            raise NotFound(what="dialogue")
        return state.user_id
    if user_id is None or not finding.known(ledger, tenant_id, user_id):
        raise NotFound(what="user")
    return user_id


def placed(ledger: Ledger, outcome: Outcome) -> Hold:
    """The hold that a command has placed, now or when it was first done."""
    event = ledger.read(outcome.dialogue_id, after=outcome.version - 1, upto=outcome.version)[0]
    return finding.hold(event)
