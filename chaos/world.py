"""A Postgres and a Valkey that can be killed and come back, a seed, and the history of one scenario."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

import psycopg
from psycopg import sql

from bench.place import NO_MODEL
from bichat.config import Config
from bichat.embedded import owned
from bichat.embedded.part import Part
from chaos.history import History


class World:
    """What a scenario has: `rng` is the only source of chance, so that a seed gives the same run again."""

    def __init__(self, parts: dict[str, Part], config: Config, scratch: Path, seed: int, short: bool) -> None:
        self.postgres, self.valkey = parts["Postgres"], parts["Valkey"]
        self.server, self.redis_url = config.database_url or "", config.redis_url or ""
        self.scratch, self.seed, self.short = scratch, seed, short
        self.rng, self.history = Random(seed), History()
        self._numbers = itertools.count(1)

    def database(self) -> str:
        """The URL of an empty database of its own; it goes away with the server."""
        name = f"chaos_{next(self._numbers)}"
        with psycopg.connect(self.server, autocommit=True) as connection:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        return urlsplit(self.server)._replace(path=f"/{name}").geturl()


@contextmanager
def world(seed: int, *, short: bool) -> Iterator[World]:
    """Servers of this scenario alone, stopped and cleared away at the end; from the main thread."""
    with tempfile.TemporaryDirectory(prefix="bichat-chaos-") as directory:
        config = Config(bichat_data_dir=Path(directory) / "data", openai_base_url=NO_MODEL)
        with owned(config) as servers:
            scratch = Path(directory) / "scratch"
            scratch.mkdir()
            parts = {part.name: part for part in servers.parts}
            yield World(parts, servers.config, scratch, seed, short)
