"""A streaming replica of the Postgres that tests run on, made with its own programs."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bichat.embedded.account import account_for_servers


class Replica:
    """A standby that can be late, and away."""

    def __init__(self, primary_url: str) -> None:
        self._server = conninfo_to_dict(primary_url)
        with psycopg.connect(primary_url) as connection:
            found = connection.execute("select setting from pg_config where name = 'BINDIR'").fetchone()
        assert found
        self._programs = Path(found[0])
        self._directory = Path(tempfile.mkdtemp(prefix="bichat-replica-"))
        self._account = account_for_servers(self._directory / "nobody's yet")
        self._account.own(self._directory)
        self._process: subprocess.Popen[bytes] | None = None
        self._run(
            "pg_basebackup", "-h", self._server["host"], "-U", self._server["user"], "-D", "data", "-R",
            "-X", "stream", "-c", "fast", "--no-sync",
        )  # fmt: skip

    def url(self, database_url: str) -> str:
        """That of a database of the primary, here."""
        path = urlsplit(database_url).path
        return f"postgresql://postgres@{path and '/'}{path[1:]}?host={quote(str(self._directory), safe='')}"

    def start(self) -> None:
        """Returns when it can be read."""
        argv = [self._programs / "postgres", "-D", "data", "-k", self._directory, "-c", "listen_addresses="]
        argv += ["-c", "max_standby_streaming_delay=0", "-c", "shared_buffers=16MB"]
        self._process = subprocess.Popen(
            list(map(str, argv)), cwd=self._directory, stderr=(self._directory / "log").open("ab"),
            **self._account.options,
        )  # fmt: skip
        for _ in range(500):
            try:
                return self.tell("select")
            except psycopg.OperationalError:
                time.sleep(0.02)
        raise TimeoutError((self._directory / "log").read_text()[-2000:])

    def kill(self) -> None:
        """At once: what it has is kept."""
        if self._process:
            self._process.send_signal(3)  # immediate shutdown
            self._process.wait(10)

    def late(self, milliseconds: int) -> None:
        """Applies commits only so long after they were made."""
        self.tell(f"alter system set recovery_min_apply_delay = '{milliseconds}ms'")
        self.tell("select pg_reload_conf()")

    def wait_for(self, database_url: str) -> None:
        """Returns when a database of the primary is here."""
        for _ in range(500):
            try:
                psycopg.connect(self.url(database_url)).close()
            except psycopg.OperationalError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError

    def tell(self, statement: str) -> None:
        with psycopg.connect(self.url("postgresql:///postgres"), autocommit=True) as connection:
            connection.execute(statement.encode())

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._directory)

    def _run(self, program: str, *words: Any) -> None:
        subprocess.run(
            [self._programs / program, *map(str, words)],
            cwd=self._directory,
            check=True,
            capture_output=True,
            **self._account.options,
        )
