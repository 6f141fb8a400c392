"""`bichat audit`: what operators see of what happened, however it ended, and that they looked."""

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
from click.testing import CliRunner, Result
from llmock.pytest_plugin import LLMock
from llmock.scenarios import Fail, Reply

from bichat.cli import bichat
from bichat.commands.dialogue import DeleteDialogue, EraseText, RenameDialogue
from bichat.doorbell import Doorbell
from bichat.events.audit import AuditRead, stream_of
from tests.examples import MASTER_KEY, OTHER_TENANT, TENANT, by, by_worker, start
from tests.terminals import on_terminal
from tests.workers.world import World, worker, world

ESCAPE = "\x1b[2J\x9b2J"


@pytest.fixture
def live(database_url: str, redis_url: str, llmock: LLMock) -> Iterator[World]:
    doorbell = Doorbell(redis_url)
    with world(database_url, redis_url, llmock.base_url(), doorbell) as alive:
        yield alive
    doorbell.close()


@pytest.fixture
def environ(database_url: str, tmp_path: Any) -> dict[str, str]:
    """What an operator has: the database and the master key."""
    return {
        "DATABASE_URL": database_url,
        "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "BICHAT_DATA_DIR": str(tmp_path / "data"),
    }


def run(environ: dict[str, str], *words: object) -> Result:
    return CliRunner().invoke(bichat, ["audit", *map(str, words)], env=environ)


def printed(environ: dict[str, str], *words: object) -> str:
    done = run(environ, *words)
    assert done.exit_code == 0, done.output
    assert "\x1b" not in done.stdout
    assert "\x9b" not in done.stdout
    return done.stdout


@pytest.fixture
def told(live: World, llmock: LLMock) -> UUID:
    """A dialogue whose reply fails, is answered then; it is renamed and deleted."""
    llmock.add(Fail(500), Reply(f"It is{ESCAPE} a lot."))

    async def story() -> UUID:
        async with worker(live):
            dialogue_id, message_id = await live.ask("How much?")
            await live.answer(dialogue_id, message_id)
        await live.tell(RenameDialogue(dialogue_id=dialogue_id, label="Sales in May"))
        await live.tell(DeleteDialogue(dialogue_id=dialogue_id))
        return dialogue_id

    return asyncio.run(story())


def test_what_happened_is_listed_with_who_and_when(told: UUID, environ: dict[str, str]) -> None:
    listed = printed(environ, "events", "--dialogue", told)
    assert [row.split()[6] for row in listed.splitlines()[1:]] == [
        "DialogueStarted", "MessageAdded", "ReplyStarted", "ReplyFailed", "ReplyStarted", "MessageAdded",
        "DialogueRenamed", "DialogueDeleted",
    ]  # fmt: skip
    events = json.loads(printed(environ, "events", "--dialogue", told, "--user", "anna", "--json"))
    assert {e["actor"]["id"] for e in events} == {"anna"}
    assert [e["type"] for e in events][-2:] == ["DialogueRenamed", "DialogueDeleted"]
    assert events[-2]["data"] == {"label": "Sales in May"}
    since = events[-1]["at"]
    only = json.loads(printed(environ, "events", "--dialogue", told, "--since", since, "--json"))
    assert [e["version"] for e in only] == [8]


def test_that_everything_was_checked_is_nobodys_event(told: UUID, environ: dict[str, str]) -> None:
    printed(environ, "verify", "--jobs", "1")
    assert str(told) in printed(environ, "events", "--json")  # of the only tenant there is


def test_the_feed_shows_readings_too(told: UUID, environ: dict[str, str]) -> None:
    few = run(environ, "events", "--limit", 3)
    assert "There are more than 3" in few.stderr
    everything = json.loads(printed(environ, "events", "--json"))
    assert [e["type"] for e in everything[-2:]] == ["AuditRead", "AuditRead"]
    assert everything[-2]["data"] == {"what": "feed", "asked": {"limit": "3"}}
    assert everything[-1]["actor"] == {"kind": "system", "id": "operator"}
    assert len(everything) == 10
    kinds = json.loads(printed(environ, "events", "--type", "ReplyStarted", "--json"))
    assert [e["data"]["attempt"] for e in kinds] == [1, 2]


def test_a_dialogue_is_shown_as_it_was(told: UUID, environ: dict[str, str]) -> None:
    now = printed(environ, "show", told)
    assert '"Sales in May", of anna: deleted' in now
    assert "It is[2J2J a lot." in now
    then = printed(environ, "show", told, "--version", 4)
    assert "of anna: active" in then
    assert "-- waiting, attempt 1" in then
    assert "It is" not in then
    whole = json.loads(printed(environ, "show", told, "--json"))
    before = json.loads(printed(environ, "show", told, "--at", whole["messages"][0]["at"], "--json"))
    assert (before["version"], before["message_count"], before["state"]) == (2, 1, "active")


