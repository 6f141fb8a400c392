"""Random histories of commands through two writers on one store; what they leave must always add up."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from functools import reduce
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, settings, strategies
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from uuid_utils.compat import uuid7

from bichat.commands.command import Command
from bichat.commands.dialogue import (
    AddMessage,
    ArchiveDialogue,
    CancelReply,
    DeleteDialogue,
    RenameDialogue,
    RestoreDialogue,
    RetryFailedReply,
    RetryReply,
    UnarchiveDialogue,
)
from bichat.commands.execute import Executor, Once, Outcome
from bichat.commands.reply import CompleteReply, FailReply, GiveUpReply
from bichat.errors import Refused
from bichat.events.dialogue import Usage
from bichat.events.dialogue_state import NOTHING, evolve
from bichat.events.envelope import Metadata
from bichat.events.ledger import Ledger
from bichat.events.recorder import LogRecorder
from bichat.events.seal import GENESIS, Place, chain
from tests.examples import by, by_worker, opened, question, start, start_reply, writing

CHANGES = [ArchiveDialogue, DeleteDialogue, RestoreDialogue, UnarchiveDialogue]
writers = strategies.integers(0, 1)
keys = strategies.sampled_from([None, None, "a", "b", "c"])


class Histories(RuleBasedStateMachine):
    """Any order of commands, by people and workers, through either writer, repeated at will."""

    database_url: str
    dialogues = Bundle("dialogues")

    def __init__(self) -> None:
        super().__init__()
        self.tenant = uuid7()
        self.stack = ExitStack()
        self.ledgers: list[Ledger] = []
        self.executors: list[Executor] = []
        for _ in range(2):
            ledger = self.stack.enter_context(opened(self.database_url))
            self.ledgers.append(ledger)
            self.executors.append(self.stack.enter_context(writing(ledger)))
        self.told: list[tuple[Metadata, Outcome]] = []
        self.by_key: dict[str, tuple[Once, Outcome]] = {}

    def teardown(self) -> None:
        self.stack.close()

    def run(self, writer: int, command: Command, who: Metadata | None = None, key: str | None = None) -> None:
        who = who or by(tenant=self.tenant)
        once = Once(key, repr(command).encode()) if key else None
        try:
            outcome = asyncio.run(self.executors[writer].execute(command, who, once=once))
        except Refused:
            return
        self.told.append((who, outcome))
        if key and once:
            first_once, first = self.by_key.setdefault(key, (once, outcome))
            assert first_once == once
            assert (first.dialogue_id, first.version, first.position) == (
                outcome.dialogue_id, outcome.version, outcome.position,
            )  # fmt: skip

    def asked(self, dialogue_id: UUID, pick: int) -> tuple[UUID, int]:
        """One of the unanswered questions and its last attempt, or one that never was."""
        unanswered = sorted(self.ledgers[0].load(dialogue_id).state.unanswered.items())
        if not unanswered:
            return uuid7(), 0
        message_id, found = unanswered[pick % len(unanswered)]
        return message_id, found.attempt

    @rule(target=dialogues, writer=writers)
    def start(self, writer: int) -> UUID:
        command = start()
        self.run(writer, command)
        return command.dialogue_id

    @rule(dialogue=dialogues, writer=writers, asks=strategies.integers(1, 3), key=keys)
    def add(self, dialogue: UUID, writer: int, asks: int, key: str | None) -> None:
        command = AddMessage(dialogue_id=dialogue, messages=tuple(question() for _ in range(asks)))
        self.run(writer, command, key=key)
        self.run(1 - writer, command, key=key) if key else None

    @rule(dialogue=dialogues)
    def both_at_once(self, dialogue: UUID) -> None:
        async def race() -> None:
            calls = [
                e.execute(AddMessage(dialogue_id=dialogue, messages=(question(),)), by(tenant=self.tenant))
                for e in self.executors * 3
            ]
            await asyncio.gather(*calls, return_exceptions=True)

        asyncio.run(race())

    @rule(dialogue=dialogues, writer=writers, change=strategies.sampled_from(CHANGES), key=keys)
    def change(self, dialogue: UUID, writer: int, change: type[Command], key: str | None) -> None:
        self.run(writer, change(dialogue_id=dialogue), key=key)

    @rule(dialogue=dialogues, writer=writers)
    def rename(self, dialogue: UUID, writer: int) -> None:
        self.run(writer, RenameDialogue(dialogue_id=dialogue, label="x"))

    @rule(dialogue=dialogues, writer=writers, pick=strategies.integers(0, 9), what=strategies.integers(0, 1))
    def cancel_or_retry(self, dialogue: UUID, writer: int, pick: int, what: int) -> None:
        message_id, _ = self.asked(dialogue, pick)
        self.run(writer, (CancelReply, RetryReply)[what](dialogue_id=dialogue, message_id=message_id))

    @rule(dialogue=dialogues, writer=writers, pick=strategies.integers(0, 9))
    def claim(self, dialogue: UUID, writer: int, pick: int) -> None:
        message_id, attempt = self.asked(dialogue, pick)
        self.run(writer, start_reply(dialogue, message_id, attempt + 1), by_worker(self.tenant))

    @rule(dialogue=dialogues, writer=writers, pick=strategies.integers(0, 9))
    def give_up(self, dialogue: UUID, writer: int, pick: int) -> None:
        message_id, attempt = self.asked(dialogue, pick)
        why = {"code": "parked", "detail": "not queued"}
        command = GiveUpReply(dialogue_id=dialogue, message_id=message_id, attempt=attempt, **why)
        self.run(writer, command, by_worker(self.tenant))

    @rule(dialogue=dialogues, writer=writers, pick=strategies.integers(0, 9))
    def ops_retry(self, dialogue: UUID, writer: int, pick: int) -> None:
        message_id, _ = self.asked(dialogue, pick)
        command = RetryFailedReply(dialogue_id=dialogue, message_id=message_id)
        self.run(writer, command, by("olga", self.tenant))

    @rule(dialogue=dialogues, writer=writers, pick=strategies.integers(0, 9), end=strategies.integers(0, 2))
    def end(self, dialogue: UUID, writer: int, pick: int, end: int) -> None:
        message_id, attempt = self.asked(dialogue, pick)
        about: dict[str, Any] = {"dialogue_id": dialogue, "message_id": message_id, "attempt": attempt}
        answer: dict[str, Any] = {
            "answer_id": uuid7(),
            "content": "A lot.",
            "model": "m",
            "finish_reason": "stop",
        }
        failure: dict[str, Any] = {"code": "x", "detail": "", "partial": "", "final": end == 1}
        command: Command = CompleteReply(**about, **answer, usage=Usage())
        if end:
            command = FailReply(**about, **failure, usage=Usage())
        self.run(writer, command, by_worker(self.tenant))

    @invariant()
    def everything_adds_up(self) -> None:
        for dialogue_id in {outcome.dialogue_id for _, outcome in self.told}:
            self.check(dialogue_id)

    def check(self, dialogue_id: UUID) -> None:
        recorder = self.ledgers[1].recorder
        assert isinstance(recorder, LogRecorder)
        head, answered = GENESIS, set()
        rows = recorder.select_events(dialogue_id)
        for version, row in enumerate(rows, 1):
            place = Place(row.tenant_id, dialogue_id, version, row.topic)
            head = chain(head, place, row.command_id, row.state)
            assert (row.originator_version, row.hash) == (version, head)
        events = self.ledgers[0].read(dialogue_id)
        for event in events:
            answers = getattr(event.fact, "answers", None)
            if answers:
                assert answers.message_id not in answered, "answered twice"
                answered.add(answers.message_id)
        assert [e.at for e in events] == sorted(e.at for e in events)
        assert [e.position for e in events] == sorted(e.position for e in events)
        loaded = self.ledgers[1].load(dialogue_id)
        assert loaded.state == reduce(evolve, events, NOTHING)
        commands = {row.command_id: row.originator_version for row in rows}
        for who, outcome in self.told:
            if outcome.dialogue_id == dialogue_id and not outcome.replayed:
                # Its last event, or nothing at all where it changed nothing.
                assert commands.get(who.command_id, outcome.version) == outcome.version


@pytest.mark.timeout(300)
def test_any_history_adds_up(database_url: str) -> None:
    machine = type("OnThisDatabase", (Histories,), {"database_url": database_url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
