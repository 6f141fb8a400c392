"""The finished rows alone, copied from as many threads as there are cores: nothing is read or folded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

from bichat.projections.processes import cores
from bichat.projections.runner import connect

CHUNK = 4_000_000
"""Bytes of rows in one COPY."""
_TABLES = r"""
select c.oid::regclass::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'bichat' and c.relkind = 'r' and c.relname ~ '_v\d+_g\d+'
"""


def taken(connection: psycopg.Connection[Any], url: str) -> float:
    """Seconds that the rows of all read models take, ready made and without indexes."""
    with _copies(connection) as chunks:
        connection.execute("checkpoint")
        started = time.perf_counter()
        with ThreadPoolExecutor(cores()) as pool:
            list(pool.map(lambda chunk: _copy(url, *chunk), chunks))
        return time.perf_counter() - started


def _copy(url: str, table: str, rows: bytes) -> None:
    query = SQL("copy finished.{} from stdin").format(Identifier(table))
    with closing(connect(url)) as connection, connection.cursor().copy(query) as copied:
        copied.write(rows)


@contextmanager
def _copies(connection: psycopg.Connection[Any]) -> Iterator[list[tuple[str, bytes]]]:
    """Empty tables such as the read models have, for a while, and what is to go into them."""
    connection.execute("create schema finished")
    chunks = []
    try:
        for (qualified,) in connection.execute(_TABLES).fetchall():
            table = qualified.rpartition(".")[2]
            made = f"create table finished.{table} (like {qualified} including storage)"
            connection.execute(made.encode())
            chunks += [(table, rows) for rows in _chunks(connection, qualified)]
        yield chunks
    finally:
        connection.execute("drop schema finished cascade")


def _chunks(connection: psycopg.Connection[Any], qualified: str) -> Iterator[bytes]:
    held, size = list[bytes](), 0
    with connection.cursor() as cursor, cursor.copy(f"copy {qualified} to stdout".encode()) as rows:
        for row in rows:
            held.append(bytes(row))
            size += len(row)
            if size > CHUNK:
                yield b"".join(held)
                held, size = [], 0
    if held:
        yield b"".join(held)
