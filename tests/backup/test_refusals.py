"""What is no whole backup, or no place for one, is refused before anything is touched."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bichat.backup.manifest import DIGESTS, MANIFEST
from bichat.backup.restore import restore
from bichat.errors.backup import (
    BackupDamaged,
    BackupTooNew,
    NotABackup,
    RestoreRefused,
)
from bichat.errors.unusable import WrongMasterKey
from bichat.events import schema
from bichat.projections.processes import Database
from tests.backup.world import (
    Make,
    again,
    dumped,
    place,
    quiet,
    rows,
)


def resigned(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Another manifest, with its right digest."""
    manifest = msgspec.json.decode((path / MANIFEST).read_bytes())
    change(manifest)
    rewritten(path, msgspec.json.encode(manifest))


def rewritten(path: Path, manifest: bytes) -> None:
    old = hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()
    (path / MANIFEST).write_bytes(manifest)
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
        (lambda b: rewritten(b, b"no JSON"), ((BackupDamaged, "cannot be understood"))),
        (lambda b: rewritten(b, b"[" * 20_000), ((BackupDamaged, "cannot be understood"))),
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
