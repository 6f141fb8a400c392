"""`bichat replies`: what is unanswered across tenants, and asking failed questions again."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from click.testing import CliRunner
from psycopg import AsyncConnection

from bichat.cli import bichat
from bichat.commands.reply import FailReply
from bichat.doorbell import Doorbell
from bichat.events.dialogue import ReplyRequeued, Usage
from bichat.projections import replies
from bichat.projections.reads import Reads
from tests.examples import (
    DIALOGUE,
    MASTER_KEY,
    OTHER_TENANT,
    QUESTION,
    TENANT,
    by,
    by_worker,
    question,
    start,
    start_reply,
)
from tests.workers.world import World, world

NOBODY = "http://127.0.0.1:9/v1"
Asked = tuple[UUID, UUID]


@pytest.fixture(scope="module")
def live(module_database_url: str, redis_url: str) -> Iterator[World]:
    doorbell = Doorbell(redis_url)
    with world(module_database_url, redis_url, NOBODY, doorbell) as alive:
        yield alive
    doorbell.close()


@pytest.fixture(scope="module")
def environ(module_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an operator has: the database and the master key."""
    return {
        "DATABASE_URL": module_database_url,
        "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "BICHAT_DATA_DIR": str(tmp_path_factory.mktemp("cli") / "data"),
    }


def run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "bichat", "replies", *words]
    env = {"PATH": os.environ["PATH"], **environ}
    return subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)


def listed(environ: dict[str, str], *words: str) -> dict[UUID, dict[str, Any]]:
    """`bichat replies list --json`, by question."""
    done = CliRunner().invoke(bichat, ["replies", "list", "--json", *words], env=environ)
    assert done.exit_code == 0, done.output
    return {UUID(one["message_id"]): one for one in json.loads(done.stdout)}


def ask(live: World, tenant: UUID) -> Asked:
    """The same person and the same words in each tenant."""
    command = start(None, question("A secret?"))
    asyncio.run(live.executor.execute(command, by(tenant=tenant)))
    return command.dialogue_id, command.messages[0].message_id


def fail(live: World, asked: Asked, tenant: UUID, detail: str = "no end") -> None:
    command = FailReply(
        dialogue_id=asked[0], message_id=asked[1], attempt=1, code="model_cut_off", detail=detail,
        partial="A secret", usage=Usage(), final=True,
    )  # fmt: skip
    asyncio.run(live.executor.execute(start_reply(*asked), by_worker(tenant)))
    asyncio.run(live.executor.execute(command, by_worker(tenant)))


def settle(live: World) -> None:
    """Returns once the queue has everything."""

    async def wait() -> None:
        reads = Reads(live.config.database_url or "")
        await reads.open()
        await reads.caught_up("replies", await reads.head())
        await reads.close()

    asyncio.run(wait())


def test_all_tenants_questions_are_listed_longest_asked_first(live: World, environ: dict[str, str]) -> None:
    ours, theirs, later = ask(live, TENANT), ask(live, OTHER_TENANT), ask(live, TENANT)
    fail(live, theirs, OTHER_TENANT)
    settle(live)
    found = listed(environ)
    assert [i for i in found if i in {ours[1], theirs[1], later[1]}] == [ours[1], theirs[1], later[1]]
    one = found[theirs[1]]
    assert (one["tenant_id"], one["user_id"], one["state"]) == (str(OTHER_TENANT), "anna", "failed")
    assert (one["attempts"], one["tries"], one["holder"], one["parked_at"]) == (1, 1, None, None)
    assert (one["code"], one["detail"]) == ("model_cut_off", None)  # in words that are not ours
    assert set(listed(environ, "--tenant", str(TENANT))) >= {ours[1], later[1]}
    assert theirs[1] not in listed(environ, "--tenant", str(TENANT))
    assert set(listed(environ, "--state", "failed")) >= {theirs[1]}
    assert {one["state"] for one in listed(environ, "--state", "waiting").values()} == {"waiting"}


