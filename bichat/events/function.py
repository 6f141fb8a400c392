"""The fact that a function was offered to a tenant's models in some form.

Replies name the functions that they offered by digest; what that stands for is here, in a stream of its
own, so that the request to the model can be built again when the code has long moved on.
"""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID, uuid5

import msgspec
from msgspec import Struct

from bichat.events.envelope import Event, Fact, Subject, fact

_NAMES = UUID("c2b8f0d4-3a1e-5f6b-8e1d-7f4a90b16e03")
"""Under which the ids of these streams are made; final."""


def stream_of(tenant_id: UUID, digest: str) -> UUID:
    """The stream of one form of a function, as a tenant's models were offered it."""
    return uuid5(_NAMES, f"{tenant_id}/{digest}")


@fact()
class FunctionDescribed(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """From here on models may be offered a function in this form."""

    subject: ClassVar[Subject] = "function"

    name: str
    digest: str
    """SHA-256 of `schema`, hexadecimal."""
    schema: str
    """JSON, as the model is shown it."""


class FunctionState(Struct, frozen=True):
    """Whether it is described, and to whom."""

    tenant_id: UUID | None = None

    fold_version: ClassVar[int] = 1
    owner: ClassVar[str] = ""
    weight: ClassVar[int] = 0

    def after(self, event: Event) -> FunctionState:
        """The state after `event`."""
        return FunctionState(event.tenant_id)

    def frozen(self) -> bytes:
        """The state as JSON."""
        return msgspec.json.encode(self)

    @classmethod
    def thawed(cls, data: bytes) -> FunctionState:
        """What `frozen` wrote."""
        return _frozen.decode(data)


_frozen = msgspec.json.Decoder(FunctionState)
UNKNOWN = FunctionState()
