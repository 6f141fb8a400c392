"""Backup and restore on real servers: whole or not at all, while writers run, and cut short anywhere."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from uuid_utils.compat import uuid7

from bichat.backup.dump import back_up
from bichat.backup.manifest import DIGESTS, MANIFEST
from bichat.backup.restore import Restored, restore
from bichat.commands.dialogue import AddMessage, RenameDialogue
from bichat.commands.execute import Executor, Once
from bichat.commands.forgetting import Forgetting
from bichat.config import Config
from bichat.deltas import Deltas
from bichat.errors.backup import (
    BackupDamaged,
    BackupFailed,
    BackupTooNew,
    NotABackup,
    RestoreRefused,
    RestoreUnfinished,
)
from bichat.errors.unusable import WrongMasterKey
from bichat.events import chains, schema, sealing
from bichat.events.envelope import Actor
from bichat.events.signing import Signatory
from bichat.events.slices import between
from bichat.projections import following
from bichat.projections.processes import Database
from tests.examples import MASTER_KEY, TENANT, by, opened, question, start, writing
from tests.projections.test_rebuild import follow

Make = Callable[[], AbstractContextManager[str]]
SECRET, KEPT = "Frobscottle", "Whizzpopping"
"""What anna says, and what ben does."""


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a projector."""
    monkeypatch.setattr(following, "LEFT_ALONE", 0.1)


def quiet(step: str, done: int, total: int) -> None:
    """Nobody looks."""


@pytest.fixture
def log(new_database: Make) -> Iterator[str]:
    """The database of the log, without the keys."""
    with new_database() as url:
        yield url


@pytest.fixture
def store(new_database: Make) -> Iterator[str]:
    """The keys store."""
    with new_database() as url:
        yield url


@pytest.fixture
def other(new_database: Make) -> Iterator[str]:
    """A database to restore into: `bichat migrate` has been there."""
    with new_database() as url:
        yield url


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
        assert list(sealing.seal_all(connection, Signatory(ledger.keys)))


def forget(url: str, store: str, redis_url: str, user: str = "anna") -> None:
    async def forgotten(executor: Executor) -> None:
        deltas = Deltas(redis_url)
        try:
            await Forgetting(executor, deltas).forget(TENANT, user, Actor("user", "olga"))
        finally:
            await deltas.close()

    with opened(url, store) as ledger, writing(ledger) as executor:
        asyncio.run(forgotten(executor))


@pytest.fixture
def there(other: str, store: str, redis_url: str) -> Database:
    """Where to restore to."""
    return Database(url=other, keys_url=store, master_key=MASTER_KEY, redis_url=redis_url)


@pytest.fixture
def made(log: str, store: str, tmp_path: Path) -> Path:
    """A backup of what anna and ben have said."""
    write(log, store)
    return back_up(log, tmp_path / "b", quiet).path


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
            with connection.cursor().copy(f"copy {name} to stdout".encode()) as copied:
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
        found = [one for part in between(()) for one in chains.check(connection, part, fence)]
    assert [one.wrong for one in found if one.wrong] == []
    return len(found)


def shown(url: str) -> dict[str, list[dict[str, Any]]]:
    """What readers see, but for when it was put there."""
    with psycopg.connect(url) as connection:
        found = {}
        for view in ("transcripts_v1", "dialogues_v1", "replies_v1", "usage_v1"):
            query = f"select to_jsonb(t) from bichat.{view} t order by to_jsonb(t)::text"
            found[view] = [row for (row,) in connection.execute(query.encode())]
        return found


def again(there: Database, path: Path) -> Restored:
    return restore(there, path, quiet)


# --- the way there and back ------------------------------------------------------------------------


def test_everything_acknowledged_comes_back_from_a_backup_that_was_made_while_writers_ran(
    log: str, store: str, there: Database, tmp_path: Path
) -> None:
    write(log, store)
    told: list[int] = []
    stop = threading.Event()

    async def go_on(executor: Executor) -> None:
        while not stop.is_set():
            done = await executor.execute(start(user="carl"), by("carl"))
            told.append(done.position)

    with opened(log, store) as ledger, writing(ledger) as executor:
        writer = threading.Thread(target=lambda: asyncio.run(go_on(executor)))
        writer.start()
        try:
            while len(told) < 100:
                stop.wait(0.01)
            before = max(told)
            made = back_up(log, tmp_path / "b", quiet)
        finally:
            stop.set()
            writer.join()
    head = made.manifest.position
    assert max(told) > head >= before  # they went on meanwhile
    done = again(there, tmp_path / "b")
    assert done.forgotten == 0
    assert rows(there.url, "stored_events") == rows(log, "stored_events", head)
    assert rows(there.url, "receipts") == rows(log, "receipts", head)
    assert rows(there.url, "seals") == rows(log, "seals")
    assert sound(there.url, rows(there.url, "seals")[-1][1]) == sound(log, 0) - sum(p > head for p in told)
    with opened(there.url, store) as ledger, writing(ledger) as executor:
        assert asyncio.run(executor.execute(start(), by())).position > head


