"""Loads the tables of a backup into a database that has none of their rows."""

from __future__ import annotations

import hashlib
from typing import Any, BinaryIO, cast

import zstandard
from psycopg import Connection

from bichat.backup.manifest import DIGESTS, Backup, Table
from bichat.backup.sql import filled, statement
from bichat.errors.backup import BackupDamaged, NotABackup
from bichat.projections.verify import Progress

_CHUNK = 1 << 18


def load(connection: Connection[Any], backup: Backup, progress: Progress) -> None:
    """Loads everything or nothing, and marks it, in one transaction.

    Raises `BackupDamaged` when files are no longer what they were when they were checked.
    """
    with connection.transaction():
        connection.execute(statement("tables", "exclusively"))
        for name, table in backup.manifest.tables.items():
            _load(connection, backup, name, table, progress)
        connection.execute(statement("tables", "position"), {"head": backup.manifest.position})
        connection.execute(statement("restores", "loaded"))
    for name in backup.manifest.tables:
        connection.execute(filled("tables", "analyze", table=name))


def _load(connection: Connection[Any], backup: Backup, name: str, table: Table, progress: Progress) -> None:
    here = dict(connection.execute(statement("tables", "columns"), (f"bichat.{name}",)).fetchall())
    for column, kind in table.columns.items():
        if here.get(column) != kind:  # by name, for the order may be another; never by guess
            raise NotABackup(path=backup.path, reason=f"{name}.{column} is no column of type {kind} here")
    query = filled("tables", "in", table=name, columns=", ".join(table.columns))
    with backup.open(table.file) as raw, connection.cursor() as cursor:
        file = _Digested(raw)
        try:
            with cursor.copy(query) as copy:
                reader = zstandard.ZstdDecompressor().stream_reader(cast(BinaryIO, file), closefd=False)
                while chunk := reader.read(_CHUNK):
                    copy.write(chunk)
                    if name == "stored_events" and file.read_bytes < file.size:
                        progress("restoring", file.read_bytes, file.size)
        except zstandard.ZstdError as error:
            raise BackupDamaged(path=backup.path, reason=f"{table.file}: {error}") from None
        if file.sha.hexdigest() != backup.digests[table.file]:
            raise BackupDamaged(path=backup.path, reason=f"{table.file} is not what {DIGESTS} says")
        if name == "stored_events":
            progress("restoring", file.size, file.size)
        if cursor.rowcount != table.rows:
            reason = f"{table.file} has {cursor.rowcount} rows, not {table.rows}"
            raise BackupDamaged(path=backup.path, reason=reason)


class _Digested:
    """Reads a file, and what it reads into a digest."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.sha = hashlib.sha256()
        self.size = file.seek(0, 2)
        self.read_bytes = 0
        file.seek(0)

    def read(self, size: int) -> bytes:
        """The next bytes."""
        chunk = self._file.read(size)
        self.sha.update(chunk)
        self.read_bytes += len(chunk)
        return chunk
