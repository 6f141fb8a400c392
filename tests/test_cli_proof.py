"""`bichat audit verify`, `export` and `keys public`, as operators and outsiders use them."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
from click.testing import CliRunner, Result
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bichat.cli import bichat
from bichat.events import schema
from bichat.events.audit import AuditRead, stream_of
from bichat.events.proof.signing import written
from tests.audit.sealed import END, SEALED, Log, sealed
from tests.examples import DIALOGUE, MASTER_KEY, OTHER_TENANT, TENANT

ID = str(DIALOGUE)


@pytest.fixture
def log(database_url: str) -> Iterator[Log]:
    with sealed(database_url) as log:
        yield log


@pytest.fixture
def environ(log: Log) -> dict[str, str]:
    """What an operator has."""
    return {
        "DATABASE_URL": log.url, "REDIS_URL": "redis://127.0.0.1:9",
        "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
    }  # fmt: skip


def run(environ: dict[str, str], *words: str) -> Result:
    return CliRunner().invoke(bichat, words, env=environ)


def process(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "bichat", *words]
    env = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_one_dialogue_and_all_of_them_are_checked(environ: dict[str, str], log: Log) -> None:
    one = run(environ, "audit", "verify", ID)
    assert one.exit_code == 0
    first, second, third = one.stdout.splitlines()
    assert first == f"{END} events of {ID}: valid"
    assert second.startswith(f"Sealed up to version {SEALED} by seal 2 of 20")
    assert third == "The last event is not sealed yet: only chained."
    every = run(environ, "audit", "verify", "--jobs", "1")
    assert every.exit_code == 0
    assert every.stdout.startswith("17 events in 7 streams: valid\nSeals: 2, the newest is seal 2 of 20")
    assert "The last 3 events are not sealed yet" in every.stdout
    assert "events/s" in every.stderr
    of_one = json.loads(run(environ, "audit", "verify", "--tenant", str(OTHER_TENANT), "--json").stdout)
    assert (of_one[0]["valid"], of_one[0]["streams"], of_one[0]["events"]) == (True, 2, 3)
    read = [event.fact for event in log.ledger.read(stream_of(TENANT))]
    assert read == [AuditRead(what="verify", dialogue_id=DIALOGUE)]


def test_what_was_touched_fails_with_the_first_bad_event(environ: dict[str, str], log: Log) -> None:
    with psycopg.connect(log.url) as connection:
        connection.execute("delete from bichat.stored_events where originator_version = 3")
    for words in ([ID], []):
        found = run(environ, "audit", "verify", *words)
        assert found.exit_code == 1
        assert f"{ID} version 3: removed: version 3 is missing, version 4 follows\n" in found.stdout
        assert "NOT VALID" in found.stdout
    told = json.loads(run(environ, "audit", "verify", ID, "--json").stdout)
    assert (told[0]["valid"], told[0]["findings"][0]["version"]) == (False, 3)


def test_an_export_is_checked_with_the_public_key_and_nothing_else(
    environ: dict[str, str], log: Log, tmp_path: Path
) -> None:
    file, key = tmp_path / "export.ndjson", run(environ, "keys", "public").stdout.strip()
    assert run(environ, "audit", "export", ID, "-o", str(file)).exit_code == 0
    offline = process({}, "audit", "verify", "--file", str(file), "--key", key)
    assert (offline.returncode, offline.stderr) == (0, "")
    assert offline.stdout.startswith(
        f"{END} events of {ID}, tenant {TENANT}: valid\nAs they stood when seal 3"
    )
    assert "7 texts are what was said, 0 are erased or not shown." in offline.stdout
    file.write_bytes(file.read_bytes().replace(b"And why?", b"And who?"))
    forged = process({}, "audit", "verify", "--file", str(file), "--key", key)
    assert (forged.returncode, forged.stdout) == (1, "")
    assert forged.stderr == "bichat: Line 6 proves nothing: it shows what was not stored: data.content.\n"
    again = run(environ, "audit", "export", ID, "-o", str(file))
    assert again.exit_code == 2
    assert "is there already" in again.stderr
    printed = run(environ, "audit", "export", ID)
    assert printed.stdout.count("\n") == END + 2


def test_an_erased_dialogue_stays_valid_and_its_export_without_its_text(
    environ: dict[str, str], log: Log, tmp_path: Path, redis_url: str
) -> None:
    erased = run({**environ, "REDIS_URL": redis_url}, "erase", "--tenant", str(TENANT), "--user", "anna")
    assert erased.exit_code == 0, erased.output
    assert run(environ, "audit", "verify").exit_code == 0
    file, key = tmp_path / "export.ndjson", run(environ, "keys", "public").stdout.strip()
    assert run(environ, "audit", "export", ID, "-o", str(file)).exit_code == 0
    assert b"And why?" not in file.read_bytes()
    offline = process({}, "audit", "verify", "--file", str(file), "--key", key)
    assert offline.returncode == 0, offline.stderr
    assert "0 texts are what was said, 7 are erased or not shown." in offline.stdout


def test_a_given_key_signs_and_is_told(
    environ: dict[str, str], log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    mine = Ed25519PrivateKey.generate()
    environ["BICHAT_SIGNING_KEY"] = base64.b64encode(mine.private_bytes_raw()).decode()
    public = written(mine.public_key().public_bytes_raw())
    assert run(environ, "keys", "public").stdout == f"{public}\n"
    assert mine.public_key().public_bytes_raw() not in log.signer.remembered().public_keys  # it only looked
    with caplog.at_level("WARNING"):
        assert run(environ, "audit", "export", ID).exit_code == 0
    assert f"Seals are signed with another key from now on: {public}" in caplog.text
    with schema.connect(log.url) as connection:
        keys = connection.execute("select encode(public_key, 'base64') from bichat.seals order by number")
        assert [key for (key,) in keys][-1] == public
    assert run(environ, "audit", "verify", ID).exit_code == 0
    untrusted = run(environ, "audit", "verify", ID, "--key", public)
    assert untrusted.exit_code == 1
    assert "seal 1: seal forged: it is signed by " in untrusted.stdout
    wrong = process({**environ, "BICHAT_SIGNING_KEY": "x"}, "keys", "public")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (1, 1)
    assert wrong.stderr.startswith("bichat: BICHAT_SIGNING_KEY: must be 32 bytes in base64")


def test_wrong_words_are_refused(environ: dict[str, str], log: Log, tmp_path: Path) -> None:
    file = tmp_path / "x"
    file.write_text("{}\n")
    public = written(bytes(32))
    for words in (
        ["verify", "--file", str(file)], ["verify", ID, "--file", str(file), "--key", public],
        ["verify", "x"], ["verify", "--file", str(tmp_path / "none"), "--key", public],
    ):  # fmt: skip
        assert run(environ, "audit", *words).exit_code == 2, words
    for words, said in (
        (["verify", "--file", str(file), "--key", "x"], "--key: must be an Ed25519 public key"),
        (["verify", "--file", str(file), "--key", public], "Line 1 proves nothing"),
        (["verify", str(uuid4())], "There is no such stream."),
        (["verify", ID, "--tenant", str(OTHER_TENANT)], "There is no such stream."),
        (["export", str(uuid4())], "There is no such stream."),
        (["export", str(stream_of(OTHER_TENANT))], "There is no such "),
    ):
        done = process(environ, "audit", *words)
        assert (done.returncode, done.stderr.count("\n"), done.stdout) == (1, 1, ""), done
        assert said in done.stderr


def test_an_export_that_is_not_finished_leaves_no_file(
    environ: dict[str, str], log: Log, tmp_path: Path
) -> None:
    with psycopg.connect(log.url) as connection:
        connection.execute("update bichat.stored_events set hash = sha256('x') where originator_version = 5")
    log.seal()
    broken = process(environ, "audit", "export", ID, "-o", str(tmp_path / "export.ndjson"))
    assert broken.returncode == 1
    assert broken.stderr.startswith("bichat: Event 5 of this dialogue is not what was once stored")
    assert list(tmp_path.iterdir()) == []