def test_read_models_are_what_they_were(log: str, store: str, there: Database, tmp_path: Path) -> None:
    write(log, store)
    follow(log, keys_url=store)
    back_up(log, tmp_path / "b", quiet)
    again(there, tmp_path / "b")
    before, after = shown(log), shown(there.url)
    assert KEPT in str(before)
    assert before == after
    with schema.connect(there.url) as connection:
        schema.check(connection)


def test_a_backup_is_for_its_owner_only_and_sha256sum_checks_it(log: str, store: str, tmp_path: Path) -> None:
    write(log, store)
    made = back_up(log, tmp_path / "b", quiet)
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "b").iterdir()} == {0o600}
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", DIGESTS], cwd=tmp_path / "b", capture_output=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
    kept = sum(file.stat().st_size for file in (tmp_path / "b").iterdir())
    assert kept == made.size
    assert sorted(os.listdir(tmp_path)) == ["b"]


# --- cut short ------------------------------------------------------------------------------------

_KILLED = """
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


@pytest.mark.parametrize("step", ["checking", "restoring", "forgetting", "loading", "indexing", "verifying"])
def test_a_restore_that_is_killed_lets_nobody_start_and_completes_the_next_time(
    step: str, made: Path, log: str, there: Database, redis_url: str
) -> None:
    other = there.url
    forget(log, there.keys_url, redis_url)
    where = f"Database(url=url, keys_url=store, master_key={MASTER_KEY!r})"
    call = f"restore({where}, Path(path), progress)"
    code = _KILLED.format(module="restore", name="restore", call=call)
    killed(step, code, other, there.keys_url, str(made))
    with schema.connect(other) as connection:
        if step == "checking":
            schema.check(connection)  # nothing was touched
        else:
            with pytest.raises(RestoreUnfinished, match="run `bichat restore DIR` with it again"):
                schema.check(connection)
            assert len(rows(other, "stored_events")) == 0 or step != "restoring"
    again(there, made)
    with schema.connect(other) as connection:
        schema.check(connection)
    assert not says(other, SECRET)
    assert says(other, KEPT)


def test_a_restore_half_done_waits_for_its_own_backup(
    log: str, store: str, there: Database, tmp_path: Path
) -> None:
    write(log, store)
    back_up(log, tmp_path / "b", quiet)
    back_up(log, tmp_path / "c", quiet)

    def stop(step: str, done: int, total: int) -> None:
        if step == "loading":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(there, tmp_path / "b", stop)
    with pytest.raises(RestoreRefused, match="is to be finished first"):
        again(there, tmp_path / "c")
    again(there, tmp_path / "b")


def test_a_backup_that_is_killed_is_none_and_the_next_one_clears_it_away(
    log: str, store: str, tmp_path: Path
) -> None:
    write(log, store)
    code = _KILLED.format(module="dump", name="back_up", call="back_up(url, Path(path), progress)")
    killed("copying", code, log, "", str(tmp_path / "b"))
    assert os.listdir(tmp_path) == ["b.unfinished"]
    with pytest.raises(NotABackup):
        restore(place(log, store), tmp_path / "b.unfinished", quiet)
    back_up(log, tmp_path / "b", quiet)
    assert os.listdir(tmp_path) == ["b"]


def test_ctrl_c_leaves_nothing_of_a_backup(log: str, store: str, tmp_path: Path) -> None:
    write(log, store)

    def stop(step: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        back_up(log, tmp_path / "b", stop)
    assert os.listdir(tmp_path) == []


def test_a_full_disk_is_one_line_and_leaves_nothing(log: str, store: str, tmp_path: Path) -> None:
    write(log, store)
    code = f"""
from pathlib import Path
from bichat.backup.dump import back_up
from bichat.errors.backup import BackupFailed
try:
    back_up({log!r}, Path({str(tmp_path / "b")!r}), lambda *_: None)
