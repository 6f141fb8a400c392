"""The real things that tests run on: Postgres (a migrated database for each test), Valkey, llmock.

Without `DATABASE_URL` a Postgres and a Valkey of bichat's own are started once per session, in a
directory that goes away; with it, that server is used (its user must be able to create databases).
`llmock` is the fixture of the package of that name: a real server, scripted per test.
"""

from __future__ import annotations

import itertools
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from bichat.config import Config
from bichat.embedded import owned
from bichat.events import schema
from bichat.projections import versions

_NO_MODEL = "http://127.0.0.1:9/v1"  # the discard port: nothing answers, and no small model is started


@pytest.fixture(scope="session")
def servers() -> Iterator[Config]:
    """A config with `database_url` (of a server, not of a test) and `redis_url`."""
    with tempfile.TemporaryDirectory(prefix="bichat-tests-") as directory:
        config = Config(
            bichat_data_dir=Path(directory) / "data",
            database_url=os.environ.get("DATABASE_URL"),
            redis_url=os.environ.get("REDIS_URL"),
            openai_base_url=_NO_MODEL,
        )
        with owned(config) as started:
            yield started.config


@pytest.fixture(scope="session")
def new_database(servers: Config) -> Iterator[Callable[[], str]]:
    """Makes a database as `bichat migrate` leaves it and returns its URL; all are dropped at the end."""
    names, numbers = f"bichat_test_{secrets.token_hex(4)}", itertools.count()
    assert servers.database_url is not None
    server, made = servers.database_url, []
    with psycopg.connect(server, autocommit=True) as connection:

        def create(template: str | None = None) -> str:
            name = f"{names}_{next(numbers)}"
            source = sql.SQL("TEMPLATE {}").format(sql.Identifier(template)) if template else sql.SQL("")
            connection.execute(sql.SQL("CREATE DATABASE {} {}").format(sql.Identifier(name), source))
            made.append(name)
            return name

        template = create()
        _migrate(_url(server, template))
        yield lambda: _url(server, create(template))
        for name in made:
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def database_url(new_database: Callable[[], str]) -> str:
    """A migrated, empty database for this test alone."""
    return new_database()


@pytest.fixture(scope="module")
def module_database_url(new_database: Callable[[], str]) -> str:
    """A migrated database shared by the tests of one module."""
    return new_database()


@pytest.fixture(scope="session")
def redis_url(servers: Config) -> str:
    """A Valkey for the session: tests use keys and channels with ids of their own."""
    assert servers.redis_url is not None
    return servers.redis_url


def _migrate(url: str) -> None:
    """What `wiring.migrate` does, but for the master key: each test brings its own."""
    schema.migrate(url)
    schema.migrate(url, schema.KEYS)
    with schema.connect(url) as connection:
        versions.ensure(connection)


def _url(server: str, database: str) -> str:
    return urlsplit(server)._replace(path=f"/{database}").geturl()
