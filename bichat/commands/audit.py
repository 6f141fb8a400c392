"""What is recorded when somebody reads the audit."""

from __future__ import annotations

from uuid import UUID

from msgspec import field

from bichat.commands.command import AuditCommand, Facts
from bichat.events.audit import AuditRead, AuditState, Reading


class RecordReading(AuditCommand, frozen=True, kw_only=True):
    """Says what is about to be read; nothing is shown before this is in the log."""

    what: Reading
    dialogue_id: UUID | None = None
    asked: dict[str, str] = field(default_factory=dict)


def decide_audit(state: AuditState, command: AuditCommand) -> Facts:
    """Everything is recorded, each time."""
    if isinstance(command, RecordReading):
        return [AuditRead(what=command.what, dialogue_id=command.dialogue_id, asked=command.asked)]
    raise TypeError(type(command).__name__)
