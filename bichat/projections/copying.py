"""Rows into tables by COPY, in its binary form: ids and times need not become text and be read again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from psycopg import Connection
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format

from bichat.projections.sql import without_nul

_END = b"\0\0\0"
"""Of a word, and that there are no places in which it stands."""


def copy(connection: Connection[Any], table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Loads rows that all have the same columns in the same order, without looking at what is there."""
    if not rows:
        return
    names = ", ".join(rows[0])
    shape = connection.execute(f"select {names} from {table} limit 0".encode()).description or ()  # noqa: S608
    with connection.cursor() as cursor:
        for dumper in (_Int4, _Text, _Json, _Words):
            cursor.adapters.register_dumper(None, dumper)
        with cursor.copy(f"copy {table} ({names}) from stdin (format binary)".encode()) as copied:
            copied.set_types([column.type_code for column in shape])
            for row in rows:
                copied.write_row(tuple(row.values()))


class _Binary(Dumper):
    format = Format.BINARY


class _Int4(_Binary):
    """Raises `OverflowError` for what does not fit; psycopg's own lets the upper bits go."""

    oid = types["int4"].oid

    def dump(self, obj: int) -> bytes:
        return obj.to_bytes(4, "big", signed=True)


class _Text(_Binary):
    """Without NUL, which text in Postgres has not: one that got into the log must not stop its readers."""

    oid = types["text"].oid

    def dump(self, obj: str) -> bytes:
        return obj.replace("\x00", "\ufffd").encode()


class _Json(_Binary):
    """Whatever msgspec encodes."""

    oid = types["jsonb"].oid

    def dump(self, obj: Any) -> bytes:
        return b"\x01" + without_nul(msgspec.json.encode(obj))


class _Words(_Binary):
    """Different words with a blank between each two. Postgres sorts them, but keeps what is there twice."""

    oid = types["tsvector"].oid

    def dump(self, obj: str) -> bytes:
        if not obj:
            return bytes(4)
        return (obj.count(" ") + 1).to_bytes(4, "big") + obj.encode().replace(b" ", _END) + _END
