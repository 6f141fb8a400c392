"""What every kind of stream has: a small state that decisions are made on, folded from its events."""

from __future__ import annotations

from typing import ClassVar, Protocol, Self
from uuid import UUID

from bichat.events.envelope import Event


class State(Protocol):
    """A stream as far as deciding needs it; pure, blind to text, and small at any length."""

    fold_version: ClassVar[int]
    """Raised whenever `after` changes, so that snapshots of the old fold are not used."""

    @property
    def tenant_id(self) -> UUID | None:
        """Whose it is; None before its first event."""

    @property
    def owner(self) -> str:
        """The person whose key seals the text in it; empty when there is none."""

    @property
    def weight(self) -> int:
        """Its size in entries, beside what is always there."""

    def after(self, event: Event) -> Self:
        """The state with one more event."""

    def frozen(self) -> bytes:
        """As stored in a snapshot."""

    @classmethod
    def thawed(cls, data: bytes) -> Self:
        """What `frozen` wrote."""
