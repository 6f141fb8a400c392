"""Forgetting a person, step by step: killed after any of them, done twice, and others at work meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from uuid_utils.compat import uuid7

from bichat.commands.dialogue import AddMessage, CancelReply
from bichat.commands.execute import Executor
from bichat.commands.job import Once
from bichat.commands.person import OrderErasure, PlaceHold
from bichat.commands.reply import CompleteReply
from bichat.deltas import Deltas
from bichat.errors import BeingForgotten, KeyReused, Refused, UnderHold
from bichat.events.dialogue import MessageAdded, TextErased
from bichat.events.envelope import Actor
from bichat.events.keys import register
from bichat.events.keys.store import KeyStore
from bichat.events.ledger import Ledger
from bichat.events.person import NOBODY, ErasureOrdered, PersonErased, stream_of
from bichat.forgetting import finding
from bichat.forgetting.erasing import Forgetting, Forgotten
from bichat.workers import erasures
from tests.examples import (
    MASTER_KEY,
    OTHER_TENANT,
    TENANT,
    USAGE,
    by,
    by_worker,
    opened,
    question,
    start,
    start_reply,
    writing,
)

OLGA = Actor("user", "olga")
ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["one store", "two stores"])
def keys_url(
    request: pytest.FixtureRequest,
    database_url: str,
    new_database: Callable[[], AbstractContextManager[str]],
) -> Iterator[str]:
    """The keys' store: in a schema beside the log, or in a database of its own."""
    if request.param == "one store":
        yield database_url
    else:
        with new_database() as url:
            yield url


@pytest.fixture
def ledger(database_url: str, keys_url: str) -> Iterator[Ledger]:
    with opened(database_url, keys_url) as ledger:
        yield ledger


@pytest.fixture
def executor(ledger: Ledger) -> Iterator[Executor]:
    with writing(ledger) as executor:
        yield executor


def run(executor: Executor, command: Any, who: Any = None, **options: Any) -> Any:
    return asyncio.run(executor.execute(command, who or by(), **options))


def forget(executor: Executor, redis_url: str, user: str = "anna") -> Forgotten:
    async def work() -> Forgotten:
        deltas = Deltas(redis_url)
        try:
            return await Forgetting(executor, deltas).forget(TENANT, user, OLGA)
        finally:
            await deltas.close()

    return asyncio.run(work())


def kinds(ledger: Ledger, stream_id: UUID) -> list[str]:
    return [type(event.fact).__name__ for event in ledger.read(stream_id)]


def keys_of(keys_url: str, user: str = "anna") -> list[bool]:
    """Whether each key of a person still lives, oldest first."""
    with psycopg.connect(keys_url) as connection:
        rows = connection.execute(
            "select wrapped is not null from bichat_keys.data_keys where user_id = %s order by generation",
            (user,),
        ).fetchall()
    return [live for (live,) in rows]


def test_the_steps_leave_facts_in_every_dialogue_and_in_the_persons_stream(
    ledger: Ledger, executor: Executor, keys_url: str, redis_url: str
) -> None:
    mine = [start() for _ in range(3)]
    theirs, elsewhere = start(user="bob"), start()
    for command in mine:
        run(executor, command)
    run(executor, theirs, by("bob"))
    run(executor, elsewhere, by(tenant=OTHER_TENANT))
    told = forget(executor, redis_url)
    assert (told.erasure.dialogues, told.erasure.keys, told.erasure.unreadable) == (3, 1, [])
    for command in mine:
        assert kinds(ledger, command.dialogue_id)[-2:] == ["ReplyCancelled", "TextErased"]
        said = ledger.read(command.dialogue_id)[1].fact
        assert isinstance(said, MessageAdded)
        assert said.content is None
    assert "TextErased" not in kinds(ledger, theirs.dialogue_id) + kinds(ledger, elsewhere.dialogue_id)
    assert kinds(ledger, stream_of(TENANT, "anna")) == ["ErasureOrdered", "PersonErased"]
    erased = ledger.read(mine[0].dialogue_id)[-1]
    ordered = ledger.read(stream_of(TENANT, "anna"))[0]
    assert erased.cause is not None
    assert (erased.cause.stream_id, erased.cause.version) == (ordered.stream_id, 1)
    assert sorted(keys_of(keys_url)) == [False, True]  # of two tenants


