"""Brings a database to the form this code needs: plain numbered SQL, applied once, in order."""

from __future__ import annotations

from importlib import resources
from typing import Any

import psycopg
from psycopg import sql

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


def migrate(url: str, schema: str = LOG, *, name: str = "DATABASE_URL") -> list[str]:
    """Applies what is missing and returns its names; two at once do no harm, the second finds nothing to do.

    `name` is the variable that errors blame.

    Raises `DatabaseUnreachable`, `DatabaseUnsuitable` (server too old, rights missing) or `DatabaseTooNew`.
    """
    with connect(url, name=name) as connection:
        _suitable(connection)
        lock = f"{schema}.migrate"
        connection.execute("select pg_advisory_lock(hashtextextended(%s, 0))", (lock,))
        try:
            missing = _missing(connection, schema)
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
    found, known = _applied(connection, schema), [name for name, _ in _known(schema)]
    if set(found) - set(known):
        raise DatabaseTooNew(found=max(found), known=known[-1])
    if found != known:
        raise DatabaseTooOld(found=found[-1] if found else "none", known=known[-1])


def newest(connection: psycopg.Connection[Any], schema: str = LOG) -> str:
    """The last migration applied."""
    return max(_applied(connection, schema), default="none")


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


def _applied(connection: psycopg.Connection[Any], schema: str) -> list[str]:
    if connection.execute("select to_regclass(%s)", (f"{schema}.migrations",)).fetchone() == (None,):
        return []
    query = sql.SQL("select name from {} order by name").format(sql.Identifier(schema, "migrations"))
    return [name for (name,) in connection.execute(query)]


def _missing(connection: psycopg.Connection[Any], schema: str) -> list[tuple[str, str]]:
    known, applied = _known(schema), set(_applied(connection, schema))
    unknown = applied - {name for name, _ in known}
    if unknown:
        raise DatabaseTooNew(found=max(unknown), known=known[-1][0])
    return [(name, text) for name, text in known if name not in applied]


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
