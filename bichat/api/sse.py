"""Server-sent events as bytes, and the mark in each from which a client can go on."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Struct

from bichat.errors import Invalid

HEARTBEAT = b":\n\n"
_RETRY = 1000
"""Milliseconds until a client that was cut off comes back."""

_encode = msgspec.json.Encoder().encode
_MARK = re.compile(r"\d{1,18}(\.\d{1,18}){5}")


class Mark(Struct, frozen=True):
    """How far a stream has got; its text is the `id:` of an event and what a client resumes from."""

    version: int = 0
    """Every change up to here was told."""
    number: int = 0
    """Events told, over all resumptions."""
    seq: int = 0
    """Of the question whose reply is being told; 0: none is."""
    attempt: int = 0
    segments: int = 0
    """Of that attempt that were told."""
    face: int = 0
    """A checksum of the dialogue's state and label as they were last told."""

    def __str__(self) -> str:
        return f"{self.version}.{self.number}.{self.seq}.{self.attempt}.{self.segments}.{self.face}"

    @classmethod
    def read(cls, field: str, text: str) -> Mark:
        """The mark in `text`; raises `Invalid`, naming `field`."""
        if not _MARK.fullmatch(text):
            raise Invalid(field=field, reason="is not the id of an event of a stream")
        return cls(*map(int, text.split(".")))


def resumable(mark: Mark) -> bytes:
    """When to come back, and from where, should the stream be cut before its next event."""
    return b"retry: %d\nid: %s\n\n" % (_RETRY, str(mark).encode())


def event(mark: Mark, kind: str, data: dict[str, Any]) -> bytes:
    """One event."""
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (str(mark).encode(), kind.encode(), _line(data))


def _line(data: dict[str, Any]) -> bytes:
    """JSON without the line ends that are none to SSE but that many clients split at: NEL, LS, PS."""
    line = _encode(data)
    for raw, escaped in (
        (b"\xc2\x85", b"\\u0085"),
        (b"\xe2\x80\xa8", b"\\u2028"),
        (b"\xe2\x80\xa9", b"\\u2029"),
    ):
        line = line.replace(raw, escaped)
    return line
