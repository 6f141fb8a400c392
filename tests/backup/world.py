"""Two people who talk, a log and its keys, and what one looks for in a database afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from uuid_utils.compat import uuid7

from bichat.backup.dump import back_up
from bichat.backup.restore import Restored, restore
from bichat.commands.dialogue import AddMessage, RenameDialogue
from bichat.commands.execute import Executor, Once
from bichat.deltas import Deltas
from bichat.events import schema
from bichat.events.envelope import Actor
from bichat.events.proof import chains, sealing
from bichat.events.proof.signing import Signer
from bichat.events.slices import between
from bichat.forgetting.erasing import Forgetting
from bichat.projections.processes import Database
from tests.examples import MASTER_KEY, TENANT, by, opened, question, start, writing

Make = Callable[[], AbstractContextManager[str]]
SECRET, KEPT = "Frobscottle", "Whizzpopping"
"""What anna says, and what ben does."""


def quiet(step: str, done: int, total: int) -> None:
    """Nobody looks."""


async def talk(executor: Executor, text: str, user: str, messages: int = 3) -> UUID:
    """A dialogue of one person, and the receipts of it."""
    asked, dialogue_id = by(user), uuid7()
    await executor.execute(
        start(dialogue_id, question(text), user=user), asked, once=Once(str(dialogue_id), b"1")
    )
    for n in range(messages):
        added = AddMessage(dialogue_id=dialogue_id, messages=(question(f"{text} {n}"),))
        await executor.execute(added, by(user), once=Once(f"{dialogue_id} {n}", b"1"))
    await executor.execute(RenameDialogue(dialogue_id=dialogue_id, label=f"About {text}"), by(user))
    return dialogue_id


def write(url: str, store: str, seals: bool = True) -> None:
    """Anna and ben talk; what they said is sealed."""

    async def both(executor: Executor) -> None:
        await talk(executor, SECRET, "anna")
        await talk(executor, KEPT, "ben")

    with opened(url, store) as ledger, writing(ledger) as executor:
        asyncio.run(both(executor))
    if seals:
        seal(url, store)


def back_up_log(url: str, path: Path) -> Path:
    return back_up(url, path, quiet).path


def seal(url: str, store: str) -> None:
    with opened(url, store) as ledger, schema.connect(url) as connection:
        assert list(sealing.seal_all(connection, Signer(ledger.keys)))


def forget(url: str, store: str, redis_url: str, user: str = "anna") -> None:
    async def forgotten(executor: Executor) -> None:
        deltas = Deltas(redis_url)
        try:
            await Forgetting(executor, deltas).forget(TENANT, user, Actor("user", "olga"))
        finally:
            await deltas.close()

    with opened(url, store) as ledger, writing(ledger) as executor:
        asyncio.run(forgotten(executor))


def place(url: str, store: str) -> Database:
    return Database(url=url, keys_url=store, master_key=MASTER_KEY)


def says(url: str, word: str) -> bool:
    """Whether the word stands anywhere in a database: in a text, or in the bytes of an event."""
    everything = dumped(url)
    return word in everything or word.encode().hex() in everything


def dumped(url: str) -> str:
    """Every row of every table, as text."""
    found = []
    with psycopg.connect(url) as connection:
        names = connection.execute(
            "select format('%I.%I', schemaname, tablename) from pg_tables where schemaname like 'bichat%'"
        ).fetchall()
        for (name,) in names:
            with connection.cursor().copy(f"copy (select * from {name}) to stdout".encode()) as copied:
                found += [bytes(row).decode() for row in copied]
    return "".join(found)


def rows(url: str, table: str, upto: int | None = None) -> list[Any]:
    column = "notification_id" if table == "stored_events" else "position"
    where = f"where {column} <= {upto}" if upto is not None else ""
    with psycopg.connect(url) as connection:
        return connection.execute(
            f"select * from bichat.{table} {where} order by {column}".encode()
        ).fetchall()


def sound(url: str, fence: int) -> int:
    """How many streams there are; their chains and seals are right."""
    with psycopg.connect(url) as connection:
        found = [
            one for part in between(()) for one in chains.check(connection, part, chains.Coverage(fence))
        ]
    assert [one.wrong for one in found if one.wrong] == []
    return len(found)


def shown(url: str) -> dict[str, list[dict[str, Any]]]:
    """What readers see, but for when it was put there."""
    with psycopg.connect(url) as connection:
        found = {}
        for view in ("transcripts_v2", "dialogues_v1", "replies_v2", "usage_v1"):
            query = f"select to_jsonb(t) from bichat.{view} t order by to_jsonb(t)::text"
            found[view] = [row for (row,) in connection.execute(query.encode())]
        return found


def again(there: Database, path: Path) -> Restored:
    return restore(there, path, quiet)


def bichat(*words: object, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in environ}
    return subprocess.run(
        [sys.executable, "-m", "bichat", *map(str, words)], env=clean | environ, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip


KILLED = """
import os, signal, sys
from pathlib import Path
from bichat.backup.{module} import {name}
from bichat.projections import following
from bichat.projections.processes import Database

def progress(step, done, total):
    if step == sys.argv[1] and (done or step != "restoring"):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    url, store, path = sys.argv[2:]
    {call}
"""


def killed(at: str, code: str, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, at, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
