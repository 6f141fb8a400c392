"""Migrations: all or nothing, once, by whoever may, and never beneath newer code."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from bichat.errors.unusable import DatabaseTooNew, DatabaseTooOld, DatabaseUnreachable, DatabaseUnsuitable
from bichat.events import schema


@pytest.fixture
def empty(database_url: str) -> Iterator[str]:
    """A database with nothing in it."""
    name = f"bichat_empty_{secrets.token_hex(4)}"
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield urlsplit(database_url)._replace(path=f"/{name}").geturl()
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def as_user(url: str, name: str) -> str:
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    query = parts.query.replace(f"user={parts.username}", f"user={name}") if parts.query else ""
    return parts._replace(netloc=f"{name}:secret@{host}", query=query).geturl()


def test_four_at_once_do_no_harm(empty: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(schema.migrate, [empty] * 4))
    assert sorted(map(len, applied))[:3] == [0, 0, 0]
    with schema.connect(empty) as connection:
        schema.check(connection)


def test_a_database_that_is_behind_or_ahead_is_refused(empty: str) -> None:
    with schema.connect(empty) as connection:
        with pytest.raises(DatabaseTooOld, match="bichat migrate"):
            schema.check(connection)
        schema.migrate(empty)
        connection.execute("insert into bichat.migrations values ('9999_future')")
        with pytest.raises(DatabaseTooNew, match="install the newer"):
            schema.check(connection)
    with pytest.raises(DatabaseTooNew):
        schema.migrate(empty)


def test_a_database_that_is_not_there_is_one_line_without_the_password() -> None:
    with pytest.raises(DatabaseUnreachable) as refused:
        schema.connect("postgresql://me:topsecret@127.0.0.1:9/x", name="KEYS_DATABASE_URL")
    assert str(refused.value).startswith("KEYS_DATABASE_URL cannot be reached")
    assert "topsecret" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.fixture
def owner(empty: str) -> Iterator[str]:
    """The empty database, seen by its owner, who is nothing else; `bichat_reader` is there already."""
    name = f"owner_{secrets.token_hex(4)}"
    database = urlsplit(empty).path[1:]
    with psycopg.connect(empty, autocommit=True) as connection:
        connection.execute(sql.SQL("create role {} login password 'secret'").format(sql.Identifier(name)))
        connection.execute(
            sql.SQL("alter database {} owner to {}").format(sql.Identifier(database), sql.Identifier(name))
        )
        yield as_user(empty, name)
        connection.execute(
            sql.SQL("alter database {} owner to current_user").format(sql.Identifier(database))
        )
        connection.execute(sql.SQL("drop owned by {} cascade").format(sql.Identifier(name)))
        connection.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_an_owner_who_was_granted_the_reader_may_migrate(owner: str, database_url: str) -> None:
    name = urlsplit(owner).username or ""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(sql.SQL("grant bichat_reader to {}").format(sql.Identifier(name)))
    schema.migrate(owner)
    with schema.connect(owner) as connection:
        schema.check(connection)
        connection.execute("set role bichat_reader")


def test_an_owner_who_was_not_is_told_what_is_missing(owner: str) -> None:
    with pytest.raises(DatabaseUnsuitable, match="bichat_reader"):
        schema.migrate(owner)