def test_the_table_says_who_works_on_it_and_what_is_parked_and_no_message(
    live: World, environ: dict[str, str]
) -> None:
    tenant = uuid4()
    running, parked, failed = ask(live, tenant), ask(live, tenant), ask(live, tenant)
    fail(live, failed, tenant, "HTTP 400: You said: my \x1b[2J secret")
    settle(live)

    async def claim() -> None:
        async with await AsyncConnection.connect(environ["DATABASE_URL"], autocommit=True) as connection:
            await replies.claim(connection, "host:7:abc", 100)
            await connection.execute("delete from bichat.reply_leases where message_id <> %s", (running[1],))

    asyncio.run(claim())
    with psycopg.connect(environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            "insert into bichat.parked (name, shape, build, dialogue_id, tenant_id, position, version, error)"
            " values ('replies', 2, 1, %s, %s, 1, 9, 'x')",
            (parked[0], tenant),
        )
    done = CliRunner().invoke(bichat, ["replies", "list", "--tenant", str(tenant)], env=environ)
    head, *lines = done.stdout.splitlines()
    assert head.split() == [
        "question",
        "tenant",
        "user",
        "state",
        "age",
        "schedule",
        "attempts",
        "last",
        "error",
        "worker",
        "parked",
    ]
    assert [line.split()[0] for line in lines] == [str(asked[1]) for asked in (running, parked, failed)]
    assert "host:7:abc" in lines[0]
    assert lines[1].endswith(" ago")
    assert "model_cut_off: HTTP 400" in lines[2]
    assert "\x1b" not in done.output
    assert "secret" not in done.output


def test_a_cut_list_says_so(live: World, environ: dict[str, str]) -> None:
    tenant = uuid4()
    asked = [ask(live, tenant)[1] for _ in range(3)]
    settle(live)
    words = ["replies", "list", "--json", "--tenant", str(tenant)]
    done = CliRunner().invoke(bichat, [*words, "--limit", "2"], env=environ)
    assert [UUID(one["message_id"]) for one in json.loads(done.stdout)] == asked[:2]
    assert done.stderr == "There are more than 2: --limit shows more.\n"
    assert CliRunner().invoke(bichat, [*words, "--limit", "3"], env=environ).stderr == ""


def test_nothing_to_list_is_an_empty_array(live: World, environ: dict[str, str]) -> None:
    assert listed(environ, "--tenant", str(uuid4())) == {}


def test_a_failed_question_waits_again_and_the_log_says_that_an_operator_asked(
    live: World, environ: dict[str, str]
) -> None:
    asked = ask(live, OTHER_TENANT)
    fail(live, asked, OTHER_TENANT)
    settle(live)
    done = run(environ, "retry", str(asked[1]))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{asked[1]} waits again\n", "")
    event = live.ledger.read(asked[0])[-1]
    assert isinstance(event.fact, ReplyRequeued)
    assert (event.actor.kind, event.actor.id) == ("system", "operator")
    settle(live)
    assert listed(environ)[asked[1]]["state"] == "waiting"
    again = run(environ, "retry", str(asked[1]))
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr == ("bichat: Only a reply that failed can be queued again; this one is waiting.\n")


def test_what_is_unknown_is_one_line(live: World, environ: dict[str, str]) -> None:
    done = run(environ, "retry", str(uuid4()))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "bichat: There is no such unanswered question.\n"


@pytest.mark.parametrize(
    "words",
    [
        "retry", "retry one", f"retry {DIALOGUE} {QUESTION}", "list --state cancelled", "list --tenant one",
        "list --limit 0", "list all", "forget",
    ],
)  # fmt: skip
def test_wrong_usage_is_status_2(words: str) -> None:
    done = CliRunner().invoke(bichat, ["replies", *words.split()])
    assert done.exit_code == 2
    assert "Error: " in done.stderr


def test_a_database_that_is_not_there_is_one_line(environ: dict[str, str]) -> None:
    lost = environ | {"DATABASE_URL": "postgresql://someone:hunter2@127.0.0.1:9/x"}
    for words in (["list"], ["retry", str(uuid4())]):
        done = run(lost, *words)
        assert done.returncode == 1
        assert done.stderr.startswith("bichat: DATABASE_URL cannot be reached: ")
        assert done.stderr.count("\n") == 1
        assert "hunter2" not in done.stderr


def test_a_database_without_the_read_model_is_one_line(environ: dict[str, str], database_url: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("delete from bichat.serving where name = 'replies'")
    for words in (["list"], ["retry", str(uuid4())]):
        done = run(environ | {"DATABASE_URL": database_url}, *words)
        assert done.returncode == 1
        assert done.stderr.startswith("bichat: The database has no replies_v2: ")
        assert done.stderr.count("\n") == 1