except BackupFailed as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("No backup was made: ")
    assert done.stdout.endswith("File too large.\n")
    assert os.listdir(tmp_path) == []


# --- who was forgotten ------------------------------------------------------------------------------


def test_an_old_backup_stays_unreadable_for_who_was_forgotten(
    made: Path, log: str, there: Database, redis_url: str, environ: dict[str, str]
) -> None:
    store = there.keys_url
    forget(log, store, redis_url)
    seal(log, store)
    done = again(there, made)
    assert (done.forgotten, done.manifest.seal, done.lost_seal) == (1, 1, 2)
    assert not says(there.url, SECRET)
    assert not says(store, SECRET)
    assert says(there.url, KEPT)
    with psycopg.connect(there.url) as connection:
        topics = [t for (t,) in connection.execute("select topic from bichat.stored_events order by 1")]
        assert topics.count("TextErased") == topics.count("PersonErased") == 1
    with psycopg.connect(store) as connection:
        left = connection.execute("select done_at is null from bichat_keys.erasures").fetchall()
        assert left == [(False,)]
    verified = bichat("audit", "verify", **environ, DATABASE_URL=there.url)
    assert (verified.returncode, "valid" in verified.stdout) == (0, True), verified.stdout + verified.stderr
    seal(there.url, store)
    assert [row[0] for row in rows(there.url, "seals")] == [1, 3]  # what is lost stays named
    verified = bichat("audit", "verify", **environ, DATABASE_URL=there.url)
    assert (verified.returncode, "valid" in verified.stdout) == (0, True), verified.stdout + verified.stderr
    sound(there.url, rows(there.url, "seals")[-1][1])


def test_who_came_back_and_was_backed_up_since_is_not_forgotten_again(
    log: str, store: str, there: Database, redis_url: str, tmp_path: Path
) -> None:
    write(log, store)
    forget(log, store, redis_url)
    with opened(log, store) as ledger, writing(ledger) as executor:
        asyncio.run(talk(executor, "Scrumdiddlyumptious", "anna"))
    back_up(log, tmp_path / "b", quiet)
    done = again(there, tmp_path / "b")
    assert done.forgotten == 0
    assert not says(there.url, SECRET)
    assert says(there.url, "Scrumdiddlyumptious")


# --- refused --------------------------------------------------------------------------------------


