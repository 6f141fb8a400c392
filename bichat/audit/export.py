"""Writes a dialogue so that it proves itself: read under row-level security, a page at a time."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from anyio import CapacityLimiter, to_thread
from cryptography.exceptions import InvalidTag
from msgspec import convert

from bichat import __version__
from bichat.audit.exported import VERSION, Ending, Line, Manifest, Path, Proof, encoded
from bichat.audit.log import BYTES, TenantLog
from bichat.errors import ChainBroken, NotFound
from bichat.events import envelope
from bichat.events.codec import StoredRow, key_ids, stored_state
from bichat.events.history import STRANGE, audit_events
from bichat.events.keys.store import KeyStore
from bichat.events.proof import merkle, seals
from bichat.events.proof.seals import leaf
from bichat.events.seal import GENESIS, SALT, PersonKey, Place, Sealed, chain
from bichat.projections.sql import statement

ROWS = 100
"""Read at once."""


def expect_dialogue(found: Sequence[tuple[Any, ...]]) -> None:
    """Raises `NotFound` unless a stream was found, by the block `tenant`, that is or was a dialogue."""
    if not found or (found[0][1] and envelope.subject(found[0][1]) != "dialogue"):
        raise NotFound(what="dialogue")


async def export(
    log: TenantLog, keys: KeyStore, dialogue_id: UUID, limiter: CapacityLimiter
) -> AsyncGenerator[bytes, None]:
    """The lines, with their ends, up to the newest seal over the dialogue; of what the tenant sees.

    Raises `NotFound` before the first one, and `ChainBroken` when what is read is not what was sealed.
    Nothing is held while nobody asks for more: what is sealed does not change, so it is read page by page.
    Texts are opened while they are written: those that are erased meanwhile are not in it.
    """
    expect_dialogue(await log.rows(_sql("tenant"), {"stream": dialogue_id}))
    manifest, ending, head = _ends(dialogue_id, await log.rows(_sql("ends"), {"stream": dialogue_id}))
    waiting, last, hash_ = encoded(manifest) + b"\n", 0, GENESIS
    while last < manifest.events:
        rows = await log.stream(dialogue_id, after=last, upto=manifest.events, limit=ROWS, bytes=BYTES)
        if not rows:
            raise ChainBroken(version=last + 1, reason="it is gone")
        for row in rows:
            last, hash_ = last + 1, _chained(row, last + 1, hash_)
        yield waiting + await to_thread.run_sync(_written, rows, keys, limiter=limiter)
        waiting = b""
    if leaf(manifest.tenant_id, dialogue_id, last, hash_) != head:
        raise ChainBroken(version=last, reason="it is not what was sealed")
    yield encoded(ending) + b"\n"


def _chained(row: StoredRow, version: int, previous: bytes) -> bytes:
    """Its hash, if it is the one that is due."""
    if row.originator_version != version:
        raise ChainBroken(version=version, reason=f"version {row.originator_version} stands in its place")
    vars(row)["prev_hash"] = previous
    place = Place(row.tenant_id, UUID(str(row.originator_id)), version, row.topic)
    if chain(previous, place, row.command_id, row.state) != row.hash:
        raise ChainBroken(version=version, reason="its hash does not fit what is stored")
    return row.hash


def _ends(dialogue_id: UUID, found: Sequence[tuple[Any, ...]]) -> tuple[Manifest, Ending, bytes]:
    if not found:
        raise NotFound(what="seal over this dialogue")
    [(tenant_id, version, head, *columns)] = found
    stored = seals.stored(columns)
    leaves = stored.leaves or []
    if head not in leaves:
        raise ChainBroken(version=version, reason="its leaf is not under the seal")
    manifest = Manifest(
        format="bichat.dialogue", version=VERSION, dialogue_id=dialogue_id, tenant_id=tenant_id,
        events=version, exported_at=datetime.now(UTC), code=__version__,
    )  # fmt: skip
    index = leaves.index(head)
    return manifest, Ending(seal=stored.seal, path=Path(index=index, hashes=merkle.path(leaves, index))), head


class _Held:
    """The keys of some rows, as they are now: text and salt come from the same."""

    def __init__(self, rows: Sequence[StoredRow], keys: KeyStore) -> None:
        ids = {key_id for row in rows for key_id in key_ids(row)}
        self._damaged = keys.prepare_ids(ids)
        self._keys = {key_id: keys.by_id(key_id) for key_id in ids - self._damaged}

    def prepare_ids(self, key_ids: Iterable[UUID], /) -> None:
        pass

    def by_id(self, key_id: UUID, /) -> PersonKey | None:
        if key_id in self._damaged:
            raise InvalidTag
        return self._keys.get(key_id)


def _written(rows: Sequence[StoredRow], keys: KeyStore) -> bytes:
    return b"".join(encoded(line) + b"\n" for line in _lines(rows, keys))


def _lines(rows: Sequence[StoredRow], keys: KeyStore) -> Iterator[Line]:
    held = _Held(rows, keys)
    for row, event in zip(rows, audit_events(rows, held), strict=True):
        yield Line(event=event, proof=Proof(state=row.state, salts=_salts(row, held)))


def _salts(row: StoredRow, held: _Held) -> dict[str, bytes]:
    """Of each text that can be opened; of what cannot be read there are none."""
    salts = {}
    try:
        data, entry = stored_state(row).data, envelope.kind(row.topic)
        place = Place(row.tenant_id, UUID(str(row.originator_id)), row.originator_version, row.topic)
        for name in entry.private:
            if isinstance(value := data.get(name), list):
                sealed = convert(value, Sealed)
                if key := held.by_id(sealed.key_id):
                    salts[name] = key.salted(sealed, place.of(name))[:SALT]
    except (*STRANGE, InvalidTag):
        return {}
    return salts


def _sql(block: str) -> bytes:
    return statement("export", block, "bichat.audit")