def test_what_the_model_was_shown_is_rebuilt_and_compared(
    live: World, told: UUID, environ: dict[str, str], llmock: LLMock
) -> None:
    shown = printed(environ, "show", told, "--attempt", 2)
    assert "the digest in the log matches" in shown
    assert "ended: answered" in shown
    assert "How much?" in shown
    request = json.loads(printed(environ, "show", told, "--attempt", 1, "--json"))
    assert request["digest"] == "matches"
    assert request["attempt"]["ended"] == "failed"
    sent = llmock.last_request.body["messages"]
    assert [m["content"] for m in sent] == [m["content"] for m in request["request"]["messages"]]
    assert "no such attempt" in run(environ, "show", told, "--attempt", 3).exception.args[0]  # type: ignore[union-attr]


def test_a_conversation_is_played_with_all_that_went_on(told: UUID, environ: dict[str, str]) -> None:
    played = printed(environ, "play", told)
    places = [played.index(part) for part in (
        "anna opens a dialogue", "#1 user", "How much?", "attempt 1 at #1: first is shown 1 message,",
        "attempt 1 at #1 failed: model_unavailable", "it will be tried again",
        "attempt 2 at #1: first is shown",
        "#2 assistant to #1", "It is[2J2J a lot.", 'calls it "Sales in May"', "deletes the dialogue",
        "-- the end: 8 events, 2 attempts",
    )]  # fmt: skip
    assert places == sorted(places)


def test_in_a_terminal_a_key_steps_and_q_stops(told: UUID, environ: dict[str, str]) -> None:
    argv = [sys.executable, "-m", "bichat", "audit", "play", str(told)]
    with on_terminal(argv, env={"PATH": os.environ["PATH"], **environ}) as playing:
        playing.hears(b"opens a dialogue")
        playing.hears(rb"How much\?", b" ")
        playing.hears(b"attempt 1", b"\n")
        assert playing.leaves(b"q") == 0
    assert b"failed" not in playing.said


def test_who_was_forgotten_is_blank_and_the_rest_is_told(
    live: World, told: UUID, environ: dict[str, str], database_url: str
) -> None:
    asyncio.run(live.executor.execute(EraseText(dialogue_id=told), by_worker()))
    with psycopg.connect(database_url) as connection:  # as an erasure ends
        connection.execute("update bichat_keys.data_keys set wrapped = null, destroyed_at = now()")
    for words in (("events", "--dialogue"), ("show",), ("play",), ("show", "--version", "3")):
        shown = printed(environ, *words, told)
        assert "How much" not in shown
        assert "a lot" not in shown
        assert "erased" in shown
    assert "forgets the person" in printed(environ, "play", told)
    assert "its text was erased" in printed(environ, "show", told, "--attempt", 2)
    first = json.loads(printed(environ, "events", "--dialogue", told, "--json"))[0]
    assert first["data"] == {"user_id": "anna", "label": None, "erased": True}


def test_wrong_usage_says_what_is_wrong(live: World, told: UUID, environ: dict[str, str]) -> None:
    asyncio.run(live.executor.execute(start(), by(tenant=OTHER_TENANT)))
    wrong = {
        ("events",): "Say whose",
        ("events", "--dialogue", "x"): "is not a valid UUID",
        ("events", "--tenant", str(TENANT), "--type", "Nonsense"): "is none of",
        ("events", "--tenant", str(TENANT), "--since", "2026-01-01T00:00:00"): "is not a time with an offset",
        ("show", str(told), "--version", "0"): "--version",
        ("show", str(told), "--version", "1", "--at", "2026-01-01T00:00:00Z"): "Give one of",
        ("show", str(told), "--message", str(told)): "goes with --attempt",
    }
    for words, why in wrong.items():
        done = run(environ, *words)
        assert (done.exit_code, why in done.stderr) == (2, True), done.output
    refused = {
        ("show", str(uuid4())): "There is no such dialogue.",
        ("play", str(uuid4())): "There is no such dialogue.",
        ("show", str(told), "--version", "99"): "there is only version 8",
        ("show", str(told), "--at", "2020-01-01T00:00:00Z"): "There is no such dialogue.",
        ("events", "--tenant", str(OTHER_TENANT), "--dialogue", str(told)): "There is no such dialogue.",
    }
    for words, why in refused.items():
        argv = [sys.executable, "-m", "bichat", "audit", *words]
        env = {"PATH": os.environ["PATH"], **environ}
        ended = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout) == (1, "")
        assert why in ended.stderr
        assert ended.stderr.count("\n") == 1
    readings = [event.fact for event in live.ledger.read(stream_of(TENANT))]
    assert AuditRead(what="dialogue", dialogue_id=told, asked={"version": "99"}) in readings


def test_a_broken_chain_is_said(live: World, told: UUID, environ: dict[str, str], database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update bichat.stored_events set command_id = gen_random_uuid()"
            " where originator_id = %s and originator_version = 3", (told,)
        )  # fmt: skip
    done = run(environ, "show", told)
    assert (done.exit_code, done.stdout) == (1, "")
    assert "Event 3 of this dialogue is not what was once stored" in str(done.exception)
    assert "How much" in printed(environ, "show", told, "--version", 2)
