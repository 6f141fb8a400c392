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
_JSONB = 3802
_CHUNK = 8 * 1024 * 1024
"""Bytes of JSON in one statement: JSONB holds 256 MB at most, and so does a careful server."""


@cache
def blocks(file: str) -> dict[str, str]:
    """The named blocks of `FILE.sql`."""
    text = (resources.files("bichat.projections") / f"{file}.sql").read_text()
    _, *parts = _NAME.split(text)
    return {name: block.strip() for name, block in zip(parts[::2], parts[1::2], strict=True)}


@cache
def statement(file: str, block: str) -> bytes:
    """A block that names no read model of its own version."""
    return blocks(file)[block].encode()


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
    columns = tuple(rows[0])
    names = ", ".join(columns)
    shape = connection.execute(f"select {names} from {table} limit 0".encode()).description or ()  # noqa: S608
    as_json = [column.type_code == _JSONB for column in shape]
    with connection.cursor() as cursor, cursor.copy(f"copy {table} ({names}) from stdin".encode()) as copied:
        for row in rows:
            copied.write_row([_field(value, json) for value, json in zip(row.values(), as_json, strict=True)])


def _field(value: Any, as_json: bool) -> Any:
    if value is None:
        return None
    if as_json:
        return _without_nul(msgspec.json.encode(value)).decode()
    if isinstance(value, str) and "\x00" in value:
        return value.replace("\x00", "\ufffd")
    return value


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
