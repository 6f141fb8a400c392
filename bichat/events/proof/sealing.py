"""Seals the log: what is new since the last seal gets a signed root, one sealer at a time."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from psycopg import Connection

from bichat.events.proof import merkle, seals
from bichat.events.proof.seals import FIRST, Leaf, Seal, Stored, leaf
from bichat.events.proof.signing import Anchor, Signer

EVENTS = 100_000
"""Under one seal, at most: about 1 s of work, and 40 MB."""

_NEXT = """
select max(notification_id), count(*) from (
    select notification_id from bichat.stored_events where notification_id > %s
    order by notification_id limit %s) next
"""
_HEADS = """
select distinct on (originator_id) originator_id, tenant_id, originator_version, hash
from bichat.stored_events where notification_id > %s and notification_id <= %s
order by originator_id, originator_version desc
"""
_SEAL = """
insert into bichat.seals (number, position, events, streams, at, root, previous, public_key, signature, hash)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
_LEAVES = """
insert into bichat.seal_leaves (stream_id, tenant_id, version, seal, leaf)
select * from unnest(%b::uuid[], %b::uuid[], %b::bigint[], %b::bigint[], %b::bytea[])
"""

log = logging.getLogger(__name__)


def seal(connection: Connection[Any], signer: Signer, most: int = EVENTS) -> Seal | None:
    """Seals the next events, `most` at most; None when there are none. In autocommit mode.

    Position order is commit order, so up to the last position that is seen there will be nothing new.
    Waits 10 s at most for another sealer, then raises `psycopg.errors.LockNotAvailable`.
    """
    with _alone(connection):
        newest, remembered = seals.newest(connection), signer.remembered()
        if (
            newest
            and not _is_behind(newest, remembered.anchor)
            and newest.seal.is_signed(remembered.public_keys)
        ):
            signer.anchor(newest.seal)  # whoever sealed it ended before that
        sound = seals.newest_of(connection, remembered.public_keys)
        after = sound.seal.position if sound else 0
        if _head(connection) <= after:
            return None
        before = _before(newest, remembered.anchor)
        if newest and newest != sound:  # what it says of its position counts for nothing
            log.error("Seal %d was changed: `bichat audit verify` says more", newest.seal.number)
        key = signer.key()  # before the log is held: it is in another database
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read")
            new = _next(connection, after, before, key, most)
        if new:
            signer.anchor(new)
        return new


def seal_all(connection: Connection[Any], signer: Signer) -> Iterator[Seal]:
    """Seals everything that is in the log now, in as many seals as it takes."""
    head, position = _head(connection), 0
    while position < head and (new := seal(connection, signer)):
        yield new
        position = new.position


def _head(connection: Connection[Any]) -> int:
    row = connection.execute("select bichat.head()").fetchone()
    return row[0] if row else 0


def _next(
    connection: Connection[Any], after: int, before: tuple[int, bytes], key: Ed25519PrivateKey, most: int
) -> Seal | None:
    row = connection.execute(_NEXT, (after, most)).fetchone()
    if not row or not row[1]:
        return None
    heads = connection.execute(_HEADS, (after, row[0]), binary=True).fetchall()
    number, previous = before
    leaves = [Leaf(s, t, version, number + 1, leaf(t, s, version, hash_)) for s, t, version, hash_ in heads]
    new = Seal(
        number=number + 1, position=row[0], events=row[1], streams=len(leaves), at=datetime.now(UTC),
        root=merkle.root([one.leaf for one in leaves]), previous=previous,
        public_key=key.public_key().public_bytes_raw(),
    ).signed_with(key)  # fmt: skip
    connection.execute(
        _SEAL,
        (new.number, new.position, new.events, new.streams, new.at, new.root, new.previous, new.public_key,
         new.signature, new.hash),
    )  # fmt: skip
    connection.execute(_LEAVES.encode(), tuple(map(list, zip(*leaves, strict=True))))
    return new


def _before(newest: Stored | None, anchor: Anchor | None) -> tuple[int, bytes]:
    """What the next seal follows: the newest one, or that of the anchor when that is gone.

    So nothing is covered up: numbers go on after the gap, and the hash of what is missing stays named.
    """
    if anchor and _is_behind(newest, anchor):
        if newest is None or newest.seal.number < anchor.number:
            log.error("Seal %d is gone: `bichat audit verify` says more", anchor.number)
        return anchor.number, anchor.hash
    return (newest.seal.number, newest.seal.hash) if newest else (0, FIRST)


def _is_behind(newest: Stored | None, anchor: Anchor | None) -> bool:
    """Whether the newest seal is older than the anchor, or another one."""
    if anchor is None or newest is None:
        return anchor is not None
    number, hash_ = newest.seal.number, newest.seal.hash
    return number < anchor.number or (number == anchor.number and hash_ != anchor.hash)


@contextmanager
def _alone(connection: Connection[Any]) -> Iterator[None]:
    connection.execute("set lock_timeout = '10s'")
    connection.execute("select pg_advisory_lock(hashtextextended('bichat.seal', 0))")
    try:
        yield
    finally:
        if not connection.closed and not connection.broken:
            connection.execute("select pg_advisory_unlock(hashtextextended('bichat.seal', 0))")
