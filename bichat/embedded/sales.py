"""The business database that bichat brings along, so that there is something to ask about."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg import Connection, sql

from bichat.embedded.figures import generated

DATABASE, READER = "sales", "sales_reader"
_MAKING = "sales_making"
_OWN = ("bichat", "postgres", "template1")
"""The other databases of the server."""

log = logging.getLogger(__name__)


def sales(server: str) -> str | None:
    """The URL of the sales database on the server of the URL `server`; it is made when there is none.

    None when it cannot be made: all else works without it.
    """
    try:
        with psycopg.connect(server, autocommit=True) as connection:
            there = connection.execute("select from pg_database where datname = %s", (DATABASE,)).fetchone()
            if there is None:
                _make(connection, server)
            else:  # perhaps by an earlier version, which gave the reader more
                with psycopg.connect(urlsplit(server)._replace(path=f"/{DATABASE}").geturl()) as sales:
                    sales.execute(_sql("reader"))
    except (psycopg.Error, OSError) as error:
        log.warning("the business database for a start cannot be made: %s", str(error).partition("\n")[0])
        return None
    return urlsplit(server)._replace(netloc=f"{READER}@", path=f"/{DATABASE}").geturl()


def _make(server: Connection[Any], url: str) -> None:
    """Under another name first: a start cut short leaves nothing half."""
    names = {"making": sql.Identifier(_MAKING), "sales": sql.Identifier(DATABASE)}
    server.execute(sql.SQL("drop database if exists {making} with (force)").format(**names))
    server.execute(sql.SQL("create database {making}").format(**names))
    with psycopg.connect(urlsplit(url)._replace(path=f"/{_MAKING}").geturl()) as connection:
        connection.execute(_sql("sales"))
        for table, rows in generated(datetime.now(UTC).date()).items():
            with connection.cursor().copy(f"copy {table} from stdin".encode()) as copy:
                for row in rows:
                    copy.write_row(row)
        connection.execute(_sql("reader"))
        connection.execute("analyze")
    for name in (_MAKING, *_OWN):
        database = sql.Identifier(name)
        server.execute(sql.SQL("revoke all on database {} from public").format(database))
    server.execute(sql.SQL("grant connect on database {making} to sales_reader").format(**names))
    server.execute(sql.SQL("alter database {making} rename to {sales}").format(**names))


def _sql(name: str) -> bytes:
    return (resources.files("bichat.embedded") / f"{name}.sql").read_bytes()
