"""The facts about auditing: who read what of the audit, and when, in one stream of each tenant."""

from __future__ import annotations

from typing import ClassVar, Literal
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct, field

from bichat.events.envelope import Event, Fact, Subject, fact

_NAMES = UUID("6f2d1c1e-4c1b-5d0a-9a35-6b1d0c7a5e02")
"""Under which the ids of tenants' audit streams are made; final."""

Reading = Literal["events", "feed", "dialogue", "attempts", "verify", "export"]
"""A dialogue's events, the tenant's, a dialogue as it was, what the model saw, a check, an export."""


def stream_of(tenant_id: UUID) -> UUID:
    """The stream in which readings of a tenant's audit are recorded."""
    return uuid5(_NAMES, str(tenant_id))


@fact()
class AuditRead(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """Somebody is about to read the audit; `asked` says with which parameters."""

    subject: ClassVar[Subject] = "audit"

    what: Reading
    dialogue_id: UUID | None = None
    asked: dict[str, str] = field(default_factory=dict)


class AuditState(Struct, frozen=True):
    """Nothing is decided here; whose stream it is."""

    tenant_id: UUID | None = None

    fold_version: ClassVar[int] = 1
    owner: ClassVar[str] = ""
    weight: ClassVar[int] = 0

    def after(self, event: Event) -> AuditState:
        """The state after `event`."""
        return self if self.tenant_id else AuditState(event.tenant_id)

    def frozen(self) -> bytes:
        """The state as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def thawed(cls, data: bytes) -> AuditState:
        """What `frozen` wrote."""
        return _frozen.decode(data)


_frozen = msgspec.json.Decoder(AuditState)
UNREAD = AuditState()
