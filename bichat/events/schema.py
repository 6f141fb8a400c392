"""Brings a database to the form this code needs: plain numbered SQL, applied once, in order."""

from __future__ import annotations

from importlib import resources
from typing import Any

import psycopg
from psycopg import sql

from bichat.errors.backup import RestoreUnfinished
from bichat.errors.unusable import DatabaseTooNew, DatabaseTooOld, DatabaseUnreachable, DatabaseUnsuitable

LOG, KEYS = "bichat", "bichat_keys"
_FOLDERS = {LOG: "migrations", KEYS: "keys_migrations"}
_POSTGRES = 150_000


def connect(url: str, *, name: str = "DATABASE_URL", **options: Any) -> psycopg.Connection[Any]:
    """A connection in autocommit mode; raises `DatabaseUnreachable` naming the variable, without secrets."""
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="bichat", **options)
    except (psycopg.Error, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DatabaseUnreachable(name=name, reason=reason) from None


def migrate(url: str, schema: str = LOG, *, name: str = "DATABASE_URL", upto: str | None = None) -> list[str]:
    """Applies what is missing and returns its names; two at once do no harm, the second finds nothing to do.

    `name` is the variable that errors blame; `upto` is the last migration wanted, else all are.

    Raises `DatabaseUnreachable`, `DatabaseUnsuitable` (server too old, rights missing) or `DatabaseTooNew`.
    """
    with connect(url, name=name) as connection:
        _suitable(connection)
        lock = f"{schema}.migrate"
        connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", (lock,))
        try:
            missing = [one for one in _missing(connection, schema) if upto is None or one[0] <= upto]
            for migration, text in missing:
                _apply(connection, schema, migration, text)
            return [migration for migration, _ in missing]
        except psycopg.errors.InsufficientPrivilege as error:
            reason = f"The database user may not migrate: {error.diag.message_primary}"
            raise DatabaseUnsuitable(reason=reason) from None
        finally:
            connection.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", (lock,))


def check(connection: psycopg.Connection[Any], schema: str = LOG) -> None:
    """Raises `DatabaseTooOld` or `DatabaseTooNew` unless the schema is exactly this code's."""
    found, ours = applied(connection, schema), known(schema)
    if set(found) - set(ours):
        raise DatabaseTooNew(found=max(found), known=ours[-1])
    if found != ours:
        raise DatabaseTooOld(found=found[-1] if found else "none", known=ours[-1])
    if schema == LOG:
        refuse_half_restored(connection)


def refuse_half_restored(connection: psycopg.Connection[Any]) -> None:
    """Raises `RestoreUnfinished` while there is a restore that was not finished."""
    if connection.execute("select to_regclass('bichat.restores')").fetchone() != (None,):
        row = connection.execute("select made_at from bichat.restores where phase <> 'done'").fetchone()
        if row:
            raise RestoreUnfinished(made_at=row[0].isoformat(timespec="seconds"))


def known(schema: str = LOG) -> list[str]:
    """The migrations of this code, in order."""
    return [name for name, _ in _known(schema)]


def newest(connection: psycopg.Connection[Any], schema: str = LOG) -> str:
    """The last migration applied."""
    return max(applied(connection, schema), default="none")


def has_events(connection: psycopg.Connection[Any]) -> bool:
    """Whether anything ever happened in this log."""
    return connection.execute("select exists (select from bichat.stored_events)").fetchone() == (True,)


def _suitable(connection: psycopg.Connection[Any]) -> None:
    if connection.info.server_version < _POSTGRES:
        version = connection.info.server_version // 10_000
        raise DatabaseUnsuitable(reason=f"bichat needs PostgreSQL 15 or newer, the server is {version}.")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseUnsuitable(reason=f"The database's encoding must be UTF8, it is {encoding}.")


def _known(schema: str) -> list[tuple[str, str]]:
    folder = resources.files("bichat.events") / _FOLDERS[schema]
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return [(file.name.removesuffix(".sql"), file.read_text()) for file in files]


def applied(connection: psycopg.Connection[Any], schema: str = LOG) -> list[str]:
    """The migrations that the database has had, in order."""
    if connection.execute("select to_regclass(%s)", (f"{schema}.migrations",)).fetchone() == (None,):
        return []
    query = sql.SQL("select name from {} order by name").format(sql.Identifier(schema, "migrations"))
    return [name for (name,) in connection.execute(query)]


def _missing(connection: psycopg.Connection[Any], schema: str) -> list[tuple[str, str]]:
    ours, found = _known(schema), set(applied(connection, schema))
    unknown = found - {name for name, _ in ours}
    if unknown:
        raise DatabaseTooNew(found=max(unknown), known=ours[-1][0])
    return [(name, text) for name, text in ours if name not in found]


def _apply(connection: psycopg.Connection[Any], schema: str, name: str, text: str) -> None:
    with connection.transaction():
        if name.startswith("0001"):
            connection.execute(sql.SQL("create schema if not exists {}").format(sql.Identifier(schema)))
            connection.execute(
                sql.SQL(
                    "create table {} (name text primary key,"
                    " applied_at timestamptz not null default clock_timestamp())"
                ).format(sql.Identifier(schema, "migrations"))
            )
        connection.execute(text.encode())
        query = sql.SQL("insert into {} (name) values (%s)").format(sql.Identifier(schema, "migrations"))
        connection.execute(query, (name,))
