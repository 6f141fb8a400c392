"""Writes a dialogue so that it proves itself: sealed first, read under row-level security, line by line."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidTag
from msgspec import convert
from psycopg import Connection
from psycopg.rows import tuple_row

from bichat import __version__
from bichat.audit.exported import VERSION, Ending, Line, Manifest, Path, Proof, encoded
from bichat.errors import NotFound
from bichat.events import envelope
from bichat.events.codec import StoredRow, key_ids, stored_state
from bichat.events.history import STRANGE, audit_events
from bichat.events.keys.store import KeyStore
from bichat.events.proof import merkle, seals
from bichat.events.recorder import stored_row
from bichat.events.seal import GENESIS, SALT, PersonKey, Place, Sealed
from bichat.projections.sql import statement
from bichat.projections.verify import snapshot

_ROWS = 100


def tenant_of(connection: Connection[Any], stream_id: UUID) -> UUID:
    """Whose stream it is, also if only seals are left of it; raises `NotFound`."""
    row = connection.execute(_sql("tenant"), {"stream": stream_id}).fetchone()
    if row is None:
        raise NotFound(what="stream")
    tenant_id: UUID = row[0]
    return tenant_id


def bind(connection: Connection[Any], tenant_id: UUID) -> None:
    """From now on the connection sees this tenant's rows and nothing else, and changes nothing."""
    connection.execute(_sql("reader"), prepare=False)
    connection.execute(statement("reads", "bind"), (str(tenant_id),))


def expect_dialogue(connection: Connection[Any], dialogue_id: UUID) -> None:
    """Raises `NotFound` unless the connection sees that there is, or was, such a dialogue."""
    row = connection.execute(_sql("tenant"), {"stream": dialogue_id}).fetchone()
    if row is None or (row[1] and envelope.subject(row[1]) != "dialogue"):
        raise NotFound(what="dialogue")


def export(connection: Connection[Any], keys: KeyStore, dialogue_id: UUID) -> Generator[bytes, None, None]:
    """The lines, with their ends, up to the newest seal over the dialogue; sees what the connection may see.

    Raises `NotFound` before the first one. Texts are opened while they are written: those that are erased
    meanwhile are not in it.
    """
    with snapshot(connection):
        expect_dialogue(connection, dialogue_id)
        manifest, ending = _ends(connection, dialogue_id)
        yield encoded(manifest) + b"\n"
        previous = GENESIS
        for rows in _read(connection, dialogue_id, manifest.events):
            for row in rows:
                vars(row)["prev_hash"], previous = previous, row.hash
            yield b"".join(encoded(line) + b"\n" for line in _lines(rows, keys))
        yield encoded(ending) + b"\n"


def _ends(connection: Connection[Any], dialogue_id: UUID) -> tuple[Manifest, Ending]:
    leaf = connection.execute(_sql("leaf"), {"stream": dialogue_id}).fetchone()
    stored = seals.numbered(connection, leaf[0]) if leaf else None
    if leaf is None or stored is None:
        raise NotFound(what="seal over this dialogue")
    leaves = [one for (one,) in connection.execute("select bichat.leaves_of(%s)", (leaf[0],))]
    index = leaves.index(leaf[3])
    manifest = Manifest(
        format="bichat.dialogue", version=VERSION, dialogue_id=dialogue_id, tenant_id=leaf[1], events=leaf[2],
        exported_at=datetime.now(UTC), code=__version__,
    )  # fmt: skip
    return manifest, Ending(seal=stored.seal, path=Path(index=index, hashes=merkle.path(leaves, index)))


def _read(connection: Connection[Any], dialogue_id: UUID, upto: int) -> Iterator[list[StoredRow]]:
    with connection.cursor("export", binary=True, row_factory=tuple_row) as cursor:
        cursor.execute(_sql("rows"), {"stream": dialogue_id, "upto": upto})
        while found := cursor.fetchmany(_ROWS):
            yield [stored_row(columns) for columns in found]


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
