"""SQL out of the `.sql` files beside the code, in blocks that start with `-- name: NAME`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import resources
from typing import Any
from uuid import UUID

import msgspec
from psycopg import Connection
from psycopg.rows import tuple_row

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
_JSONB, _TEXT = 3802, 25
_NULL = "\\N"
_ESCAPED = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r", "\x00": "\ufffd"})
_COPIED = 100
"""Rows that are turned into text at once."""
_CHUNK = 8 * 1024 * 1024
"""Bytes of JSON in one statement: JSONB holds 256 MB at most, and so does a careful server."""


@cache
def blocks(file: str, package: str = "bichat.projections") -> dict[str, str]:
    """The named blocks of `FILE.sql`."""
    text = (resources.files(package) / f"{file}.sql").read_text()
    _, *parts = _NAME.split(text)
    return {name: block.strip() for name, block in zip(parts[::2], parts[1::2], strict=True)}


@cache
def statement(file: str, block: str, package: str = "bichat.projections") -> bytes:
    """A block that names no read model of its own version."""
    return blocks(file, package)[block].encode()


def filled(file: str, block: str, **names: str) -> bytes:
    """A block with names of ours filled in: of tables, columns, keys."""
    return blocks(file)[block].format(**names).encode()


def find(connection: Connection[Any], query: bytes, *keys: list[Any]) -> list[tuple[Any, ...]]:
    """The rows that `query` finds for arrays of keys; without keys it is not asked."""
    if not keys[0]:
        return []
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query, keys).fetchall()


def write(connection: Connection[Any], query: bytes, rows: Iterable[dict[str, Any]]) -> None:
    """Runs `query`, which takes an array of objects as JSON, over `rows`: once, or in chunks of 8 MB."""
    for chunk in _chunks(rows):
        connection.execute(query, (chunk,))


def copy(connection: Connection[Any], table: str, rows: Sequence[dict[str, Any]]) -> None:
    """Loads rows that all have the same columns, without looking at what is there."""
    if not rows:
        return
    names = ", ".join(rows[0])
    shape = connection.execute(f"select {names} from {table} limit 0".encode()).description or ()  # noqa: S608
    types = [column.type_code for column in shape]
    with connection.cursor() as cursor, cursor.copy(f"copy {table} ({names}) from stdin".encode()) as copied:
        for first in range(0, len(rows), _COPIED):
            values = zip(*(row.values() for row in rows[first : first + _COPIED]), strict=True)
            columns = [_column(column, type_) for column, type_ in zip(values, types, strict=True)]
            copied.write("".join(["\t".join(line) + "\n" for line in zip(*columns, strict=True)]))


def _column(values: Sequence[Any], type_: int) -> list[str]:
    """Values as COPY reads them; by columns, which is several times as fast as psycopg's `write_row`."""
    if type_ == _JSONB:
        # JSON has no control characters, so that only its backslashes have to be doubled.
        texts = [v if v is None else _without_nul(msgspec.json.encode(v)).decode() for v in values]
        return [_NULL if text is None else text.replace("\\", "\\\\") for text in texts]
    plain = msgspec.to_builtins(values)  # ids and times to text
    if type_ == _TEXT:
        return [_NULL if v is None else v.translate(_ESCAPED) for v in plain]
    return [_NULL if v is None else _array_text(v) if type(v) is list else str(v) for v in plain]


def _array_text(values: Iterable[Any]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    held: list[bytes] = []
    size = 0
    for row in rows:
        encoded = _without_nul(msgspec.json.encode(row))
        if held and size + len(encoded) > _CHUNK:
            yield _array(held)
            held, size = [], 0
        held.append(encoded)
        size += len(encoded)
    if held:
        yield _array(held)


def _array(rows: list[bytes]) -> str:
    return (b"[" + b",".join(rows) + b"]").decode()


def _without_nul(data: bytes) -> bytes:
    """Postgres' text has no NUL: one that got into the log must not stop its readers."""
    return _NUL.sub(rb"\1\\ufffd", data) if rb"\u0000" in data else data


def pairs(ids: Iterable[tuple[UUID, UUID]]) -> tuple[list[UUID], list[UUID]]:
    """Two columns for `unnest`."""
    both = list(ids)
    return [a for a, _ in both], [b for _, b in both]
