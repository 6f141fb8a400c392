"""Where the vectors of messages lie: a table for each model, and a register of how far each has come."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, NamedTuple
from uuid import UUID

import msgspec
from msgspec import Struct
from psycopg import AsyncConnection, Connection
from psycopg.errors import FeatureNotSupported, InsufficientPrivilege, UndefinedFile
from psycopg.rows import args_row, tuple_row

from bichat.errors import NotSimilar
from bichat.projections.sql import filled, statement

INDEXED = 4_000
"""Dimensions up to which pgvector can make an index; with more, all vectors of a person are compared."""
_IN_ROW = 3_900
_NEEDED = [0, 8]
"""The first version that walks on in its index until enough has been found."""
KEPT = 60.0
"""Seconds that the vectors of a model are kept which is asked no more."""
_LOOKED = 50_000
"""Positions of the log in which erasures are looked for at once."""

Vector = Sequence[float]


class Store(NamedTuple):
    """Where a model's vectors are, and in which schema pgvector is."""

    number: int
    vector: str

    @property
    def table(self) -> str:
        """Its name."""
        return f"bichat.vectors_{self.number}"

    def sql(self, block: str, **more: str) -> bytes:
        """A statement on it."""
        return filled("vectors", block, table=self.table, vector=self.vector, **more)


class Model(Struct, frozen=True):
    """A model in the register; `error` is what ails it, if anything does."""

    number: int
    name: str
    dimensions: int
    state: Literal["building", "serving", "retired"]
    position: int
    erased: int
    error: str
    updated_at: datetime


class Serving(NamedTuple):
    """The model whose vectors are searched."""

    store: Store
    name: str
    dimensions: int


class Embedded(Struct, frozen=True, kw_only=True):
    """A message with its vector; `position` is that of its event in the log."""

    message_id: UUID
    dialogue_id: UUID
    tenant_id: UUID
    user_id: str
    digest: str
    embedding: str
    position: int


def written(vector: Vector) -> str:
    """As Postgres reads it."""
    return "[" + ",".join(f"{number:.7g}" for number in vector) + "]"


def read(text: str) -> tuple[float, ...]:
    """As Postgres writes it."""
    return tuple(msgspec.json.decode(text, type=list[float]))


# --- for who asks ----------------------------------------------------------------------------------


async def serving(connection: AsyncConnection[Any]) -> Serving:
    """What is searched; raises `NotSimilar` when that is nothing, saying why."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(statement("vectors", "extension"))
        schema = usable(await cursor.fetchone())
        await cursor.execute(statement("vectors", "serving"))
        row = await cursor.fetchone()
    if row is None:
        raise NotSimilar(why="no worker has made embeddings of what is there yet")
    number, name, dimensions = row
    return Serving(Store(number, schema), name, dimensions)


def usable(row: tuple[Any, ...] | None) -> str:
    """The schema that pgvector is in; raises `NotSimilar` where it cannot be used."""
    schema, version, available = row or (None, None, False)
    if schema is None and not available:
        raise NotSimilar(why="the database server has no pgvector")
    if schema is None:
        raise NotSimilar(why="the extension vector is not in this database: a superuser has to create it")
    if version < _NEEDED:
        raise NotSimilar(why=f"pgvector is {'.'.join(map(str, version))} here; it takes 0.8 or newer")
    return f'"{schema}"'


# --- for the worker --------------------------------------------------------------------------------


def prepare(connection: Connection[Any]) -> str:
    """The schema that pgvector is in, made if need be; raises `NotSimilar`."""
    with suppress(NotSimilar):
        return there(connection)
    with suppress(InsufficientPrivilege, FeatureNotSupported, UndefinedFile):  # and then it is not there
        connection.execute(statement("vectors", "install"))
    return there(connection)


def there(connection: Connection[Any]) -> str:
    """The schema that pgvector is in; raises `NotSimilar` where it cannot be used."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        return usable(cursor.execute(statement("vectors", "extension")).fetchone())


