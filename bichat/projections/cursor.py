"""Cursors: the place in a list where the next page begins, as one opaque word."""

from __future__ import annotations

import base64
import binascii
from typing import TypeVar

import msgspec

from bichat.errors import Invalid

T = TypeVar("T")


def write(place: object) -> str:
    """`place` (a tuple of plain values) as a cursor."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(place)).rstrip(b"=").decode()


def read(cursor: str, kind: type[T], field: str = "after") -> T:
    """The place that `cursor` stands for; raises `Invalid` naming `field` when it is none of this `kind`."""
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.msgpack.decode(data, type=kind)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise Invalid(field=field, reason="is not a cursor that this list gave out") from None
