"""The real things that tests run on: Postgres (a migrated database for each test), Valkey, llmock.

Without `DATABASE_URL` a Postgres and a Valkey of bichat's own are started once per session, in a
directory that goes away; with it, that server is used (its user must be able to create databases).
Files are in memory where there is room: a database costs 40 ms of a core there, and 200 ms on a disk.
`llmock` is the fixture of the package of that name: a real server, scripted per test.
"""

from __future__ import annotations

import itertools
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
_MEMORY, _ROOM = Path("/dev/shm"), 2 * 1024**3  # what is killed and comes back finds its files there too

if _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM:
    os.environ["TMPDIR"] = tempfile.tempdir = str(_MEMORY)

_LONG = (
    "test_reply_process", "test_places", "test_cli", "backup/", "test_verify", "test_story", "test_erasing",
    "test_embed.", "test_browser", "test_dropped_streams", "test_tracing", "workers/",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first, every third one of chaos: those who run them end together."""
    files = list(dict.fromkeys(map(_file, items)))
    chaos = [file for file in files if "chaos/" in file]
    others = sorted(set(files) - set(chaos), key=lambda file: (not any(n in file for n in _LONG), file))
    places = {file: 3.0 * n for n, file in enumerate(chaos)}
    places |= {file: 1.5 * n + 1 for n, file in enumerate(others)}
    items.sort(key=lambda item: places[_file(item)])


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


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
def new_database(servers: Config) -> Iterator[Callable[[], AbstractContextManager[str]]]:
    """Opens, by its URL, an empty database as `bichat migrate` leaves it, and drops it afterwards."""
    assert servers.database_url is not None
    server = servers.database_url
    names = (f"bichat_test_{secrets.token_hex(4)}_{number}" for number in itertools.count())
    with psycopg.connect(server, autocommit=True) as connection:

        @contextmanager
        def database(template: str = "template1") -> Iterator[str]:
            name = next(names)
            make = sql.SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(make.format(sql.Identifier(name), sql.Identifier(template)))
            try:
                yield urlsplit(server)._replace(path=f"/{name}").geturl()
            finally:
                connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

        with database() as template:
            _migrate(template)
            yield lambda: database(urlsplit(template).path[1:])


@pytest.fixture
def database_url(new_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """A migrated, empty database for this test alone."""
    with new_database() as url:
        yield url


@pytest.fixture(scope="module")
def module_database_url(new_database: Callable[[], AbstractContextManager[str]]) -> Iterator[str]:
    """A migrated database shared by the tests of one module."""
    with new_database() as url:
        yield url


@pytest.fixture(scope="session")
def redis_url(servers: Config) -> str:
    """A Valkey for the session: tests use keys and channels with ids of their own."""
    assert servers.redis_url is not None
    return servers.redis_url


@pytest.fixture(scope="session")
def sales_url(servers: Config) -> Iterator[str]:
    """The business database that comes along; with `DATABASE_URL`, on a Postgres of bichat's own."""
    if servers.analytics_database_url:
        yield servers.analytics_database_url
        return
    with tempfile.TemporaryDirectory(prefix="bichat-tests-") as directory:
        alone = Config(bichat_data_dir=Path(directory) / "data", openai_base_url=_NO_MODEL)
        with owned(alone) as started:
            yield started.config.analytics_database_url or ""


def _migrate(url: str) -> None:
    """What `wiring.migrate` does, but for the master key: each test brings its own."""
    schema.migrate(url)
    schema.migrate(url, schema.KEYS)
    with schema.connect(url) as connection:
        versions.ensure(connection)
