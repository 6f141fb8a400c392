"""Writes a backup of the log while everything goes on."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from psycopg import Connection

from bichat import __version__
from bichat.backup.directory import Making, new
from bichat.backup.manifest import DIGESTS, MANIFEST, TABLES, Manifest, Table
from bichat.backup.sql import filled, statement
from bichat.events import schema
from bichat.projections.verify import Progress

# By COPY and not by pg_dump: the server that bichat brings along comes without it, another machine's may be
# older than the server, and what is wanted is these rows and nothing else, whatever schema they go back into.
# In COPY's binary form: half as long as its text, and as old as the types used.


class Written(Struct, frozen=True, kw_only=True):
    """A backup that is there now."""

    path: Path
    manifest: Manifest
    size: int
    """In bytes."""


def back_up(url: str, directory: Path, progress: Progress) -> Written:
    """Writes log, receipts and seals as of one moment; in constant memory, and nobody waits for it.

    Raises `BackupFailed`, and whatever the database does; then there is no such directory.
    """
    with new(directory) as making, schema.connect(url) as connection, connection.transaction():
        connection.execute(statement("tables", "snapshot"))
        manifest = _described(connection)
        for name in TABLES:
            manifest.tables[name] = _copied(connection, making, name, manifest.position, progress)
        making.plain(MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)) + b"\n")
        lines = [f"{digest}  {name}\n" for name, digest in making.digests.items()]
        making.plain(DIGESTS, "".join(lines).encode())
    return Written(path=directory, manifest=manifest, size=making.size)


def _described(connection: Connection[Any]) -> Manifest:
    head = connection.execute(statement("tables", "head")).fetchone() or (0, 0)
    return Manifest(
        bichat=__version__, postgres=connection.info.server_version, made_at=datetime.now(UTC),
        migrations=schema.applied(connection), position=head[0], seal=head[1], tables={},
    )  # fmt: skip


def _copied(
    connection: Connection[Any], making: Making, name: str, position: int, progress: Progress
) -> Table:
    columns = dict(connection.execute(statement("tables", "columns"), (f"bichat.{name}",)).fetchall())
    query = filled("tables", "out", table=name, columns=", ".join(columns), order=TABLES[name])
    file, rows = f"{name}.copy.zst", 0
    with connection.cursor() as cursor, making.compressed(file) as out:
        with cursor.copy(query) as copied:
            for row in copied:  # as the server sends them: one at a time
                out.write(row)
                rows += 1
                if name == "stored_events" and rows % 10_000 == 0:  # positions have few gaps
                    progress("copying", min(rows, position), position)
        if name == "stored_events":
            progress("copying", position, position)
        return Table(file=file, columns=columns, rows=cursor.rowcount)
