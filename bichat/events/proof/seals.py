"""What a seal says, in a form that is final: how far the log was sealed, over which heads, by whom."""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct
from msgspec.structs import replace
from psycopg import Connection
from psycopg.rows import tuple_row

from bichat.events.proof import merkle

FIRST = bytes(32)
"""What the first seal names as the one before."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Seal(Struct, frozen=True, kw_only=True):
    """Every event up to `position` is under this seal or one before; `root` is over `streams` leaves."""

    number: int
    position: int
    events: int
    """New under this one."""
    streams: int
    at: datetime
    root: bytes
    previous: bytes
    public_key: bytes
    signature: bytes = b""

    def signed(self) -> bytes:
        """What is signed: everything but the signature, at fixed lengths."""
        numbers = (self.number, self.position, self.events, self.streams)
        at = (self.at - _EPOCH) // timedelta(microseconds=1)
        fixed = b"".join(n.to_bytes(8, "big", signed=True) for n in (*numbers, at))
        return b"bichat.log-seal.1" + fixed + self.root + self.previous + self.public_key

    @property
    def hash(self) -> bytes:
        """By which the next seal, and the anchor, name this one."""
        return hashlib.sha256(self.signed()).digest()

    def signed_with(self, key: Ed25519PrivateKey) -> Seal:
        """This seal with its signature; `public_key` is that of `key` already."""
        return replace(self, signature=key.sign(self.signed()))

    def is_signed(self, known: Container[bytes]) -> bool:
        """Whether the signature is right, and by one of the public keys that are `known`."""
        if self.public_key not in known or any(len(one) != 32 for one in (self.root, self.previous)):
            return False  # at other lengths, what is signed could be read in several ways
        try:
            Ed25519PublicKey.from_public_bytes(self.public_key).verify(self.signature, self.signed())
        except (InvalidSignature, ArithmeticError, TypeError, ValueError):  # also of what nobody signs
            return False
        return True


class Leaf(NamedTuple):
    """Where one stream stood when it was sealed."""

    stream_id: UUID
    tenant_id: UUID
    version: int
    seal: int
    leaf: bytes


def leaf(tenant_id: UUID, stream_id: UUID, version: int, hash_: bytes) -> bytes:
    """The leaf of a stream whose event at `version` has this hash."""
    return merkle.leaf(tenant_id.bytes + stream_id.bytes + version.to_bytes(8, "big") + hash_)


class Stored(NamedTuple):
    """A row of `bichat.seals`, which somebody may have changed."""

    seal: Seal
    hash: bytes
    leaves: list[bytes] | None
    """In their order; None where they were not asked for."""


_SEALS = """
select number, position, events, streams, at, root, previous, public_key, signature, hash,
       case when number = any(%(deep)s::bigint[]) or number > %(after)s
            then array(select {leaves}) end
from bichat.seals order by number
"""
_AS_READER = _SEALS.format(leaves="bichat.leaves_of(number)")
# A function in the log that is checked could have been replaced: who may, looks for himself.
_AS_OWNER = _SEALS.format(leaves="leaf from bichat.seal_leaves where seal = number order by stream_id")
_RECENT = """
select number, position, events, streams, at, root, previous, public_key, signature, hash,
       case when number = any(%(deep)s::bigint[]) then array(select bichat.leaves_of(number)) end
from bichat.seals where number = any(%(deep)s::bigint[]) or number >= %(first)s order by number
"""
_NEWEST = """
select number, position, events, streams, at, root, previous, public_key, signature, hash, null
from bichat.seals order by number desc limit 1
"""
_BEFORE = _NEWEST.replace("order by", "where number < %s order by")
_SEAL = _NEWEST.replace("order by number desc limit 1", "where number = %s")


def read(connection: Connection[Any], deep: Sequence[int] = (), *, owner: bool = False) -> Iterator[Stored]:
    """Every seal in order, within the caller's transaction; with leaves those in `deep` and all later ones.

    A stream's newest seal is known only once it is sure that no later one has lost its leaf.
    """
    with connection.cursor("seals", binary=True, row_factory=tuple_row) as cursor:
        query = _AS_OWNER if owner else _AS_READER
        cursor.execute(query.encode(), {"deep": list(deep), "after": max(deep, default=0)})
        while rows := cursor.fetchmany(4):
            yield from map(stored, rows)


def recent(connection: Connection[Any], over: Sequence[int], first: int) -> Iterator[Stored]:
    """In order: those `over` something, with their leaves, and all from number `first` on, without."""
    with connection.cursor("recent", binary=True, row_factory=tuple_row) as cursor:
        cursor.execute(_RECENT.encode(), {"deep": list(over), "first": first})
        while rows := cursor.fetchmany(4):
            yield from map(stored, rows)


def newest(connection: Connection[Any]) -> Stored | None:
    """The last seal."""
    row = connection.execute(_NEWEST.encode(), binary=True).fetchone()
    return stored(row) if row else None


def newest_of(connection: Connection[Any], known: Container[bytes]) -> Stored | None:
    """The newest seal that is what was hashed, and signed by one of the public keys that are `known`."""
    one = newest(connection)
    while one and not (one.seal.hash == one.hash and one.seal.is_signed(known)):
        row = connection.execute(_BEFORE.encode(), (one.seal.number,), binary=True).fetchone()
        one = stored(row) if row else None
    return one


def numbered(connection: Connection[Any], number: int) -> Stored | None:
    """One seal."""
    row = connection.execute(_SEAL.encode(), (number,), binary=True).fetchone()
    return stored(row) if row else None


def stored(row: Sequence[Any]) -> Stored:
    """A row of all columns and, last, the leaves."""
    number, position, events, streams, at, root, previous, public_key, signature, hash_, leaves = row
    seal = Seal(
        number=number, position=position, events=events, streams=streams, at=at.astimezone(UTC), root=root,
        previous=previous, public_key=public_key, signature=signature,
    )  # fmt: skip
    return Stored(seal, hash_, leaves)