STEPS = {
    "asked": "bichat.events.keys.register.ask",
    "ordered in the log": "bichat.commands.execute.Executor.execute",
    "ordered": "bichat.events.keys.register.ordered",
    "void": "bichat.events.ledger.Ledger.void",
    "told": "bichat.forgetting.telling.tell",
    "destroyed": "bichat.events.keys.register.destroy",
    "finished": "bichat.forgetting.erasing.Forgetting._silence",
    "silenced": "bichat.deltas.Deltas.forget",
}
KILLED = """
import asyncio, inspect, os, pkgutil, sys
from bichat.forgetting.erasing import Forgetting
from bichat.deltas import Deltas
from bichat.events.envelope import Actor
from tests.examples import TENANT, opened, writing

def die_after(path):
    owner, _, name = path.rpartition(".")
    owner = pkgutil.resolve_name(owner)
    real = getattr(owner, name)
    if inspect.iscoroutinefunction(real):
        async def dying(*args, **kwargs):
            await real(*args, **kwargs)
            os._exit(9)
    else:
        def dying(*args, **kwargs):
            real(*args, **kwargs)
            os._exit(9)
    setattr(owner, name, dying)

async def main():
    with opened(sys.argv[1], sys.argv[2]) as ledger, writing(ledger) as executor:
        deltas = Deltas(sys.argv[3])
        die_after(sys.argv[4])
        await Forgetting(executor, deltas).forget(TENANT, "anna", Actor("user", "olga"))

asyncio.run(main())
"""


