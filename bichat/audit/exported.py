"""An export of one dialogue, line by line: lines are exactly what `encoded` writes, byte by byte."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from bichat.events.history import AuditEvent
from bichat.events.proof.seals import Seal

VERSION = 1


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The first line. Nothing of it is proven but the ids and the number of events."""

    format: Literal["bichat.dialogue"]
    version: int
    dialogue_id: UUID
    tenant_id: UUID
    events: int
    exported_at: datetime
    code: str
    """The version of bichat that wrote this."""


class Proof(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was hashed, and the salt of each text that is shown. Bytes are in base64."""

    state: bytes
    salts: dict[str, bytes]


class Line(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One event; of it, `position` and `recorded_at` are not proven."""

    event: AuditEvent
    proof: Proof


class Path(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the dialogue's leaf leads to the root of the seal."""

    index: int
    hashes: list[bytes]


class Ending(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The last line: the newest seal over the dialogue."""

    seal: Seal
    path: Path


_encoder = msgspec.json.Encoder()


def encoded(line: Manifest | Line | Ending) -> bytes:
    """A line of the file, without its end."""
    return _encoder.encode(line)
