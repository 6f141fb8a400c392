"""The one writer on a real Postgres: nothing lost, nothing twice, rivals and errors survived."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import psycopg
import pytest
from uuid_utils.compat import uuid7

from bichat.commands.batch import Batch
from bichat.commands.dialogue import AddMessage, DeleteDialogue, RenameDialogue, RestoreDialogue
from bichat.commands.execute import Executor, Once, Outcome
from bichat.commands.job import Job
from bichat.errors import (
    IsDeleted,
    KeyReused,
    LogUnavailable,
    LogUnreadable,
    NotFound,
    Overloaded,
    PreconditionFailed,
    Stopping,
)
from bichat.events.dialogue_state import NOTHING
from bichat.events.keys import rotation
from bichat.events.ledger import Ledger, Stream
from tests.examples import NOON, TENANT, by, opened, question, start, writing


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


@pytest.fixture
def executor(ledger: Ledger) -> Iterator[Executor]:
    with writing(ledger) as executor:
        yield executor


def gather(*calls: Any) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*calls, return_exceptions=True)

    return asyncio.run(all_of_them())


def add(executor: Executor, dialogue_id: Any, content: str = "And?", **options: Any) -> Any:
    return executor.execute(
        AddMessage(dialogue_id=dialogue_id, messages=(question(content),)), by(), **options
    )


def test_what_was_answered_is_in_the_log(executor: Executor, ledger: Ledger) -> None:
    command = start()
    (told,) = gather(executor.execute(command, by()))
    events = ledger.read(command.dialogue_id)
    assert told == Outcome(
        dialogue_id=command.dialogue_id, message_id=command.messages[0].message_id, version=2,
        position=events[-1].position,
    )  # fmt: skip
    assert [event.version for event in events] == [1, 2]
    assert events[1].fact.content == "How much?"  # type: ignore[attr-defined]


def test_the_same_key_does_it_once_also_when_many_race(executor: Executor, ledger: Ledger) -> None:
    once = Once("key", b"same")
    told = gather(*(executor.execute(start(), by(), once=once) for _ in range(20)))
    assert len({(t.dialogue_id, t.message_id, t.version, t.position) for t in told}) == 1
    assert sorted(t.replayed for t in told) == [False] + [True] * 19
    assert len(ledger.read(told[0].dialogue_id)) == 2


def test_two_writers_racing_on_one_key_do_it_once(
    executor: Executor, ledger: Ledger, database_url: str
) -> None:
    with opened(database_url) as other_ledger, writing(other_ledger) as other:
        for n in range(20):
            once = Once(f"key {n}", b"same")
            told = gather(*(w.execute(start(), by(), once=once) for w in (executor, other)))
            assert len({t.dialogue_id for t in told}) == 1
            assert {t.replayed for t in told} == {True, False}


def test_the_same_key_for_another_request_or_user_is_another_thing(executor: Executor) -> None:
    once, other = Once("key", b"one"), Once("key", b"two")
    (told,) = gather(executor.execute(start(), by(), once=once))
    (refused,) = gather(executor.execute(start(), by(), once=other))
    assert isinstance(refused, KeyReused)
    (theirs,) = gather(executor.execute(start(user="ben"), by("ben"), once=other))
    assert (told.replayed, theirs.replayed) == (False, False)


def test_a_command_that_changed_nothing_still_leaves_its_receipt(executor: Executor) -> None:
    command = start()
    (started,) = gather(executor.execute(command, by()))
    restore = RestoreDialogue(dialogue_id=command.dialogue_id)
    (first,) = gather(executor.execute(restore, by(), once=Once("r", b"r")))
    gather(add(executor, command.dialogue_id))
    (again,) = gather(executor.execute(restore, by(), once=Once("r", b"r")))
    assert (first.version, first.position) == (2, started.position)
    assert (again.version, again.position, again.replayed) == (2, started.position, True)


def test_a_refused_call_leaves_nothing_behind(executor: Executor, database_url: str) -> None:
    gather(add(executor, uuid7(), once=Once("key", b"same")))
    with psycopg.connect(database_url) as connection:
        for table in ("receipts", "stored_events"):
            count = connection.execute(f"select count(*) from bichat.{table}").fetchone()
            assert count == (0,)


def test_commands_sent_together_are_decided_one_after_the_other(executor: Executor) -> None:
    command = start()
    gather(executor.execute(command, by()))
    dialogue_id = command.dialogue_id
    told = gather(
        executor.execute(RenameDialogue(dialogue_id=dialogue_id, label="x"), by()),
        executor.execute(DeleteDialogue(dialogue_id=dialogue_id), by()),
        add(executor, dialogue_id),
        executor.execute(RestoreDialogue(dialogue_id=dialogue_id), by()),
        executor.execute(RestoreDialogue(dialogue_id=dialogue_id), by()),
    )
    assert isinstance(told[2], IsDeleted)
    assert [t.version for t in told if isinstance(t, Outcome)] == [3, 5, 6, 6]
    assert told[3].position == told[4].position


def test_two_writers_on_one_dialogue_lose_and_double_nothing(
    executor: Executor, ledger: Ledger, database_url: str
) -> None:
    command = start()
    gather(executor.execute(command, by()))
    with opened(database_url) as other_ledger, writing(other_ledger) as other:
        told = gather(
            *(
                add(w, command.dialogue_id, f"{i} {n}")
                for n in range(100)
                for i, w in enumerate((executor, other))
            )
        )
    assert all(isinstance(t, Outcome) for t in told)
    events = ledger.read(command.dialogue_id)
    assert [event.version for event in events] == list(range(1, 203))
    assert sorted(t.version for t in told) == list(range(3, 203))
    said = {event.fact.content for event in events[2:]}  # type: ignore[attr-defined]
    assert said == {f"{i} {n}" for i in range(2) for n in range(100)}
    assert [e.position for e in events] == sorted(e.position for e in events)


def test_if_match_lets_only_one_of_two_through(executor: Executor) -> None:
    command = start()
    gather(executor.execute(command, by()))
    told = gather(*(add(executor, command.dialogue_id, if_match=2) for _ in range(2)))
    assert [type(t) for t in told] == [Outcome, PreconditionFailed]


def test_one_bad_command_harms_no_other(executor: Executor) -> None:
    command = start()
    gather(executor.execute(command, by()))
    bad, good = gather(add(executor, command.dialogue_id, "\ud800"), add(executor, command.dialogue_id))
    assert isinstance(bad, UnicodeEncodeError)
    assert good.version == 3


def test_a_row_that_the_database_refuses_fails_alone(executor: Executor, database_url: str) -> None:
    first, second = start(), start()
    gather(executor.execute(first, by()), executor.execute(second, by()))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "alter table bichat.stored_events add check"
            f" (originator_id <> '{first.dialogue_id}' or originator_version < 3)"
        )
    bad, good = gather(add(executor, first.dialogue_id), add(executor, second.dialogue_id))
    assert isinstance(bad, Exception)
    assert not isinstance(bad, Outcome)
    assert good.version == 3


def test_a_dialogue_that_cannot_be_read_harms_no_other(executor: Executor, database_url: str) -> None:
    first, second = start(), start()
    gather(executor.execute(first, by()), executor.execute(second, by()))
    with psycopg.connect(database_url, autocommit=True) as connection:
        # As a newer bichat beside this one would leave it.
        connection.execute(
            "insert into bichat.stored_events select nextval('bichat.log_position'), originator_id, 3,"
            " 'SomethingNew', state, tenant_id, command_id, recorded_at, hash from bichat.stored_events"
            " where originator_id = %s and originator_version = 2",
            (first.dialogue_id,),
        )
    bad, good = gather(add(executor, first.dialogue_id), add(executor, second.dialogue_id))
    assert isinstance(bad, LogUnreadable)
    assert good.version == 3


def test_a_no_that_rests_on_what_is_not_committed_is_not_told_when_that_loses(
    ledger: Ledger, database_url: str
) -> None:
    """Delete and add in one batch, and a rival who appends first: the add must not hear "deleted"."""
    command = start()
    with opened(database_url) as other, writing(other) as rival:
        gather(rival.execute(command, by()))
        jobs = [
            Job(what, by(), None, 2 if n == 0 else None)
            for n, what in enumerate(
                (
                    DeleteDialogue(dialogue_id=command.dialogue_id),
                    AddMessage(dialogue_id=command.dialogue_id, messages=(question(),)),
                )
            )
        ]
        batch = Batch(ledger, {command.dialogue_id: Stream(NOTHING)}, jobs, NOON)
        for job in jobs:
            batch.decide(job)
        gather(rival.execute(RenameDialogue(dialogue_id=command.dialogue_id, label="x"), by()))
        batch.append()
        assert batch.again == jobs
        assert not any(job.answer for job in jobs)
        again = Batch(ledger, {command.dialogue_id: Stream(NOTHING)}, batch.again, NOON)
        for job in jobs:
            again.decide(job)
        again.append()
    assert isinstance(jobs[0].answer, PreconditionFailed)
    assert isinstance(jobs[1].answer, Outcome)
    assert jobs[1].answer.version == 4


def test_keys_that_cannot_be_reached_refuse_only_those_who_need_a_new_one(
    executor: Executor, ledger: Ledger
) -> None:
    command = start()
    gather(executor.execute(command, by()))
    ledger.keys.close()
    told = gather(add(executor, command.dialogue_id), executor.execute(start(user="new"), by("new")))
    assert told[0].version == 3
    assert isinstance(told[1], LogUnavailable)


def test_nobody_waits_for_the_key_of_a_receipt_while_others_are_decided(
    executor: Executor, database_url: str
) -> None:
    once, other = Once("key", b"same"), Once("other", b"same")
    command = start()
    gather(executor.execute(command, by(), once=once))
    for away in (False, True):
        with opened(database_url) as later:
            rotation.renew(later.keys, rotation.now(later.keys), None, None, lambda *_: None)
            later.keys.prepare([(TENANT, "anna")])  # the new one, which is not what the receipt names
            say = AddMessage(dialogue_id=command.dialogue_id, messages=(question(),))
            jobs = [Job(command, by(), once, None), Job(say, by(), other, None)]
            if away:
                later.keys.close()
            batch = Batch(later, {command.dialogue_id: Stream(NOTHING)}, jobs, NOON)
            later.keys.close()  # who asks it now does so in the middle of the batch
            for job in jobs:
                batch.decide(job)
            if away:
                assert isinstance(jobs[0].answer, LogUnavailable)
            else:
                assert isinstance(jobs[0].answer, Outcome)
                assert jobs[0].answer.replayed
            assert jobs[1].answer is None  # it is to be appended


def test_a_queue_that_is_full_says_so_at_once(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bichat.commands.execute._LONGEST_QUEUE", 3)
    executor = Executor(ledger)

    async def crowd() -> list[Any]:
        waiting = [asyncio.create_task(executor.execute(start(), by())) for _ in range(5)]
        await asyncio.sleep(0)
        executor.start()
        return await asyncio.gather(*waiting, return_exceptions=True)

    told = asyncio.run(crowd())
    executor.close()
    assert [type(t) for t in told] == [Outcome] * 3 + [Overloaded] * 2


def test_a_caller_that_goes_away_stops_nobody(executor: Executor) -> None:
    async def impatient() -> Outcome:
        gone = [asyncio.create_task(executor.execute(start(), by())) for _ in range(50)]
        await asyncio.sleep(0)
        for task in gone:
            task.cancel()
        return await executor.execute(start(), by())

    assert asyncio.run(impatient()).version == 2


def test_time_never_runs_backwards_in_a_dialogue(ledger: Ledger) -> None:
    times = iter([NOON, NOON - timedelta(hours=1), NOON + timedelta(hours=1)])
    executor = Executor(ledger, clock=lambda: next(times))
    executor.start()
    command = start()
    gather(executor.execute(command, by()))
    gather(add(executor, command.dialogue_id))
    gather(add(executor, command.dialogue_id))
    executor.close()
    assert [e.at - NOON for e in ledger.read(command.dialogue_id)] == [
        timedelta(0), timedelta(0), timedelta(0), timedelta(hours=1),
    ]  # fmt: skip


def test_a_snapshot_saves_reading_a_long_dialogue_from_the_start(executor: Executor, ledger: Ledger) -> None:
    command = start()
    gather(executor.execute(command, by()))
    for _ in range(6):
        gather(*(add(executor, command.dialogue_id) for _ in range(60)))
    loaded = ledger.load(command.dialogue_id)
    assert loaded.snapshot > 100
    assert (loaded.head.version, loaded.state.message_count) == (362, 361)


def test_every_connection_may_be_cut_and_the_writer_goes_on(executor: Executor, database_url: str) -> None:
    command = start()
    gather(executor.execute(command, by()))
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and pid <> pg_backend_pid()"
        )
    (told,) = gather(add(executor, command.dialogue_id))
    assert isinstance(told, Outcome)


def test_a_locked_log_is_a_clear_no_and_nothing_hangs(executor: Executor, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("select pg_advisory_xact_lock(hashtextextended('bichat.append', 0))")
        (told,) = gather(executor.execute(start(), by()))
    assert isinstance(told, LogUnavailable)
    (told,) = gather(executor.execute(start(), by()))
    assert isinstance(told, Outcome)


def test_a_closed_writer_says_so(ledger: Ledger) -> None:
    executor = Executor(ledger)
    executor.start()
    executor.close()
    (told,) = gather(executor.execute(start(), by()))
    assert isinstance(told, Stopping)


def test_a_stranger_leaves_no_trace(executor: Executor, ledger: Ledger) -> None:
    command = start()
    gather(executor.execute(command, by()))
    (told,) = gather(executor.execute(DeleteDialogue(dialogue_id=command.dialogue_id), by("eve")))
    assert isinstance(told, NotFound)
    assert ledger.load(command.dialogue_id).head.version == 2
