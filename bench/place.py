"""Where a bench runs: a Postgres and a Valkey as they come along, in a directory that goes away."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click
import psycopg
from psycopg import sql

from bichat.config import Config
from bichat.embedded import owned
from bichat.events import schema
from bichat.projections import versions

NO_MODEL = "http://127.0.0.1:9/v1"
"""The discard port: nothing answers there."""
MASTER_KEY = bytes(32)
"""Of every database that is only measured."""


class Place:
    """Servers to measure on, and a directory for what a bench writes."""

    def __init__(self, server: str, redis_url: str, scratch: Path) -> None:
        self.server, self.redis_url, self.scratch = server, redis_url, scratch
        self._numbers = itertools.count(1)

    @contextmanager
    def database(self) -> Iterator[str]:
        """A migrated, empty database, by its URL; dropped afterwards."""
        name = f"bench_{next(self._numbers)}"
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
            try:
                url = urlsplit(self.server)._replace(path=f"/{name}").geturl()
                schema.migrate(url)
                schema.migrate(url, schema.KEYS)
                with schema.connect(url) as made:
                    versions.ensure(made)
                yield url
            finally:
                connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    def say(self, text: str) -> None:
        """Tells whoever waits how far it is; on stderr, for the table is what the run is for."""
        click.echo(f"  {text}", err=True)


@contextmanager
def place() -> Iterator[Place]:
    """Starts the servers, and stops them and clears everything away at the end."""
    with tempfile.TemporaryDirectory(prefix="bichat-bench-") as directory:
        config = Config(bichat_data_dir=Path(directory) / "data", openai_base_url=NO_MODEL)
        with owned(config) as servers:
            scratch = Path(directory) / "scratch"
            scratch.mkdir()
            yield Place(servers.config.database_url or "", servers.config.redis_url or "", scratch)
