"""What the API asks its database while it answers: for what is hidden, the same as for what never was."""

from __future__ import annotations

import re
import time
from pathlib import Path

import psycopg

_SAID = re.compile(
    r"^bichat[- ](?:reads|log)\|LOG:  (?:statement|execute [^:]*): ((?:.*\n)(?:\t.*\n)*)", re.MULTILINE
)


class Statements:
    """The log of a Postgres, which tells every statement from now on."""

    def __init__(self, database_url: str, log: Path) -> None:
        self._log = log
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("alter system set log_statement = 'all'")
            connection.execute("alter system set log_line_prefix = '%a|'")
            connection.execute("select pg_reload_conf()")
            time.sleep(0.2)  # until every process of the server has heard

    @property
    def now(self) -> int:
        """A place in it."""
        return self._log.stat().st_size

    def since(self, place: int) -> frozenset[str]:
        """The statements of reads and writes since then, without their values."""
        with self._log.open("rb") as log:
            log.seek(place)
            return frozenset(_SAID.findall(log.read().decode(errors="replace")))