def head(connection: Connection[Any]) -> int:
    """The position of the log's newest event."""
    row = connection.execute(statement("vectors", "head")).fetchone()
    return int(row[0]) if row else 0


def models(connection: Connection[Any]) -> list[Model]:
    """All that are registered, oldest first."""
    with connection.cursor(row_factory=args_row(Model)) as cursor:
        return cursor.execute(statement("vectors", "models")).fetchall()


def register(connection: Connection[Any], name: str, dimensions: int, vector: str) -> None:
    """Makes an empty table for a model that has none; others that were being built are given up."""
    with connection.transaction():
        connection.execute(statement("vectors", "newest_first"))
        if any(model.name == name and model.state != "retired" for model in models(connection)):
            return
        connection.execute(statement("vectors", "give_up"), (name,))
        row = connection.execute(statement("vectors", "register"), (name, dimensions)).fetchone()
        store = Store(row[0] if row else 0, vector)
        storage = "plain" if dimensions <= _IN_ROW else "external"
        made = store.sql("create", dimensions=str(dimensions), storage=storage)
        for several in (made, filled("versions", "guard", table=store.table)):
            connection.execute(several, prepare=False)


def serve(connection: Connection[Any], model: Model, vector: str) -> None:
    """Lets a model that has caught up be searched, in the place of the one before it."""
    store = Store(model.number, vector)
    indexed = connection.execute(statement("vectors", "indexed"), (store.table,)).fetchone()
    if model.dimensions <= INDEXED and indexed == (False,):
        connection.execute(store.sql("index"))
    with connection.transaction():
        connection.execute(statement("vectors", "newest_first"))
        connection.execute(statement("vectors", "retire"))
        connection.execute(statement("vectors", "serve"), (model.number,))


def drop_left(connection: Connection[Any], vector: str, after: float = KEPT) -> list[int]:
    """Takes away the vectors that nobody asks for any more; returns the numbers of their models."""
    left = [number for (number,) in connection.execute(statement("vectors", "left"), (after,)).fetchall()]
    for number in left:
        with connection.transaction():
            connection.execute(Store(number, vector).sql("drop"))
            connection.execute(statement("vectors", "forget"), (number,))
    return left


def known(connection: Connection[Any], store: Store, digests: Sequence[bytes]) -> dict[str, str]:
    """The vectors of texts that were embedded before, as written, by digest in hexadecimal."""
    found = connection.execute(store.sql("known"), (list(digests),)).fetchall()
    return {digest.hex(): text for digest, text in found}


def add(connection: Connection[Any], store: Store, new: Sequence[Embedded], since: int, upto: int) -> bool:
    """Stores vectors and moves the model from one position of the log to another: both or nothing.

    Of a dialogue that was erased meanwhile nothing is stored. False: somebody else has moved it, or it
    is not wanted any more.
    """
    with connection.transaction():
        connection.execute(statement("vectors", "hold"), (store.number,))
        values = {"number": store.number, "from": since, "to": upto}
        if connection.execute(statement("vectors", "advance"), values).rowcount != 1:
            return False
        dialogues = list({one.dialogue_id for one in new})
        gone = dict(connection.execute(statement("vectors", "erased_later"), (dialogues,)).fetchall())
        kept = [one for one in new if one.position > gone.get(one.dialogue_id, 0)]
        if kept:
            connection.execute(store.sql("add"), (msgspec.json.encode(kept).decode(),))
    return True


def erase(connection: Connection[Any], store: Store) -> None:
    """Takes away what was erased in the log since the last time, wherever the model stands."""
    with connection.transaction():
        row = connection.execute(statement("vectors", "hold"), (store.number,)).fetchone()
        if row is None or row[0] >= row[1]:
            return
        upto = min(row[1], row[0] + _LOOKED)
        connection.execute(store.sql("erase"), {"from": row[0], "to": upto})
        connection.execute(statement("vectors", "erased"), (upto, store.number))