@pytest.mark.parametrize("step", STEPS)
def test_what_was_left_after_any_step_is_finished_by_another(  # noqa: PLR0917 - two stores and the rest
    ledger: Ledger, executor: Executor, database_url: str, keys_url: str, redis_url: str, step: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    dialogues = [start() for _ in range(3)]
    for command in dialogues:
        run(executor, command)
    argv = [sys.executable, "-c", KILLED, database_url, keys_url, redis_url, STEPS[step]]
    killed = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert killed.returncode == 9, killed.stderr
    monkeypatch.setattr(erasures, "LEFT", 0.0)
    stop = threading.Event()
    left = threading.Thread(target=erasures.run, args=(executor, redis_url, stop, 0.05), daemon=True)
    left.start()
    for _ in range(200):
        if not register.under_way(ledger.keys, 0):
            break
        stop.wait(0.05)
    stop.set()
    left.join(5)
    assert register.under_way(ledger.keys, 0) == []
    person = kinds(ledger, stream_of(TENANT, "anna"))
    if step == "asked":  # nobody was told that it would be done
        assert (person, keys_of(keys_url)) == ([], [True])
        assert register.of_tenant(ledger.keys, TENANT, 9) == []
        return
    assert person == ["ErasureOrdered", "PersonErased"]
    assert keys_of(keys_url) == [False]
    (entry,) = register.of_tenant(ledger.keys, TENANT, 9)
    assert (entry.dialogues, entry.keys, entry.actor) == (3, 1, OLGA)
    assert entry.done_at is not None
    for command in dialogues:
        assert kinds(ledger, command.dialogue_id).count("TextErased") == 1
        assert ledger.load(command.dialogue_id).state.has_text is False


def test_who_is_being_forgotten_is_told_so_and_harms_nobody(
    ledger: Ledger, executor: Executor, keys_url: str, redis_url: str
) -> None:
    mine, theirs = start(), start(user="bob")
    run(executor, mine)
    run(executor, theirs, by("bob"))
    erasure = register.ordered(ledger.keys, register.ask(ledger.keys, TENANT, "anna", OLGA))
    ledger.keys.forget([(TENANT, "anna")])

    async def together() -> list[Any]:
        says = [(mine, by()), (theirs, by("bob"))] * 3
        told: list[Any] = await asyncio.gather(
            *(
                executor.execute(AddMessage(dialogue_id=c.dialogue_id, messages=(question(),)), who)
                for c, who in says
            ),
            return_exceptions=True,
        )
        return told

    told = asyncio.run(together())
    assert all(isinstance(one, BeingForgotten) for one in told[::2])
    assert not any(isinstance(one, Exception) for one in told[1::2])
    with pytest.raises(BeingForgotten):
        ledger.keys.person(TENANT, "anna")
    register.ordered(ledger.keys, register.ask(ledger.keys, TENANT, "cora", OLGA))
    with pytest.raises(BeingForgotten):  # nothing was ever sealed for them
        run(executor, start(user="cora"), by("cora"))
    register.destroy(ledger.keys, erasure, 0, [])
    again = AddMessage(dialogue_id=mine.dialogue_id, messages=(question(),))
    assert run(executor, again).version > 2
    assert keys_of(keys_url) == [False, True]


def test_a_process_that_still_holds_the_key_cannot_append_with_it(
    ledger: Ledger, executor: Executor, database_url: str, keys_url: str, redis_url: str
) -> None:
    command = start()
    run(executor, command)
    with opened(database_url, keys_url) as late, writing(late) as other:
        old = late.keys.person(TENANT, "anna")
        run(other, AddMessage(dialogue_id=command.dialogue_id, messages=(question("Before."),)))
        forget(executor, redis_url)
        assert late.keys.held((TENANT, "anna")) is old  # nobody has told it
        run(other, AddMessage(dialogue_id=command.dialogue_id, messages=(question("Since."),)))
        new = late.keys.person(TENANT, "anna")
        assert new.key_id != old.key_id
        assert late.keys.by_id(old.key_id) is old
        late.keys.look()
        assert late.keys.by_id(old.key_id) is None
        said = [event.fact for event in late.read(command.dialogue_id)]
    assert [fact.content for fact in said if isinstance(fact, MessageAdded)] == [None, None, "Since."]


def test_keys_that_were_destroyed_are_let_go_within_seconds(
    ledger: Ledger, executor: Executor, database_url: str, keys_url: str, redis_url: str
) -> None:
    run(executor, start())
    other = KeyStore(keys_url, MASTER_KEY)
    other.unlock()
    other.watch()
    key = other.person(TENANT, "anna")
    assert other.by_id(key.key_id) is key
    forget(executor, redis_url)
    for _ in range(60):
        if other.held((TENANT, "anna")) is None and other.by_id(key.key_id) is None:
            break
        threading.Event().wait(0.05)
    assert other.held((TENANT, "anna")) is None
    assert other.by_id(key.key_id) is None
    other.close()


def test_a_process_that_still_holds_the_key_leaves_no_receipt_with_it(
    ledger: Ledger, executor: Executor, database_url: str, keys_url: str, redis_url: str
) -> None:
    command = start()
    run(executor, command)
    cancel = CancelReply(dialogue_id=command.dialogue_id, message_id=command.messages[0].message_id)
    with opened(database_url, keys_url) as late, writing(late) as other:
        old = late.keys.person(TENANT, "anna")
        forget(executor, redis_url)
        first = run(other, cancel, once=Once("late", b"a"))
        assert late.keys.person(TENANT, "anna") is not old
    again = run(executor, cancel, once=Once("late", b"a"))
    assert (again.replayed, again.version) == (True, first.version)


@pytest.mark.parametrize("user", ['an"n\\a', "änna\u2028", "anna", "%_"])
def test_people_are_told_apart_whatever_their_names(
    ledger: Ledger, executor: Executor, redis_url: str, user: str
) -> None:
    others = [f"{user}x", f"x{user}", user.upper() + "!"]
    for one in [user, *others]:
        run(executor, start(user=one), by(one))
    assert forget(executor, redis_url, user).erasure.dialogues == 1
    for one in others:
        assert ledger.keys.generations(TENANT, one)
        assert finding.dialogues_of(ledger, TENANT, one)
    assert len(finding.dialogues_of(ledger, TENANT, user)) == 1


def test_receipts_go_with_the_key_also_those_of_what_had_no_text(
    ledger: Ledger, executor: Executor, redis_url: str
) -> None:
    command = start()
    run(executor, command, once=Once("start", b"a"))
    cancel = CancelReply(dialogue_id=command.dialogue_id, message_id=command.messages[0].message_id)
    run(executor, cancel, once=Once("cancel", b"b"))
    forget(executor, redis_url)
    for key, body in (("start", b"a"), ("cancel", b"b"), ("cancel", b"c")):
        with pytest.raises(KeyReused):
            run(executor, cancel, once=Once(key, body))
    assert run(executor, cancel, once=Once("new", b"d")).replayed is False
    assert run(executor, cancel, once=Once("new", b"d")).replayed is True


def test_a_reply_under_way_ends_and_its_answer_is_refused(
    ledger: Ledger, executor: Executor, redis_url: str
) -> None:
    command = start()
    asked = (command.dialogue_id, command.messages[0].message_id)
    run(executor, command)
    run(executor, start_reply(*asked), by_worker())
    forget(executor, redis_url)
    answer = CompleteReply(
        dialogue_id=asked[0], message_id=asked[1], attempt=1, answer_id=uuid7(), content="A lot.",
        model="small", finish_reason="stop", usage=USAGE,
    )  # fmt: skip
    with pytest.raises(Refused):
        run(executor, answer, by_worker())
    assert kinds(ledger, command.dialogue_id)[-2:] == ["ReplyCancelled", "TextErased"]


def test_a_dialogue_that_cannot_be_read_does_not_keep_the_key_alive(
    ledger: Ledger, executor: Executor, database_url: str, keys_url: str, redis_url: str
) -> None:
    commands = [start() for _ in range(3)]
    for command in commands:
        run(executor, command)
    with psycopg.connect(database_url) as connection:
        for command, version in ((commands[0], 1), (commands[1], 2)):
            connection.execute(
                "update bichat.stored_events set state = 'x' where originator_id = %s"
                " and originator_version = %s",
                (command.dialogue_id, version),
            )
    with opened(database_url, keys_url) as fresh, writing(fresh) as other:
        told = forget(other, redis_url)
    assert sorted(told.erasure.unreadable) == sorted(c.dialogue_id for c in commands[:2])
    assert (told.erasure.dialogues, told.erasure.keys) == (1, 1)
    assert told.erasure.done_at is not None
    assert keys_of(keys_url) == [False]


def test_a_person_who_cannot_be_read_about_keeps_nobody_from_being_forgotten(  # noqa: PLR0917 - two stores and the rest
    ledger: Ledger, executor: Executor, database_url: str, keys_url: str, redis_url: str,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    users = ("anna", "bob")
    mine, theirs = (start(user=user) for user in users)
    for command, user in zip((mine, theirs), users, strict=True):
        run(executor, command, by(user))
        ask = register.ask(ledger.keys, TENANT, user, OLGA)
        run(executor, OrderErasure(tenant_id=TENANT, user_id=user, erasure_id=ask.erasure_id))
        register.ordered(ledger.keys, ask)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update bichat.stored_events set state = 'x' where originator_id = %s",
            (stream_of(TENANT, "anna"),),
        )
    monkeypatch.setattr(erasures, "LEFT", 0.0)
    stop = threading.Event()
    with opened(database_url, keys_url) as fresh, writing(fresh) as other:
        left = threading.Thread(target=erasures.run, args=(other, redis_url, stop, 0.05), daemon=True)
        left.start()
        for _ in range(200):
            if len(register.under_way(ledger.keys, 0)) == 1 and keys_of(keys_url) == [False]:
                break
            stop.wait(0.05)
        stop.set()
        left.join(5)
    assert [one.user_id for one in register.under_way(ledger.keys, 0)] == ["anna"]
    assert "was not finished: Event ErasureOrdered at version 1" in caplog.text
    for command, user in zip((mine, theirs), users, strict=True):
        assert keys_of(keys_url, user) == [False]
        assert kinds(ledger, command.dialogue_id)[-1] == "TextErased"


def test_a_dialogue_that_takes_nothing_any_more_does_not_keep_the_key_alive_either(
    ledger: Ledger, executor: Executor, database_url: str, keys_url: str, redis_url: str
) -> None:
    """Its snapshot and its last event do not agree, so whoever appends loses each time."""
    command = start(None, *(question(str(n)) for n in range(130)))
    run(executor, command)
    with psycopg.connect(database_url, autocommit=True) as connection:
        deadline = time.monotonic() + 10  # a snapshot is written after the command was answered
        while not connection.execute("update bichat.snapshots set hash = %s", (bytes(32),)).rowcount:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    with opened(database_url, keys_url) as fresh, writing(fresh) as other:
        told = forget(other, redis_url)
    assert (told.erasure.unreadable, told.erasure.keys) == ([command.dialogue_id], 1)
    assert keys_of(keys_url) == [False]


def test_who_comes_late_destroys_and_voids_nothing_of_who_came_back(
    ledger: Ledger, executor: Executor, keys_url: str, redis_url: str
) -> None:
    command = start()
    run(executor, command)
    stale = register.ordered(ledger.keys, register.ask(ledger.keys, TENANT, "anna", OLGA))
    register.destroy(ledger.keys, stale, 0, [])
    again = AddMessage(dialogue_id=command.dialogue_id, messages=(question("Back."),))
    run(executor, again)
    assert register.keys_of(ledger.keys, stale) == []
    register.destroy(ledger.keys, stale, 7, [])
    assert keys_of(keys_url) == [False, True]
    entry = register.find(ledger.keys, stale.erasure_id)
    assert entry is not None
    assert (entry.dialogues, entry.keys) == (0, 1)


def test_who_is_being_forgotten_asks_for_nothing_and_gets_no_old_answer(
    ledger: Ledger, executor: Executor, redis_url: str
) -> None:
    run(executor, start())
    run(executor, start(user="olga"), by("olga"))
    forget(executor, redis_url)
    register.ordered(ledger.keys, register.ask(ledger.keys, TENANT, "olga", OLGA))
    ledger.keys.forget([(TENANT, "olga")])
    forgetting = Forgetting(executor, None)
    with pytest.raises(BeingForgotten):  # whose key should fingerprint it?
        asyncio.run(forgetting.forget(TENANT, "anna", OLGA, once=Once("key", b"x")))


def test_words_that_cannot_be_taken_back_now_are_taken_back_later(
    ledger: Ledger, executor: Executor, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = start()
    run(executor, command)
    told = forget(executor, "redis://127.0.0.1:9")
    assert told.erasure.done_at is None
    assert told.erasure.destroyed_at is not None
    again = AddMessage(dialogue_id=command.dialogue_id, messages=(question("Again."),))
    run(executor, again)  # they are back already, and stay
    (left,) = register.under_way(ledger.keys, 0)

    async def resume() -> None:
        deltas = Deltas(redis_url)
        await Forgetting(executor, deltas).resume(left)
        await deltas.close()

    asyncio.run(resume())
    assert register.under_way(ledger.keys, 0) == []
    assert ledger.keys.person(TENANT, "anna")
    last = ledger.read(command.dialogue_id)[-1].fact
    assert isinstance(last, MessageAdded)
    assert last.content == "Again."


def test_a_log_from_before_the_order_is_told_again(
    ledger: Ledger, executor: Executor, database_url: str, keys_url: str, redis_url: str
) -> None:
    """An older log in the place of the newer: what the register has is done to it, holds or not."""
    command = start()
    run(executor, command)
    entry = register.ordered(ledger.keys, register.ask(ledger.keys, TENANT, "anna", OLGA))
    ledger.keys.forget([(TENANT, "anna")])

    async def resume() -> None:
        deltas = Deltas(redis_url)
        await Forgetting(executor, deltas).resume(entry)
        await deltas.close()

    asyncio.run(resume())
    assert kinds(ledger, stream_of(TENANT, "anna")) == ["ErasureOrdered", "PersonErased"]
    assert kinds(ledger, command.dialogue_id)[-1] == "TextErased"


def test_a_hold_refuses_and_leaves_no_trace(ledger: Ledger, executor: Executor, redis_url: str) -> None:
    command = start()
    run(executor, command)
    hold = PlaceHold(tenant_id=TENANT, user_id="anna", hold_id=uuid7(), reason="A lawsuit")
    run(executor, hold)
    with pytest.raises(UnderHold, match=str(hold.hold_id)):
        forget(executor, redis_url)
    assert register.under_way(ledger.keys, 0) == []
    assert kinds(ledger, stream_of(TENANT, "anna")) == ["HoldPlaced"]
    said = ledger.read(command.dialogue_id)[1].fact
    assert isinstance(said, MessageAdded)
    assert said.content == "How much?"


def test_an_order_that_the_register_has_lost_is_found_in_the_log(
    ledger: Ledger, executor: Executor, keys_url: str, redis_url: str
) -> None:
    command = start()
    run(executor, command)
    ask = register.ask(ledger.keys, TENANT, "anna", OLGA)
    run(executor, OrderErasure(tenant_id=TENANT, user_id="anna", erasure_id=ask.erasure_id))
    with psycopg.connect(keys_url) as connection:
        connection.execute("delete from bichat_keys.erasures")
    told = forget(executor, redis_url)
    assert told.erasure.erasure_id == ask.erasure_id
    assert told.erasure.done_at is not None
    facts = [event.fact for event in ledger.read(stream_of(TENANT, "anna"))]
    assert [type(fact) for fact in facts] == [ErasureOrdered, PersonErased]
    assert ledger.stream(stream_of(TENANT, "anna"), NOBODY).state.erasing is None
    assert isinstance(ledger.read(command.dialogue_id)[-1].fact, TextErased)
