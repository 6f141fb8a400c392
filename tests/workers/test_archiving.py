"""What nobody has used for long is archived, by the log's own account of it, and nothing else is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import psycopg
import pytest

from bichat.commands.command import Command
from bichat.commands.dialogue import AddMessage, DeleteDialogue, UnarchiveDialogue
from bichat.commands.execute import Executor
from bichat.commands.reply import CompleteReply, FailReply
from bichat.errors import IsArchived
from bichat.events.dialogue import DialogueArchived
from bichat.events.envelope import Actor, Metadata
from bichat.events.ledger import Ledger
from bichat.projections import idle
from bichat.workers import archiving
from tests.examples import OTHER_TENANT, TENANT, USAGE, by, by_worker, opened, question, start, start_reply
from tests.projections.test_rebuild import follow

DAYS = timedelta(days=30)


class Clock:
    def __init__(self) -> None:
        self.ago = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) - self.ago


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


@pytest.fixture
def executor(ledger: Ledger, clock: Clock) -> Iterator[Executor]:
    executor = Executor(ledger, clock=clock)
    executor.start()
    yield executor
    executor.close()


def do(executor: Executor, command: Command, who: Metadata | None = None) -> int:
    return asyncio.run(executor.execute(command, who or by())).version


def talked(executor: Executor, tenant: UUID = TENANT) -> UUID:
    """A dialogue of which the question is answered."""
    asked = question()
    command = start(None, asked)
    do(executor, command, by(tenant=tenant))
    about: Any = {"dialogue_id": command.dialogue_id, "message_id": asked.message_id, "attempt": 1}
    do(executor, start_reply(command.dialogue_id, asked.message_id), by_worker(tenant))
    answer: Any = {"answer_id": question().message_id, "content": "A lot.", "finish_reason": "stop"}
    do(executor, CompleteReply(**about, **answer, model="m", usage=USAGE), by_worker(tenant))
    return command.dialogue_id


def walk(executor: Executor, url: str) -> int:
    follow(url)
    return archiving.walk(executor, url, datetime.now(UTC) - DAYS, threading.Event())


def states(url: str) -> dict[UUID, str]:
    follow(url)
    with psycopg.connect(url) as connection:
        return dict(connection.execute("select id, state from bichat.dialogues_v1").fetchall())


def test_what_nobody_uses_is_archived_by_the_system_and_comes_back_when_asked(
    database_url: str, ledger: Ledger, executor: Executor, clock: Clock
) -> None:
    clock.ago = 2 * DAYS
    old, others = talked(executor), talked(executor, OTHER_TENANT)
    deleted = talked(executor)
    do(executor, DeleteDialogue(dialogue_id=deleted))
    clock.ago = timedelta()
    young = talked(executor)
    assert walk(executor, database_url) == 2
    assert states(database_url) == {
        old: "archived", others: "archived", deleted: "deleted", young: "active",
    }  # fmt: skip
    event = ledger.read(old)[-1]
    assert isinstance(event.fact, DialogueArchived)
    assert (event.actor, event.tenant_id) == (Actor("system", "archiving"), TENANT)
    assert walk(executor, database_url) == 0
    more = AddMessage(dialogue_id=old, messages=(question("And now?"),))
    with pytest.raises(IsArchived):
        do(executor, more)
    do(executor, UnarchiveDialogue(dialogue_id=old))
    assert walk(executor, database_url) == 0  # that was a change
    do(executor, more)


def test_what_waits_or_runs_stays_whatever_the_read_model_says(
    database_url: str, executor: Executor, clock: Clock
) -> None:
    clock.ago = 2 * DAYS
    waiting, running, failed = (start(None, question()) for _ in range(3))
    for command in (waiting, running, failed):
        do(executor, command)
    for command in (running, failed):
        do(executor, start_reply(command.dialogue_id, command.messages[0].message_id), by_worker())
    about: Any = {
        "dialogue_id": failed.dialogue_id,
        "message_id": failed.messages[0].message_id,
        "attempt": 1,
    }
    do(executor, FailReply(**about, code="x", detail="", partial="", usage=USAGE, final=True), by_worker())
    answered = talked(executor)
    both = talked(executor)
    follow(database_url)
    with psycopg.connect(database_url) as connection:  # as if the newest question were not the one that waits
        connection.execute("update bichat.dialogues_v1_g1 set status = null")
    clock.ago = timedelta()
    do(executor, AddMessage(dialogue_id=both, messages=(question("So?"),)))  # not seen by the read model yet
    assert archiving.walk(executor, database_url, datetime.now(UTC) - DAYS, threading.Event()) == 2
    assert states(database_url) == {
        waiting.dialogue_id: "active", running.dialogue_id: "active", failed.dialogue_id: "archived",
        answered: "archived", both: "active",
    }  # fmt: skip


def test_the_walk_goes_on_over_steps_and_one_process_walks_at_a_time(
    database_url: str, executor: Executor, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "STEP", 2)
    monkeypatch.setattr(archiving, "AT_ONCE", 1)
    young = [talked(executor) for _ in range(3)]
    clock.ago = 2 * DAYS
    old = [talked(executor) for _ in range(5)]
    with psycopg.connect(database_url, autocommit=True) as other:
        assert idle.alone(other)
        assert walk(executor, database_url) == 0
    assert walk(executor, database_url) == 5
    assert states(database_url) == dict.fromkeys(young, "active") | dict.fromkeys(old, "archived")


def test_the_loop_ends_when_it_is_told_to_and_outlives_a_database_that_is_away(
    database_url: str, executor: Executor, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    clock.ago = 2 * DAYS
    old = talked(executor)
    follow(database_url)
    stop = threading.Event()
    away = f"{database_url}_away"
    for url in (away, database_url):
        thread = threading.Thread(target=archiving.run, args=(executor, url, DAYS, stop, 0.01), daemon=True)
        thread.start()
    end = datetime.now(UTC) + timedelta(seconds=10)
    while states(database_url)[old] != "archived" or "was archived" not in caplog.text:
        assert datetime.now(UTC) < end
    stop.set()
    thread.join(5)
    assert not thread.is_alive()
