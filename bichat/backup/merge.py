"""Brings data keys back from their file; never one that was destroyed, here, there, or as the log says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from psycopg import Connection

from bichat.backup import agree, keys
from bichat.backup.sql import filled, statement
from bichat.errors.backup import BackupDamaged, RestoreRefused
from bichat.errors.unusable import WrongMasterKey
from bichat.events import schema
from bichat.events.keys import data_keys
from bichat.events.keys.masters import fingerprint
from bichat.projections.processes import Database


class Merged(Struct, frozen=True, kw_only=True):
    """What a file has brought."""

    keys: int
    """That were not known here."""
    destroyed: int
    """Of them, without a secret: who had them was forgotten."""
    reopened: int
    """Erasures that the log does not know yet."""


def restore(database: Database, path: Path) -> Merged:
    """Merges a file into the keys store, all or nothing.

    Raises `NotABackup`, `BackupDamaged`, `BackupTooNew`, `WrongMasterKey`, `RestoreRefused`.
    """
    keys.check(path)
    schema.migrate(database.keys_url, schema.KEYS, name="KEYS_DATABASE_URL")
    given = {fingerprint(key) for key in (database.master_key, database.old_master_key) if key}
    with schema.connect(database.url) as log:
        known = agree.said(log)
        has_events = agree.has_events(log)
    with schema.connect(database.keys_url, name="KEYS_DATABASE_URL") as connection:
        connection.prepare_threshold = None  # blocks of several statements
        with connection.transaction():
            connection.execute(statement("keys", "lock"))
            _stage(connection, path)
            _refuse(connection, given)
            new, destroyed = _merge(connection, known)
            reopened = agree.settle(known, connection) if has_events else 0
    return Merged(keys=new, destroyed=destroyed, reopened=reopened)


def _stage(connection: Connection[Any], path: Path) -> None:
    columns = {}
    for table in keys.TABLES:
        connection.execute(filled("keys", "stage", table=table))
        rows = connection.execute(statement("tables", "columns"), (f"bichat_keys.{table}",)).fetchall()
        columns[table] = [name for name, _ in rows]
    for table, rows in keys.lines(path):
        given = msgspec.json.decode(rows[0], type=dict[str, object])
        if table not in columns or not set(given) <= set(columns[table]):
            raise BackupDamaged(path=path, reason=f"it has a table {table} of another form")
        names = ", ".join(name for name in columns[table] if name in given)
        connection.execute(filled("keys", "come", table=table, columns=names), (rows,))


def _refuse(connection: Connection[Any], given: set[str]) -> None:
    used = {master for (master,) in connection.execute(statement("keys", "masters"))}
    if not used <= given:
        raise WrongMasterKey()
    row = connection.execute(statement("keys", "clashes")).fetchone()
    if row and row[0]:
        raise RestoreRefused(reason=f"{row[0]} persons have other keys here: the file is of another bichat")


def _merge(connection: Connection[Any], known: agree.Said) -> tuple[int, int]:
    for block in ("fresh", "merge_master", "merge_erasures"):
        connection.execute(statement("keys", block))
    tenants, users, times = known.persons()
    values = {"void": known.void, "tenants": tenants, "users": users, "times": times}
    found = [whole for (whole,) in connection.execute(statement("keys", "merge_data_keys"), values)]
    for block in ("destroy", "merge_signing_keys", "merge_anchor", "merge_set_backs", "in_use"):
        connection.execute(statement("keys", block))
    data_keys.changed(connection)
    return len(found), found.count(False)