def resigned(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another manifest, with its right digest."""
    manifest = msgspec.json.decode((path / MANIFEST).read_bytes())
    old = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    change(manifest)
    (path / MANIFEST).write_bytes(msgspec.json.encode(manifest))
    new = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    (path / DIGESTS).write_text((path / DIGESTS).read_text().replace(old, new))


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def linked(path: Path) -> None:
    (path / "receipts.copy.zst").rename(path.parent / "elsewhere")
    (path / "receipts.copy.zst").symlink_to(path.parent / "elsewhere")


@pytest.mark.parametrize(
    ("harm", "refusal"),
    [
        (
            lambda b: flipped(b / "stored_events.copy.zst"),
            (BackupDamaged, "stored_events.copy.zst is not what"),
        ),
        (lambda b: flipped(b / MANIFEST), ((BackupDamaged, "manifest.json is not what SHA256SUMS says"))),
        (lambda b: flipped(b / DIGESTS), ((BackupDamaged, "SHA256SUMS"))),
        (lambda b: (b / "seals.copy.zst").unlink(), ((BackupDamaged, "seals.copy.zst: No such file"))),
        (lambda b: (b / DIGESTS).unlink(), ((NotABackup, "it has no SHA256SUMS"))),
        (shutil.rmtree, ((NotABackup, "there is no such directory"))),
        (linked, ((BackupDamaged, "receipts.copy.zst is a symbolic link"))),
        (lambda b: resigned(b, lambda m: m.update(form=2)), ((BackupTooNew, "form 2"))),
        (lambda b: resigned(b, lambda m: m.update(form=2, tables=7)), ((BackupTooNew, "form 2"))),
        (lambda b: resigned(b, lambda m: m.pop("tables")), ((BackupDamaged, "cannot be understood"))),
        (
            lambda b: resigned(b, lambda m: m["migrations"].append("9999_x")),
            ((BackupTooNew, "migration 9999_x")),
        ),
        (
            lambda b: resigned(b, lambda m: m["tables"].update(x=m["tables"]["seals"])),
            ((BackupDamaged, "other")),
        ),
    ],
)
def test_what_is_no_whole_backup_is_refused_before_anything_is_touched(
    harm: Callable[[Path], None], refusal: tuple[type[Exception], str], made: Path, there: Database,
) -> None:  # fmt: skip
    harm(made)
    error, said = refusal
    with pytest.raises(error, match=said) as refused:
        again(there, made)
    assert "\n" not in str(refused.value)
    with schema.connect(there.url) as connection:
        schema.check(connection)
    assert rows(there.url, "stored_events") == []


def test_a_backup_of_an_older_form_goes_through_the_later_migrations(
    made: Path, there: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = schema._known
    later = ("9000_later", "alter table bichat.receipts add column later int not null default 7;")
    monkeypatch.setattr(schema, "_known", lambda s: known(s) + ([later] if s == schema.LOG else []))
    schema.migrate(there.url)  # the empty database is of the later form already
    again(there, made)
    assert {row[-1] for row in rows(there.url, "receipts")} == {7}
    with schema.connect(there.url) as connection:
        assert schema.newest(connection) == "9000_later"


def test_a_database_with_events_is_left_as_it_is(made: Path, log: str, store: str) -> None:
    before = dumped(log)
    with pytest.raises(RestoreRefused, match="has events already"):
        again(place(log, store), made)
    assert dumped(log) == before


def test_whoever_is_at_work_on_the_database_is_in_the_way(
    made: Path, there: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bichat.backup.restore._PATIENCE", 0.1)
    with schema.connect(there.url), pytest.raises(RestoreRefused, match="running on this database"):
        again(there, made)
    with schema.connect(there.keys_url), pytest.raises(RestoreRefused, match="running on this keys store"):
        again(there, made)
    again(there, made)


def test_without_the_keys_or_with_other_ones_nothing_is_restored(
    made: Path, there: Database, store: str, new_database: Make
) -> None:
    with new_database() as empty, pytest.raises(RestoreRefused, match="keys restore FILE"):
        again(place(there.url, empty), made)
    wrong = Database(url=there.url, keys_url=store, master_key=bytes(32))
    with pytest.raises(WrongMasterKey):
        restore(wrong, made, quiet)
    again(there, made)


def test_a_directory_that_is_in_use_is_left_as_it_is(log: str, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").touch()
    (tmp_path / "file").touch()
    for name, said in (
        ("full", "is not empty"),
        ("file", "is not a directory"),
        ("no/where", "No such file"),
    ):
        with pytest.raises(BackupFailed, match=said):
            back_up(log, tmp_path / name, quiet)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    back_up(log, tmp_path / "link", quiet)
    assert (tmp_path / "empty" / MANIFEST).exists()
    assert sorted(os.listdir(tmp_path)) == ["empty", "file", "full", "link"]


# --- as operators use it ----------------------------------------------------------------------------


def bichat(*words: object, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in environ}
    return subprocess.run(
        [sys.executable, "-m", "bichat", *map(str, words)], env=clean | environ, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip


def test_the_verbs(log: str, store: str, other: str, tmp_path: Path, environ: dict[str, str]) -> None:
    write(log, store)
    done = bichat("backup", tmp_path / "b", **environ, DATABASE_URL=log)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 events up to position 12, ")
    done = bichat("restore", tmp_path / "b", **environ, DATABASE_URL=other)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 events up to position 12, as of 20")
    done = bichat("restore", tmp_path / "b", **environ, DATABASE_URL=other)
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1, "bichat: Nothing was restored: the database has events already; restore into an empty one.",
    )  # fmt: skip
    with psycopg.connect(other, autocommit=True) as connection:
        connection.execute("update bichat.restores set phase = 'loaded'")
    for verb in (("migrate",), ("backup", tmp_path / "c"), ("projector",), ("projections", "status")):
        done = bichat(*verb, **environ, DATABASE_URL=other)
        assert done.returncode == 1
        assert done.stderr.splitlines()[-1].endswith("finished: run `bichat restore DIR` with it again.")


@pytest.fixture
def environ(store: str, redis_url: str) -> dict[str, str]:
    return {
        "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "KEYS_DATABASE_URL": store,
        "REDIS_URL": redis_url,
    }


def test_a_data_directory_in_which_bichat_runs_is_not_restored_into(servers: Config, tmp_path: Path) -> None:
    where = str(servers.bichat_data_dir)
    done = bichat("restore", tmp_path, BICHAT_DATA_DIR=where, DATABASE_URL="", REDIS_URL="")
    assert (done.returncode, f"in use by process {os.getpid()}: stop it" in done.stderr) == (1, True)
