"""`bichat erase`, `bichat holds` and `bichat keys rotate`, and what refuses to start without its keys."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner

from bichat.cli import bichat
from tests.examples import MASTER_KEY, TENANT, by, opened, start, writing

OTHER_KEY = bytes(range(32, 64))


def key(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


@pytest.fixture
def environ(database_url: str, redis_url: str, tmp_path: Path) -> dict[str, str]:
    """What an operator has."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "BICHAT_MASTER_KEY": key(MASTER_KEY),
        "BICHAT_DATA_DIR": str(tmp_path / "data"),
    }


def run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "bichat", *words]
    env = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(
        argv, env=env, capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


def told(environ: dict[str, str], *words: str) -> str:
    done = CliRunner().invoke(bichat, words, env=environ)
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(environ: dict[str, str], *words: str) -> str:
    done = run(environ, *words)
    assert (done.returncode, done.stdout) == (1, ""), done
    assert done.stderr.count("\n") == 1
    return done.stderr


def talk(url: str, keys_url: str | None = None, *, user: str = "anna", dialogues: int = 1) -> list[UUID]:
    """What somebody has said."""
    commands = [start(user=user) for _ in range(dialogues)]

    async def say(executor: Any) -> None:
        for command in commands:
            await executor.execute(command, by(user))

    with opened(url, keys_url) as ledger, writing(ledger) as executor:
        asyncio.run(say(executor))
    return [command.dialogue_id for command in commands]


def test_a_person_is_forgotten_and_it_says_what_was_done(environ: dict[str, str], database_url: str) -> None:
    dialogues = talk(database_url, dialogues=3)
    words = ("erase", "--tenant", str(TENANT), "--user", "anna")
    done = run(environ, *words)
    assert (done.returncode, done.stdout) == (0, "Erased: 1 keys destroyed, 3 dialogues dropped their text\n")
    assert "erasing: 3 of 3" in done.stderr
    assert "To follow as soon as a projector runs: " in done.stderr
    with opened(database_url) as ledger:
        last = ledger.read(dialogues[0])[-1]
        assert (last.actor.kind, last.actor.id) == ("system", "operator")
        assert not ledger.load(dialogues[0]).state.has_text
    (again,) = json.loads(told(environ, *words, "--yes", "--json"))
    assert (again["dialogues"], again["keys"], again["unreadable"]) == (0, 0, [])
    assert again["done_at"]


def test_an_erasure_that_is_interrupted_says_who_goes_on(environ: dict[str, str], database_url: str) -> None:
    talk(database_url, dialogues=400)
    with psycopg.connect(database_url) as connection:  # holds it up in the middle
        connection.execute("select pg_advisory_lock(hashtextextended('bichat.append', 0))")
        argv = [sys.executable, "-m", "bichat", "erase", "--tenant", str(TENANT), "--user", "anna"]
        env = {"PATH": os.environ["PATH"], **environ}
        process = subprocess.Popen(argv, env=env, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        waits = "select from pg_locks where locktype = 'advisory' and not granted"
        deadline = time.monotonic() + 30
        while connection.execute(waits).fetchone() is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        connection.execute("select pg_advisory_unlock(hashtextextended('bichat.append', 0))")
    out, error = process.communicate(timeout=30)
    assert (process.returncode, out) == (1, "")
    assert error.splitlines()[-1].startswith("bichat: The erasure was interrupted; ")
    assert "Traceback" not in error
    assert "400 dialogues" in told(environ, "erase", "--tenant", str(TENANT), "--user", "anna")


def test_nobody_is_one_line(environ: dict[str, str]) -> None:
    said = refused(environ, "erase", "--tenant", str(uuid4()), "--user", "anna")
    assert said == "bichat: There is no such user.\n"


def test_holds_are_placed_listed_released_and_obeyed(environ: dict[str, str], database_url: str) -> None:
    (dialogue_id,) = talk(database_url)
    tenant = ("--tenant", str(TENANT))
    first = told(environ, "holds", "place", *tenant, "--user", "anna", "--reason", "A lawsuit").strip()
    second = told(environ, "holds", "place", *tenant, "--dialogue", str(dialogue_id), "--reason", "x").strip()
    listed = json.loads(told(environ, "holds", "list", *tenant, "--json"))
    assert [one["hold_id"] for one in listed] == [first, second]
    assert [one["dialogue_id"] for one in listed] == [None, str(dialogue_id)]
    assert listed[0]["reason"] == "A lawsuit"
    said = refused(environ, "erase", *tenant, "--user", "anna")
    assert said.startswith(f"bichat: A legal hold forbids to forget this person: {first}, {second}")
    for hold in (first, second):
        assert told(environ, "holds", "release", *tenant, hold) == f"{hold} is released\n"
    assert refused(environ, "holds", "release", *tenant, first) == "bichat: There is no such hold.\n"
    assert json.loads(told(environ, "holds", "list", *tenant, "--json")) == []
    assert told(environ, "erase", *tenant, "--user", "anna").startswith("Erased: 1 keys")
    unknown = refused(environ, "holds", "place", *tenant, "--user", "bob", "--reason", "x")
    assert unknown == "bichat: There is no such user.\n"


@pytest.mark.parametrize(
    "words",
    [
        "erase", "erase --user anna", f"erase --tenant {TENANT}", "erase --tenant one --user anna",
        f"holds place --tenant {TENANT} --reason x", f"holds place --tenant {TENANT} --user a",
        f"holds place --tenant {TENANT} --user a --dialogue {TENANT} --reason x", "holds release",
        "holds list", "keys rotate --user anna", f"keys rotate --master --tenant {TENANT}",
        "keys rotate --before noon",
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2(words: str) -> None:
    done = CliRunner().invoke(bichat, words.split())
    assert done.exit_code == 2
    assert "Error: " in done.stderr


def test_keys_are_renewed_and_wrapped_anew(environ: dict[str, str], database_url: str) -> None:
    talk(database_url)
    talk(database_url, user="bob")
    assert told(environ, "keys", "rotate") == "2 persons have a new key\n"
    tenant = ("--tenant", str(TENANT))
    assert told(environ, "keys", "rotate", *tenant, "--user", "bob") == "1 persons have a new key\n"
    changed = {**environ, "BICHAT_MASTER_KEY": key(OTHER_KEY)}
    assert refused(changed, "keys", "rotate", "--master").startswith("bichat: The data keys are wrapped with")
    both = {**changed, "BICHAT_OLD_MASTER_KEY": key(MASTER_KEY)}
    said = told(both, "keys", "rotate", "--master")
    assert said == "5 keys were wrapped again: BICHAT_MASTER_KEY opens all of them\n"
    assert told(changed, "keys", "rotate", "--master").startswith("0 keys")
    assert refused(environ, "keys", "rotate").startswith("bichat: The data keys are wrapped with")
    assert told(changed, "holds", "list", *tenant, "--json") == "[]\n"


@contextmanager
def embedded(directory: Path) -> Iterator[dict[str, str]]:
    """Bichat's own servers in a data directory, prepared."""
    environ = {"BICHAT_DATA_DIR": str(directory), "OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}
    assert run(environ, "migrate").returncode == 0
    yield environ


def test_a_data_directory_makes_its_own_new_master(tmp_path: Path) -> None:
    with embedded(tmp_path / "data") as environ:
        kept = json.loads((tmp_path / "data" / "secrets.json").read_text())
        done = run(environ, "keys", "rotate", "--master")
        assert done.returncode == 0, done.stderr
        assert "the new key in the data directory opens all of them" in done.stdout
        now = json.loads((tmp_path / "data" / "secrets.json").read_text())
        assert now["jwt_secret"] == kept["jwt_secret"]
        assert now["master_key"] != kept["master_key"]
        assert set(now) == {"jwt_secret", "master_key"}
        # As a crash in the middle leaves it: both are there, and the same new one is gone on with.
        half = {**now, "master_key": kept["master_key"], "old_master_key": now["master_key"]}
        (tmp_path / "data" / "secrets.json").write_text(json.dumps(half))
        assert run(environ, "projections", "status").returncode == 0
        assert run(environ, "keys", "rotate", "--master").returncode == 0
        assert json.loads((tmp_path / "data" / "secrets.json").read_text()) == kept
        assert run(environ, "projections", "status").returncode == 0


def test_secrets_that_are_lost_are_not_made_anew(tmp_path: Path) -> None:
    with embedded(tmp_path / "data") as environ:
        secrets = tmp_path / "data" / "secrets.json"
        kept = json.loads(secrets.read_text())
        secrets.unlink()
        for words in (["migrate"], ["serve"], ["projections", "status"], ["keys", "rotate", "--master"]):
            said = refused(environ, *words)
            assert said.startswith(f"bichat: {secrets} is gone"), said
        assert not secrets.exists()
        given = {"BICHAT_MASTER_KEY": kept["master_key"], "BICHAT_JWT_SECRET": kept["jwt_secret"]}
        assert run({**environ, **given}, "projections", "status").returncode == 0
        wrong = {**given, "BICHAT_MASTER_KEY": key(OTHER_KEY)}
        assert "The data keys are wrapped with another key" in refused({**environ, **wrong}, "migrate")


def test_nobody_changes_the_master_while_something_runs(tmp_path: Path) -> None:
    with embedded(tmp_path / "data") as environ:
        argv = [sys.executable, "-m", "bichat", "projector"]
        running = subprocess.Popen(
            argv, env={"PATH": os.environ["PATH"], **environ}, stderr=subprocess.PIPE, text=True
        )
        try:
            assert running.stderr
            assert "starts" in running.stderr.readline()
            said = refused(environ, "keys", "rotate", "--master")
            assert f"is in use by process {running.pid}" in said
            assert "old_master_key" not in (tmp_path / "data" / "secrets.json").read_text()
        finally:
            running.terminate()
            running.communicate(timeout=30)


def test_an_empty_store_beside_a_log_with_events_stops_the_start(
    environ: dict[str, str], database_url: str, new_database: Callable[[], AbstractContextManager[str]]
) -> None:
    with new_database() as keys_url:
        elsewhere = {**environ, "KEYS_DATABASE_URL": keys_url, "BICHAT_JWT_SECRET": "x" * 32}
        assert run(elsewhere, "migrate").returncode == 0  # nothing has happened yet
    with new_database() as keys_url:
        talk(database_url)
        elsewhere = {**environ, "KEYS_DATABASE_URL": keys_url, "BICHAT_JWT_SECRET": "x" * 32}
        for verb in ("migrate", "api", "worker", "projector"):
            done = run(elsewhere, verb)
            assert done.returncode == 1
            assert "its keys store is empty: check KEYS_DATABASE_URL" in done.stderr.splitlines()[-1]
        with psycopg.connect(keys_url) as connection:
            row = connection.execute("select count(*) from bichat_keys.master").fetchone()
        assert row == (0,)


def test_it_works_with_the_keys_in_a_database_of_their_own(
    environ: dict[str, str], database_url: str, new_database: Callable[[], AbstractContextManager[str]]
) -> None:
    with new_database() as keys_url:
        dialogues = talk(database_url, keys_url, dialogues=2)
        elsewhere = {**environ, "KEYS_DATABASE_URL": keys_url}
        said = told(elsewhere, "erase", "--tenant", str(TENANT), "--user", "anna")
        assert said == "Erased: 1 keys destroyed, 2 dialogues dropped their text\n"
        assert told(elsewhere, "keys", "rotate") == "0 persons have a new key\n"
        with opened(database_url, keys_url) as ledger:
            assert not ledger.load(dialogues[0]).state.has_text
