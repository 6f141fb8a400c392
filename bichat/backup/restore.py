"""Brings a log back from its backup: who was forgotten stays so, and nobody serves before it is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

from msgspec import Struct
from psycopg import Connection

from bichat.backup import forgotten
from bichat.backup.found import found
from bichat.backup.load import load
from bichat.backup.manifest import Backup, Manifest
from bichat.backup.sql import statement
from bichat.errors.backup import RestoreRefused
from bichat.events import schema
from bichat.events.proof.signing import Signer
from bichat.projections import rebuild, versions
from bichat.projections.processes import Database, cores
from bichat.projections.verify import Progress

_PATIENCE = 3.0
"""Seconds in which sessions may end whose process has just been stopped."""


class Restored(Struct, frozen=True, kw_only=True):
    """What has come back."""

    manifest: Manifest
    forgotten: int
    """Erasures that the backup did not know, done again."""
    unsaid: list[UUID]
    """Those done again of which the log cannot say so: what is there of their persons cannot be read."""
    lost_seal: int | None
    """The newest seal before, when the backup does not have it."""


def restore(database: Database, directory: Path, progress: Progress) -> Restored:
    """Restores a backup into a database without events, or goes on with what was interrupted.

    Raises `NotABackup`, `BackupDamaged`, `BackupTooNew`, `RestoreRefused`, `WrongMasterKey`, and what its
    steps raise; after any of them it may be called again.
    """
    backup = found(directory, schema.known(), progress)
    _unlock(database, backup)
    with _claimed(database.url) as connection:
        if not _loaded(connection, backup):
            _begin(connection, database.url, backup)
            load(connection, backup, progress)
        schema.migrate(database.url)
        again = forgotten.again(database, progress)
        _build(connection, database, progress)
        lost = _set_back(connection, database)
        connection.execute(statement("restores", "done"))
    return Restored(manifest=backup.manifest, forgotten=again.done, unsaid=again.unsaid, lost_seal=lost)


def _unlock(database: Database, backup: Backup) -> None:
    """Before anything is touched: are these the keys?"""
    schema.migrate(database.keys_url, schema.KEYS, name="KEYS_DATABASE_URL")
    with closing(database.key_store()) as keys:
        keys.unlock()
    with schema.connect(database.keys_url, name="KEYS_DATABASE_URL") as connection:
        row = connection.execute(statement("restores", "keys")).fetchone()
        # A trial must not make the log that these keys are of forget anybody.
        _alone(connection, "database" if database.keys_url == database.url else "keys store")
    if row == (False,) and backup.manifest.position:  # it knows nobody who was forgotten either
        raise RestoreRefused(reason="the keys store is empty; run `bichat keys restore FILE` first")


@contextmanager
def _claimed(url: str) -> Iterator[Connection[Any]]:
    """A connection that is the only one of bichat's; raises `RestoreRefused`."""
    with schema.connect(url) as connection:
        connection.prepare_threshold = None  # blocks of several statements
        if connection.execute(statement("restores", "claim")).fetchone() != (True,):
            raise RestoreRefused(reason="another process is restoring this database")
        _alone(connection)
        yield connection


def _alone(connection: Connection[Any], what: str = "database") -> None:
    deadline = time.monotonic() + _PATIENCE
    while row := connection.execute(statement("restores", "others")).fetchone():
        if time.monotonic() > deadline:
            raise RestoreRefused(reason=f"bichat is running on this {what} ({row[0]}): stop it first")
        time.sleep(0.05)


def _loaded(connection: Connection[Any], backup: Backup) -> bool:
    """Whether the backup's rows are there already; raises `RestoreRefused` when any others are."""
    log, restores = connection.execute(statement("restores", "there")).fetchone() or (False, False)
    row = connection.execute(statement("restores", "under_way")).fetchone() if restores else None
    if row and row[2] == "loaded":
        if row[0] != backup.digest:
            made_at = row[1].isoformat(timespec="seconds")
            raise RestoreRefused(reason=f"a restore of the backup made at {made_at} is to be finished first")
        return True
    if log and any(connection.execute(statement("restores", "used")).fetchone() or ()):
        raise RestoreRefused(reason="the database has events already; restore into an empty one")
    return False


def _begin(connection: Connection[Any], url: str, backup: Backup) -> None:
    """An empty log of the backup's form; from here on nobody else starts, and nobody has."""
    manifest = backup.manifest
    connection.execute(statement("restores", "raze"))
    schema.migrate(url, upto=max(manifest.migrations))
    values = (backup.digest, manifest.made_at, manifest.position)
    connection.execute(statement("restores", "begin"), values)
    try:
        _alone(connection)
    except RestoreRefused:
        connection.execute(statement("restores", "abandon"))
        raise


def _build(connection: Connection[Any], database: Database, progress: Progress) -> None:
    """The read models; a dialogue that cannot be digested is parked, and keeps no other from coming back."""
    if missing := versions.missing(connection):
        rebuild.rebuild(database, missing, jobs=cores(), progress=progress, with_parked=True)


def _set_back(connection: Connection[Any], database: Database) -> int | None:
    """Says in the keys store which seals are gone, lest it be taken for tampering; returns the last."""
    kept = (connection.execute(statement("restores", "newest_seal")).fetchone() or (0,))[0]
    with closing(database.key_store()) as keys:
        keys.unlock()
        gone = Signer(keys).set_back(kept)
    return gone.lost if gone else None
