"""A backup is made while everything runs, whole or not at all."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from bichat.backup.dump import back_up
from bichat.backup.manifest import DIGESTS, MANIFEST
from bichat.backup.restore import restore
from bichat.errors.backup import (
    BackupFailed,
    NotABackup,
)
from tests.backup.world import (
    KILLED,
    killed,
    place,
    quiet,
    write,
)


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


def test_a_backup_that_is_killed_is_none_and_the_next_one_clears_it_away(
    log: str, store: str, tmp_path: Path
) -> None:
    write(log, store)
    code = KILLED.format(module="dump", name="back_up", call="back_up(url, Path(path), progress)")
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
