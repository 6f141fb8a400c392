"""`bichat projections` as operators use it: real processes, a real log, Ctrl-C, kill, and wrong words."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time

import psycopg
import pytest

from bichat.events.envelope import Event
from bichat.projections.versions import MODELS
from tests.examples import MASTER_KEY, opened
from tests.projections.histories import history
from tests.projections.logs import write
from tests.projections.test_rebuild import LOG, follow, torn

BICHAT = [sys.executable, "-m", "bichat", "projections"]


@pytest.fixture
def environ(database_url: str) -> dict[str, str]:
    return {
        **os.environ,
        "DATABASE_URL": database_url,
        "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def written(database_url: str) -> list[Event]:
    with opened(database_url) as ledger:
        write(ledger, LOG)
    follow(database_url)
    return LOG


def run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*BICHAT, *words], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def states(environ: dict[str, str]) -> dict[str, str]:
    return {one["id"]: one["state"] for one in json.loads(run(environ, "status", "--json").stdout)}


def test_a_rebuild_a_check_and_a_way_back(environ: dict[str, str], written: list[Event]) -> None:
    assert set(states(environ).values()) == {"unfollowed"}
    done = run(environ, "rebuild", "dialogues", "usage", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "dialogues_v1_g2 serves; the switch took " in done.stdout
    assert f"loading: {len(written)} of {len(written)}" in done.stderr
    found = states(environ)
    assert (found["dialogues_v1_g1"], found["dialogues_v1_g2"]) == ("standby", "unfollowed")
    checked = run(environ, "verify")
    tables = sum(len(model.tables) for model in MODELS)
    assert (checked.returncode, checked.stdout.count("right")) == (0, tables), checked.stderr
    back = run(environ, "rollback", "dialogues")
    assert back.stdout.startswith("dialogues_v1_g1 serves"), back.stderr
    dropped = run(environ, "drop", "dialogues_v1_g2")
    assert dropped.returncode == 0, dropped.stderr
    assert "dialogues_v1_g2" not in states(environ)
    refused = run(environ, "rollback", "dialogues")
    assert (refused.returncode, refused.stderr) == (
        1, "bichat: There is no other build of dialogues to go back to.\n",
    )  # fmt: skip
    reports = json.loads(run(environ, "reports", "dialogues", "--json").stdout)
    assert [report["build"] for report in reports] == ["dialogues_v1_g2"] * 2
    assert all(report["valid"] and report["position"] > 0 for report in reports)


def test_a_row_changed_by_hand_is_shown_on_both_sides(
    environ: dict[str, str], written: list[Event], database_url: str
) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update bichat.dialogues_v1 set label = 'forged'"
            " where id = (select min(id::text) from bichat.dialogues_v1)::uuid"
        )
    found = run(environ, "verify", "dialogues", "usage")
    assert found.returncode == 1
    assert "dialogues_v1_g1: dialogues 00000000-" in found.stdout
    shown = [line.split() for line in found.stdout.splitlines() if line.startswith("  label")]
    assert [side for _, side, *_ in shown] == ["log", "table"]
    assert shown[1][2] == "'forged'"
    as_json = run(environ, "verify", "dialogues", "--json")
    assert as_json.returncode == 1
    [report] = json.loads(as_json.stdout)
    assert (report["valid"], report["tables"]["dialogues"]["different"]) == (False, 1)
    assert "was begun with" not in found.stdout
    with psycopg.connect(database_url) as connection:
        connection.execute("update bichat.checkpoints set fold = 0 where name = 'dialogues'")
    hinted = run(environ, "verify", "dialogues").stdout
    assert "dialogues_v1_g1 was begun with fold 0 of its code, this is 1:" in hinted
    assert run(environ, "rebuild", "dialogues").returncode == 0
    assert run(environ, "verify").returncode == 0


def test_a_poisoned_dialogue_is_retried_after_the_fix(
    environ: dict[str, str], written: list[Event], database_url: str
) -> None:
    bad = written[30]
    with psycopg.connect(database_url, autocommit=True) as connection:
        where = "originator_id = %s and originator_version = %s"
        key = (bad.stream_id, bad.version)
        whole = connection.execute(f"select state from bichat.stored_events where {where}".encode(), key)
        state = whole.fetchone()
        torn(database_url, bad)
        assert run(environ, "rebuild", "usage").returncode == 1
        assert run(environ, "rebuild", "usage", "--with-parked").returncode == 0
        [parked] = [one for one in json.loads(run(environ, "status", "--json").stdout) if one["parked"]]
        assert parked["id"] == "usage_v1_g2"
        [waits] = json.loads(run(environ, "parked", "usage", "--json").stdout)
        assert (waits["build"], waits["dialogue_id"]) == ("usage_v1_g2", str(bad.stream_id))
        assert (waits["version"], bool(waits["error"])) == (bad.version, True)
        assert f" {bad.stream_id} " in run(environ, "parked").stdout
        other = run(environ, "retry", "usage", "--dialogue", str(written[0].command_id))
        assert (other.returncode, "no such parked dialogue in usage" in other.stderr) == (1, True)
        vain = run(environ, "retry", "usage")
        assert (vain.returncode, "still parked" in vain.stdout) == (1, True), vain.stderr
        assert run(environ, "verify", "usage").returncode == 0
        assert state
        connection.execute(
            f"update bichat.stored_events set state = %s where {where}".encode(), (state[0], *key)
        )
        done = run(environ, "retry", "usage", "--dialogue", str(bad.stream_id))
        assert (done.returncode, "goes on" in done.stdout) == (0, True), done.stderr
    assert run(environ, "verify", "usage").stdout.count("right") == 2


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ("rebuild", 2, "Name one or several read models, or give --all."),
        ("rebuild dialogues --all", 2, "Name one or several"),
        ("rebuild nothing", 2, "no read model 'nothing'; there are transcripts, replies, dialogues, usage"),
        ("rebuild usage --jobs 0", 2, "--jobs"),
        ("verify dialogs", 2, "there is no read model 'dialogs'"),
        ("verify --sample 0", 2, "--sample"),
        ("retry", 2, "Missing argument 'NAME'"),
        ("retry usage --dialogue 7", 2, "'7' is not a valid UUID"),
        ("rollback dialogues", 1, "bichat: There is no other build of dialogues to go back to.\n"),
        ("drop dialogues_v1_g1", 1, "bichat: dialogues_v1_g1 serves.\n"),
        ("drop dialogues_v1_g7", 1, "dialogues_v1_g7 is no build: see `bichat projections status`.\n"),
    ],
)  # fmt: skip
def test_wrong_words(environ: dict[str, str], words: str, status: int, said: str) -> None:
    done = run(environ, *words.split())
    assert done.returncode == status
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.fixture(scope="module")
def long_url(module_database_url: str) -> str:
    """A log of several slices, of 20,000 events each, in one long dialogue and many short ones."""
    one = history([(0, what, 0) for _ in range(20) for what in (0, 3, 6)])
    with opened(module_database_url) as ledger:
        write(ledger, one)
    with psycopg.connect(module_database_url) as connection:
        # The same dialogue many times over; sealed fields open only where they were written, so without.
        connection.execute(
            """
            insert into bichat.stored_events (originator_id, originator_version, topic, state, tenant_id,
                                              command_id, hash, notification_id)
            select (lpad(to_hex(n), 8, '0') || '-0000-7000-8000-000000000000')::uuid, originator_version,
                   topic, convert_to(regexp_replace(
                       convert_from(state, 'UTF8'), '\\[1,"[^]]*\\]', '"text"', 'g'), 'UTF8'),
                   tenant_id, command_id, hash, nextval('bichat.log_position')
            from bichat.stored_events, generate_series(1, 800) n
            """
        )
        connection.execute("analyze bichat.stored_events")
    return module_database_url


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_rebuild_that_is_stopped_in_its_bulk_goes_on_from_there(
    environ: dict[str, str], long_url: str, how: signal.Signals
) -> None:
    environ["DATABASE_URL"] = long_url
    argv = [*BICHAT, "rebuild", "usage", "--jobs", "2"]
    with subprocess.Popen(argv, env=environ, stderr=subprocess.PIPE, text=True) as process:
        until_loaded(long_url)
        process.send_signal(how)
        _, said = process.communicate(timeout=20)
    if how != signal.SIGKILL:
        assert process.returncode == 1
        assert "bichat: The rebuild was interrupted; the same command goes on from there.\n" in said
    done = run(environ, "rebuild", "usage", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    first = next(line for line in done.stderr.splitlines() if line.startswith("loading: "))
    assert not first.startswith("loading: 0 of")
    forget(environ)


def until_loaded(url: str) -> None:
    """Until a slice is in the tables, and not all are."""
    deadline = time.monotonic() + 30
    with psycopg.connect(url, autocommit=True) as connection:
        while time.monotonic() < deadline:
            row = connection.execute(
                "select cardinality(loaded), cardinality(bounds) from bichat.builds where phase = 'loading'"
            ).fetchone()
            if row and row[0] > 0:
                assert row[0] <= row[1]
                return
            time.sleep(0.01)
    raise TimeoutError("no slice was loaded")


def forget(environ: dict[str, str]) -> None:
    """What the rebuild replaced, so that the next one starts alike."""
    for name, state in states(environ).items():
        if state == "standby":
            assert run(environ, "drop", name).returncode == 0
