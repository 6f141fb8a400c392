"""Histories written into a real log, so that what reads the log can be tried on them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from uuid import UUID

from msgspec.structs import replace

from bichat.events.codec import Draft
from bichat.events.dialogue import DialogueStarted
from bichat.events.envelope import Event, Metadata, has_text
from bichat.events.ledger import Ledger
from bichat.events.prompt import PromptChanged, PromptRemoved, stream_of
from bichat.events.recorder import Group, Head
from tests.examples import TENANT, events


def write(ledger: Ledger, log: Iterable[Event]) -> int:
    """Appends events as they are, one by one; returns the position of the last."""
    heads: dict[UUID, Head] = {}
    owners: dict[UUID, str] = {}
    """Of the dialogues that start here; of others the log knows."""
    position = 0
    for event in log:
        if isinstance(event.fact, DialogueStarted):
            owners[event.stream_id] = event.fact.user_id
        before = ledger.load(event.stream_id) if event.stream_id not in heads else None
        head = before.head if before else heads[event.stream_id]
        sealed = has_text(event.fact)
        if before and before.head.version:
            owners[event.stream_id] = before.state.user_id
        row = ledger.encode(
            Draft(
                stream_id=event.stream_id, version=event.version, at=event.at, fact=event.fact,
                by=Metadata(tenant_id=event.tenant_id, actor=event.actor, command_id=event.command_id),
                key=ledger.keys.person(event.tenant_id, owners[event.stream_id]) if sealed else None,
                prev_hash=head.hash,
            )
        )  # fmt: skip
        position = ledger.append([Group(event.stream_id, head, (row,))])[0][-1]
        heads[event.stream_id] = Head(event.version, row.hash, position, event.at)
    return position


def prompts(
    changes: Sequence[tuple[str, str | None]], after: int = 1000, tenant: UUID = TENANT
) -> list[Event]:
    """What becomes of a tenant's prompts: (name, text), or None for a prompt that is taken away."""
    log: list[Event] = []
    for name, template in changes:
        fact = PromptRemoved(name=name) if template is None else PromptChanged(name=name, template=template)
        stream_id, position = stream_of(tenant, name), after + len(log) + 1
        version = 1 + sum(event.stream_id == stream_id for event in log)
        log += [replace(new, version=version, position=position) for new in events([fact], stream_id, tenant)]
    return log
