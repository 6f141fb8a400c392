"""How a person's text is sealed inside an event, and how events are chained by hash.

Both forms are final. A sealed field is `[scheme, key id, commitment, box]`: the box is nonce and
AES-256-GCM ciphertext of a random salt and the text, the commitment is the SHA-256 of salt and text.
Salt and text prove the commitment to anyone; without the key nobody can guess against it.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Callable
from typing import Any, Protocol
from uuid import UUID

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from bichat.errors import EventUnreadable
from bichat.events.envelope import Kind

SCHEME = 1
GENESIS = bytes(32)
"""What the first event of a stream is chained to."""

SALT = 16
"""Bytes before each text that is sealed."""
_NONCE = 12


class Sealed(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A private field as stored."""

    scheme: int
    key_id: UUID
    commitment: bytes
    box: bytes


msgspec.json.Decoder(Sealed)  # prepares it, as `envelope.fact` does its facts


class Opener(Protocol):
    """What opens sealed fields; None: it cannot be had."""

    def open(self, sealed: Sealed, place: bytes, /) -> str | None:
        """The text; raises `InvalidTag` when anything was changed or moved."""


class PersonKey:
    """The one way to a person's text in the log, and to digests that go with it."""

    def __init__(self, key_id: UUID, secret: bytes) -> None:
        self.key_id = key_id
        self._cipher = AESGCM(derive(secret, b"bichat.seal.1"))
        self._digest = hmac.new(derive(secret, b"bichat.digest.1"), digestmod="sha256")

    def seal(self, text: str, place: bytes) -> Sealed:
        """Seals `text` so that it opens only at `place` (tenant, stream, version, kind, field)."""
        # Asked for at once: each time the other threads go on meanwhile, and one waits for them.
        random = os.urandom(_NONCE + SALT)
        nonce, salted = random[:_NONCE], random[_NONCE:] + text.encode()
        box = nonce + self._cipher.encrypt(nonce, salted, place)
        return Sealed(SCHEME, self.key_id, hashlib.sha256(salted).digest(), box)

    def open(self, sealed: Sealed, place: bytes) -> str:
        """The text; raises `InvalidTag` when anything was changed or moved."""
        return self.salted(sealed, place)[SALT:].decode()

    def salted(self, sealed: Sealed, place: bytes) -> bytes:
        """Salt and text; raises `InvalidTag` likewise."""
        return self._cipher.decrypt(sealed.box[:_NONCE], sealed.box[_NONCE:], place)

    def digest(self, purpose: str, data: bytes) -> bytes:
        """A keyed digest (HMAC-SHA256, 32 bytes) that tells nothing once the key is destroyed."""
        digest = self._digest.copy()
        digest.update(purpose.encode() + b"\x00" + data)
        return digest.digest()


def derive(secret: bytes, purpose: bytes) -> bytes:
    """A 32-byte key for one purpose (HKDF-SHA256)."""
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=purpose).derive(secret)


class Place(msgspec.Struct, frozen=True, gc=False):
    """Where an event stands; binds its sealed fields to it."""

    tenant_id: UUID
    stream_id: UUID
    version: int
    topic: str

    def of(self, field: str) -> bytes:
        """The associated data of one field."""
        fixed = b"bichat.field.1" + self.tenant_id.bytes + self.stream_id.bytes
        return fixed + self.version.to_bytes(8, "big") + f"{self.topic}\x00{field}".encode()

    def unreadable(self, reason: str) -> EventUnreadable:
        """What is raised when the event here cannot be read."""
        return EventUnreadable(kind=self.topic, version=self.version, stream=self.stream_id, reason=reason)


def seal_fields(data: dict[str, Any], kind: Kind, place: Place, key: PersonKey) -> dict[str, Any]:
    """`data` with every private text in it sealed; `""` (not given) stays as it is."""
    return {
        name: key.seal(value, place.of(name)) if value and name in kind.private else value
        for name, value in data.items()
    }


def open_fields(
    data: dict[str, Any], kind: Kind, place: Place, find: Callable[[UUID], Opener | None]
) -> dict[str, Any]:
    """`data` with every sealed field opened; `None` where the key is gone.

    Raises `EventUnreadable` when a field was tampered with or its scheme is unknown.
    """
    opened = dict(data)
    for name in kind.private:
        if isinstance(value := data.get(name), list):
            opened[name] = _open(msgspec.convert(value, Sealed), name, place, find)
    return opened


def blank_fields(data: dict[str, Any], kind: Kind) -> dict[str, Any]:
    """`data` with every sealed field as `None`: what deciding needs, without a key."""
    return {
        name: None if name in kind.private and isinstance(value, list) else value
        for name, value in data.items()
    }


def _open(sealed: Sealed, name: str, place: Place, find: Callable[[UUID], Opener | None]) -> str | None:
    if sealed.scheme != SCHEME:
        raise place.unreadable(f"the field {name} has the unknown scheme {sealed.scheme}")
    try:
        key = find(sealed.key_id)
    except InvalidTag:  # it may come back: nobody is told that the text is erased
        raise place.unreadable(f"the key of the field {name} is damaged") from None
    if key is None:
        return None
    try:
        return key.open(sealed, place.of(name))
    except InvalidTag:
        raise place.unreadable(f"the field {name} was changed or moved") from None


def chain(prev_hash: bytes, place: Place, command_id: UUID, state: bytes) -> bytes:
    """The hash of an event over what is stored of it and the hash of the event before it (32 bytes)."""
    topic = place.topic.encode()
    return hashlib.sha256(
        b"".join((
            b"bichat.event.1", prev_hash, place.tenant_id.bytes, place.stream_id.bytes,
            place.version.to_bytes(8, "big"), len(topic).to_bytes(2, "big"), topic, command_id.bytes, state,
        ))
    ).digest()  # fmt: skip
