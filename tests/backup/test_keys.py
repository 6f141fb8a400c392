"""The keys' own backup: it opens nothing by itself, and brings back nobody who was forgotten."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from bichat.backup.keys import back_up
from bichat.backup.merge import Merged, restore
from bichat.backup.restore import restore as restore_log
from bichat.errors.backup import BackupDamaged, BackupFailed, BackupTooNew, NotABackup, RestoreRefused
from bichat.errors.unusable import WrongMasterKey
from bichat.events import schema
from bichat.projections.processes import Database
from tests.backup.world import KEPT, SECRET, Make, back_up_log, forget, place, quiet, says, write
from tests.examples import MASTER_KEY, TENANT, opened


def living(store: str) -> dict[str, bool]:
    """Whether each person has a key."""
    with psycopg.connect(store) as connection:
        found = connection.execute(
            "select user_id, bool_or(wrapped is not null) from bichat_keys.data_keys group by 1"
        )
        return dict(found.fetchall())


@pytest.fixture
def file(log: str, store: str, tmp_path: Path) -> Path:
    """The keys of anna and ben."""
    write(log, store)
    assert back_up(store, tmp_path / "keys") == 2
    return tmp_path / "keys"


def test_a_lost_keys_store_comes_back_and_opens_the_log(file: Path, log: str, other: str) -> None:
    came = restore(place(log, other), file)
    assert came == Merged(keys=2, destroyed=0, reopened=0)
    with opened(log, other) as ledger, psycopg.connect(log) as connection:
        streams = connection.execute("select distinct originator_id from bichat.stored_events").fetchall()
        texts = str([event.fact for (stream,) in streams for event in ledger.read(stream)])
    assert SECRET in texts
    assert KEPT in texts
    assert restore(place(log, other), file) == Merged(keys=0, destroyed=0, reopened=0)
    with psycopg.connect(other) as one, psycopg.connect(place(log, other).keys_url) as two:
        assert one.execute("select * from bichat_keys.anchor").fetchall() != []
        assert two.execute("select count(*) from bichat_keys.signing_keys").fetchone() == (1,)


def test_the_file_is_for_its_owner_only_and_without_the_master_key_says_nothing(file: Path) -> None:
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_bytes()
    assert SECRET.encode() not in text
    assert MASTER_KEY.hex().encode() not in text
    with pytest.raises(BackupFailed, match="is there already"):
        back_up("postgresql:///", file)
    assert sorted(os.listdir(file.parent)) == ["keys"]


def test_a_key_that_was_destroyed_here_is_not_resurrected(
    file: Path, log: str, store: str, redis_url: str
) -> None:
    forget(log, store, redis_url)
    restore(place(log, store), file)
    assert living(store) == {"anna": False, "ben": True}


def test_the_log_knows_who_was_forgotten_where_the_register_was_lost(
    file: Path, log: str, store: str, other: str, redis_url: str
) -> None:
    forget(log, store, redis_url)
    came = restore(place(log, other), file)
    assert (came.keys, came.destroyed, came.reopened) == (2, 1, 0)
    assert living(other) == {"anna": False, "ben": True}
    with psycopg.connect(other) as connection:
        register = connection.execute(
            "select user_id, actor_id, done_at is not null from bichat_keys.erasures"
        )
        assert register.fetchall() == [("anna", "olga", True)]


def test_keys_from_before_and_a_log_from_after_an_erasure_forget(
    file: Path, log: str, store: str, new_database: Make, redis_url: str
) -> None:
    forget(log, store, redis_url)
    after = back_up_log(log, file.parent / "after")
    with new_database() as url, new_database() as keys:
        assert restore(place(url, keys), file).destroyed == 0  # nobody here knows better yet
        restore_log(place(url, keys), after, quiet)
        assert living(keys) == {"anna": False, "ben": True}
        assert not says(url, SECRET)
        assert says(url, KEPT)


def test_keys_from_after_and_a_log_from_before_an_erasure_forget(
    made: Path, log: str, store: str, new_database: Make, redis_url: str
) -> None:
    forget(log, store, redis_url)
    back_up(store, made.parent / "keys")
    with new_database() as url, new_database() as keys:
        assert restore(place(url, keys), made.parent / "keys").destroyed == 1
        done = restore_log(place(url, keys), made, quiet)
        assert done.forgotten == 1
        assert not says(url, SECRET)
        assert says(url, KEPT)


def test_an_erasure_that_the_log_does_not_know_is_open_again(
    made: Path, log: str, there: Database, redis_url: str, new_database: Make
) -> None:
    store = there.keys_url
    back_up(store, made.parent / "old")
    forget(log, store, redis_url)
    back_up(store, made.parent / "new")
    with new_database() as keys:
        restore(place(there.url, keys), made.parent / "old")
        restore_log(place(there.url, keys), made, quiet)
        assert says(there.url, SECRET)  # both are from before it: nobody could know
        came = restore(place(there.url, keys), made.parent / "new")
        assert (came.reopened, living(keys)["anna"]) == (1, False)
        with psycopg.connect(keys) as connection:
            assert connection.execute(
                "select tenant_id, user_id, done_at from bichat_keys.erasures"
            ).fetchall() == [(TENANT, "anna", None)]


def test_another_master_key_is_refused(file: Path, log: str, other: str) -> None:
    with pytest.raises(WrongMasterKey):
        restore(Database(url=log, keys_url=other, master_key=bytes(32)), file)
    assert living(other) == {}
    both = Database(url=log, keys_url=other, master_key=bytes(32), old_master_key=MASTER_KEY)
    assert restore(both, file).keys == 2


def test_the_keys_of_another_bichat_are_refused(file: Path, log: str, other: str) -> None:
    with opened(log, other) as ledger:
        ledger.keys.person(TENANT, "anna")
    with pytest.raises(RestoreRefused, match="of another bichat"):
        restore(place(log, other), file)
    assert living(other) == {"anna": True}


def cut(text: bytes) -> bytes:
    return text[: text.rindex(b"\n", 0, -1) + 1]


def newer(text: bytes) -> bytes:
    first, _, rest = text.partition(b"\n")
    return json.dumps({**json.loads(first), "form": 2}).encode() + b"\n" + rest


@pytest.mark.parametrize(
    ("harm", "error", "said"),
    [
        (lambda t: t.replace(b"ben", b"bob", 1), BackupDamaged, "not what it was"),
        (cut, BackupDamaged, "cut off"),
        (lambda t: t[:-10], BackupDamaged, "last line"),
        (lambda t: t + b"{}\n", BackupDamaged, "goes on after its end"),
        (lambda t: b"", NotABackup, "empty"),
        (lambda t: b"hello\n", NotABackup, "no file of `bichat keys backup`"),
        (newer, BackupTooNew, "form 2"),
    ],
)
def test_what_is_no_whole_file_is_refused(
    harm: Callable[[bytes], bytes], error: type[Exception], said: str, file: Path, there: Database
) -> None:
    file.write_bytes(harm(file.read_bytes()))
    with schema.connect(there.keys_url) as connection:
        before = connection.execute("select count(*) from bichat_keys.master").fetchone()
    with pytest.raises(error, match=said):
        restore(there, file)
    with schema.connect(there.keys_url) as connection:
        assert connection.execute("select count(*) from bichat_keys.master").fetchone() == before
