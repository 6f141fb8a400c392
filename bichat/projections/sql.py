"""SQL out of the `.sql` files beside the code, in blocks that start with `-- name: NAME`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from typing import Any
from uuid import UUID

import msgspec
from psycopg import Connection
from psycopg.rows import tuple_row

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)
_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")
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


def _chunks(rows: Iterable[dict[str, Any]]) -> Iterator[str]:
    held: list[bytes] = []
    size = 0
    for row in rows:
        encoded = without_nul(msgspec.json.encode(row))
        if held and size + len(encoded) > _CHUNK:
            yield _array(held)
            held, size = [], 0
        held.append(encoded)
        size += len(encoded)
    if held:
        yield _array(held)


def _array(rows: list[bytes]) -> str:
    return (b"[" + b",".join(rows) + b"]").decode()


def without_nul(data: bytes) -> bytes:
    """Postgres' text has no NUL: one that got into the log must not stop its readers."""
    return _NUL.sub(rb"\1\\ufffd", data) if rb"\u0000" in data else data


def pairs(ids: Iterable[tuple[UUID, UUID]]) -> tuple[list[UUID], list[UUID]]:
    """Two columns for `unnest`."""
    both = list(ids)
    return [a for a, _ in both], [b for _, b in both]
