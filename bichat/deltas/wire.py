"""What goes through Redis while a reply is written: words, hints, and under which names."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import msgspec
from msgspec import Struct
from redis.exceptions import RedisError

from bichat import unsaid

PAUSE = 1.0
"""Seconds without a try after Redis did not answer."""

LOST = (RedisError, OSError, TypeError)
"""A connection that does not work; asyncio since 3.12 raises `TypeError` on writing to one just closed."""


class Said(Struct, frozen=True):
    """Words of an attempt, said after its dialogue's version `after`; `n` counts from 1, so a gap shows."""

    message_id: UUID
    attempt: int
    n: int
    text: str
    after: int = 0


class Hint(Struct, frozen=True):
    """Something happened. "reset": words may have been missed, replay them and read again."""

    kind: Literal["projected", "end", "reset", "rung"]
    version: int = 0
    message_id: UUID | None = None
    attempt: int = 0


class Wire(Struct, omit_defaults=True):
    """What goes over a channel."""

    t: str = "rung"
    m: UUID | None = None
    a: int = 0
    n: int = 0
    text: str = ""
    v: int = 0

    def heard(self) -> Said | Hint | None:
        """For a follower; None when it is of a newer kind."""
        if self.t == "delta" and self.m:
            return Said(self.m, self.a, self.n, self.text, self.v)
        if self.t in ("projected", "end", "rung"):
            return Hint(self.t, self.v, self.m, self.a)  # type: ignore[arg-type]  # checked on the line above
        return None


_wire = msgspec.json.Decoder(Wire)


def read(data: str) -> Said | Hint | None:
    """What was heard on a channel."""
    try:
        return _wire.decode(data).heard()
    except ValueError:
        return Hint("rung")


def words(said: Said) -> bytes:
    """As they go over a channel."""
    wire = Wire("delta", said.message_id, said.attempt, said.n, said.text, said.after)
    return msgspec.json.encode(wire)


def key(dialogue_id: UUID, message_id: UUID, attempt: int) -> str:
    """Of the words of an attempt."""
    return f"{unsaid.WORDS}{dialogue_id}:{message_id}:{attempt}"


def channel(dialogue_id: UUID) -> str:
    """Where its followers listen."""
    return f"bichat:dialogue:{dialogue_id}"
