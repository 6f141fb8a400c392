"""`bichat backup` and `bichat restore` as operators use them."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg

from bichat.config import Config
from tests.backup.world import (
    bichat,
    write,
)


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


def test_a_data_directory_in_which_bichat_runs_is_not_restored_into(servers: Config, tmp_path: Path) -> None:
    where = str(servers.bichat_data_dir)
    done = bichat("restore", tmp_path, BICHAT_DATA_DIR=where, DATABASE_URL="", REDIS_URL="")
    assert (done.returncode, f"in use by process {os.getpid()}: stop it" in done.stderr) == (1, True)
