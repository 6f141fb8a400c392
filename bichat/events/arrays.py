"""Arrays as Postgres takes them in binary, put together at once: the driver calls a method per element."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import TypeVar
from uuid import UUID

from psycopg import Connection
from psycopg.adapt import Dumper
from psycopg.postgres import types
from psycopg.pq import Format
from psycopg.types import TypeInfo

_head = struct.Struct("!iiIii").pack
"""Dimensions, whether nulls may occur, the elements' type, how many they are, the number of the first."""
_length = struct.Struct("!i").pack
_NULL, _4, _8, _16 = map(_length, (-1, 4, 8, 16))


class Array(bytes):
    """Encoded elements; a class for each type, for the driver chooses by class how to say what it is."""

    element: TypeInfo


class Uuids(Array):
    """`uuid[]`."""

    element = types["uuid"]


class Bigints(Array):
    """`bigint[]`."""

    element = types["int8"]


class Ints(Array):
    """`int[]`."""

    element = types["int4"]


class Texts(Array):
    """`text[]`."""

    element = types["text"]


class Byteas(Array):
    """`bytea[]`."""

    element = types["bytea"]


A = TypeVar("A", bound=Array)


def uuids(values: Iterable[UUID | None]) -> Uuids:
    """Some of them may be null."""
    return _array(Uuids, [_NULL if one is None else _16 + one.bytes for one in values])


def bigints(values: Iterable[int]) -> Bigints:
    """Of 64 bits each; raises `OverflowError`."""
    return _array(Bigints, [_8 + one.to_bytes(8, "big", signed=True) for one in values])


def ints(values: Iterable[int]) -> Ints:
    """Of 32 bits each; raises `OverflowError`."""
    return _array(Ints, [_4 + one.to_bytes(4, "big", signed=True) for one in values])


def texts(values: Iterable[str | None]) -> Texts:
    """Some of them may be null."""
    encoded = (None if one is None else one.encode() for one in values)
    return _array(Texts, [_NULL if one is None else _length(len(one)) + one for one in encoded])


def byteas(values: Iterable[bytes]) -> Byteas:
    """None of them is null."""
    return _array(Byteas, [_length(len(one)) + one for one in values])


def teach(connection: Connection[object]) -> None:
    """Lets this connection take arrays of ours."""
    for dumper in _DUMPERS:
        connection.adapters.register_dumper(*dumper)


def _array(kind: type[A], elements: Sequence[bytes]) -> A:
    """Of elements that each begin with their length."""
    if not elements:
        return kind(_head(0, 0, kind.element.oid, 0, 0)[:12])
    return kind(_head(1, 1, kind.element.oid, len(elements), 1) + b"".join(elements))


def _dumper(kind: type[Array]) -> type[Dumper]:
    class ArrayDumper(Dumper):
        format = Format.BINARY
        oid = kind.element.array_oid

        def dump(self, obj: Array) -> Array:
            return obj

    return ArrayDumper


_DUMPERS = [(kind, _dumper(kind)) for kind in Array.__subclasses__()]
