"""Any order of commands by people, workers and operators through two writers, repeated and raced at will."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any
from uuid import UUID

from hypothesis import strategies
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from uuid_utils.compat import uuid7

from bichat.commands.audit import RecordReading
from bichat.commands.command import Command
from bichat.commands.dialogue import (
    AddMessage,
    ArchiveDialogue,
    ArchiveIdleDialogue,
    CancelReply,
    DeleteDialogue,
    EraseText,
    LabelDialogue,
    RenameDialogue,
    RestoreDialogue,
    RetryFailedReply,
    RetryReply,
    UnarchiveDialogue,
)
from bichat.commands.execute import Once, Outcome
from bichat.commands.function import DescribeFunction
from bichat.commands.person import PlaceHold, ReleaseHold
from bichat.commands.prompt import ChangePrompt, RemovePrompt
from bichat.commands.reply import (
    Call,
    CallFunctions,
    CompleteReply,
    FailReply,
    GiveUpReply,
    ReturnFunction,
)
from bichat.errors import Refused
from bichat.events.dialogue import Usage
from bichat.events.dialogue_state import NOTHING, evolve
from bichat.events.envelope import Metadata
from bichat.events.ledger import Ledger
from bichat.events.recorder import LogRecorder
from bichat.events.seal import GENESIS, Place, chain
from chaos.writers import Job, Told, Writer
from tests.examples import USAGE, by, by_worker, question, start, start_reply

CHANGES = (ArchiveDialogue, DeleteDialogue, RestoreDialogue, UnarchiveDialogue, ArchiveIdleDialogue)
through = strategies.sampled_from([(0,), (1,), (0, 1), (0, 1, 0, 1)])
"""Which writer is sent it; several: the same to each, all at once."""
keys = strategies.sampled_from([None, None, "a", "b", "c"])
picks = strategies.integers(0, 9)


class Histories(RuleBasedStateMachine):
    """One tenant's history; `ledger` reads what the `writers` have left."""

    writers: list[Writer]
    ledger: Ledger
    dialogues = Bundle("dialogues")

    def __init__(self) -> None:
        super().__init__()
        self.tenant, self.hold = uuid7(), uuid7()
        self.told: list[tuple[Metadata, Outcome]] = []
        self.by_key: dict[str, list[tuple[Job, Outcome]]] = {}

    def run(
        self, where: tuple[int, ...], make: Command | Callable[[], Command], who: Metadata | None = None,
        key: str | None = None,
    ) -> None:  # fmt: skip
        """Through these writers at once; each with ids of its own, as every request has them."""
        who = who or by(tenant=self.tenant)
        made = [make if isinstance(make, Command) else make() for _ in where]
        once = Once(key, repr(made[0]).encode()) if key else None
        jobs = [
            (n, Job(command, Metadata(tenant_id=who.tenant_id, actor=who.actor, command_id=uuid7()), once))
            for n, command in zip(where, made, strict=True)
        ]
        sent = {n: [job for to, job in jobs if to == n] for n in where}
        for n, some in sent.items():
            self.writers[n].send(some)
        for n, some in sent.items():
            for job, answer in zip(some, self.writers[n].told(), strict=True):
                self.heard(job, answer)

    def heard(self, job: Job, answer: Told) -> None:
        """A refusal leaves nothing; anything else but an outcome is an error of ours."""
        if isinstance(answer, Refused):
            return
        assert isinstance(answer, Outcome), f"{job.command} was told {answer!r}"
        self.told.append((job.by, answer))
        if job.once:
            before = self.by_key.setdefault(job.once.key, [])
            before.append((job, answer))
            first_job, first = before[0]
            assert first_job.once == job.once
            assert (first.dialogue_id, first.version, first.position) == (
                answer.dialogue_id, answer.version, answer.position,
            )  # fmt: skip

    def asked(self, dialogue_id: UUID, pick: int) -> tuple[UUID, int]:
        """One of the unanswered questions and its last attempt, or one that never was."""
        unanswered = sorted(self.ledger.load(dialogue_id).state.unanswered.items())
        if not unanswered:
            return uuid7(), 0
        message_id, found = unanswered[pick % len(unanswered)]
        return message_id, found.attempt

    # --- people -----------------------------------------------------------------------------------

    @rule(target=dialogues, where=through)
    def start(self, where: tuple[int, ...]) -> UUID:
        command = start()
        self.run(where, command)
        return command.dialogue_id

    @rule(dialogue=dialogues, where=through, asks=strategies.integers(1, 3), key=keys)
    def add(self, dialogue: UUID, where: tuple[int, ...], asks: int, key: str | None) -> None:
        def make() -> Command:
            return AddMessage(dialogue_id=dialogue, messages=tuple(question() for _ in range(asks)))

        self.run(where, make, key=key)

    @rule(dialogue=dialogues)
    def add_at_once(self, dialogue: UUID) -> None:
        for writer in self.writers:
            writer.send([
                Job(AddMessage(dialogue_id=dialogue, messages=(question(),)), by(tenant=self.tenant))
                for _ in range(3)
            ])  # fmt: skip
        for writer in self.writers:
            writer.told()  # who lost is told so; what they left is checked below

    @rule(dialogue=dialogues, where=through, change=strategies.sampled_from(CHANGES), key=keys)
    def change(self, dialogue: UUID, where: tuple[int, ...], change: Any, key: str | None) -> None:
        self.run(where, change(dialogue_id=dialogue), key=key)

    @rule(dialogue=dialogues, where=through)
    def rename(self, dialogue: UUID, where: tuple[int, ...]) -> None:
        self.run(where, RenameDialogue(dialogue_id=dialogue, label="x"))

    @rule(
        dialogue=dialogues, where=through, pick=picks, what=strategies.sampled_from([CancelReply, RetryReply])
    )
    def cancel_or_retry(self, dialogue: UUID, where: tuple[int, ...], pick: int, what: Any) -> None:
        message_id, _ = self.asked(dialogue, pick)
        self.run(where, what(dialogue_id=dialogue, message_id=message_id))

    # --- workers ----------------------------------------------------------------------------------

    @rule(dialogue=dialogues, where=through, pick=picks)
    def claim(self, dialogue: UUID, where: tuple[int, ...], pick: int) -> None:
        message_id, attempt = self.asked(dialogue, pick)
        self.run(where, start_reply(dialogue, message_id, attempt + 1), by_worker(self.tenant))

    @rule(dialogue=dialogues, where=through, pick=picks)
    def call(self, dialogue: UUID, where: tuple[int, ...], pick: int) -> None:
        message_id, attempt = self.asked(dialogue, pick)
        about: dict[str, Any] = {"dialogue_id": dialogue, "message_id": message_id, "attempt": attempt}
        one: dict[str, Any] = {"id": uuid7(), "call_id": "c", "name": "query"}
        self.run(
            where, CallFunctions(**about, round=1, said="", calls=(Call(**one, arguments="{}"),)),
            by_worker(self.tenant),
        )  # fmt: skip
        self.run(
            where, ReturnFunction(**about, **(one | {"id": uuid7()}), result="[]", failed=False),
            by_worker(self.tenant),
        )  # fmt: skip

    @rule(dialogue=dialogues, where=through, pick=picks, end=strategies.integers(0, 3))
    def end(self, dialogue: UUID, where: tuple[int, ...], pick: int, end: int) -> None:
        message_id, attempt = self.asked(dialogue, pick)
        about: dict[str, Any] = {"dialogue_id": dialogue, "message_id": message_id, "attempt": attempt}
        answer: dict[str, Any] = {
            "answer_id": uuid7(),
            "content": "A lot.",
            "model": "m",
            "finish_reason": "stop",
        }
        failure: dict[str, Any] = {"code": "x", "detail": "", "partial": "", "final": end == 1}
        command: Command = CompleteReply(**about, **answer, usage=USAGE)
        if end == 3:
            command = GiveUpReply(**about, code="parked", detail="not queued")
        elif end:
            command = FailReply(**about, **failure, usage=USAGE)
        self.run(where, command, by_worker(self.tenant))

    # --- operators --------------------------------------------------------------------------------

    @rule(dialogue=dialogues, where=through, pick=picks)
    def ops_retry(self, dialogue: UUID, where: tuple[int, ...], pick: int) -> None:
        message_id, _ = self.asked(dialogue, pick)
        self.run(
            where, RetryFailedReply(dialogue_id=dialogue, message_id=message_id), by("olga", self.tenant)
        )

    @rule(dialogue=dialogues, where=through)
    def label(self, dialogue: UUID, where: tuple[int, ...]) -> None:
        self.run(
            where,
            LabelDialogue(dialogue_id=dialogue, label="y", model="m", usage=Usage()),
            by_worker(self.tenant),
        )

    @rule(dialogue=dialogues, where=through)
    def erase(self, dialogue: UUID, where: tuple[int, ...]) -> None:
        self.run(where, EraseText(dialogue_id=dialogue), by("olga", self.tenant))

    @rule(where=through, pick=picks, key=keys)
    def beside(self, where: tuple[int, ...], pick: int, key: str | None) -> None:
        """What is about no dialogue."""
        person: dict[str, Any] = {"tenant_id": self.tenant, "user_id": "anna"}
        prompt: dict[str, Any] = {"tenant_id": self.tenant, "name": "system"}
        others: list[Command] = [
            ChangePrompt(**prompt, template=f"Be brief {pick}."),
            ChangePrompt(**prompt, template="Be brief."),
            RemovePrompt(**prompt),
            DescribeFunction(tenant_id=self.tenant, digest=f"{pick}" * 64, name="query", schema="{}"),
            PlaceHold(**person, hold_id=self.hold, reason="A lawsuit"),
            ReleaseHold(**person, hold_id=self.hold),
            RecordReading(tenant_id=self.tenant, what="feed"),
        ]
        self.run(where, others[pick % len(others)], by("olga", self.tenant), key=key and f"olga {key}")

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def everything_adds_up(self) -> None:
        for stream_id in {outcome.dialogue_id for _, outcome in self.told}:
            self.check(stream_id)
        for done in self.by_key.values():
            ids = {job.by.command_id for job, _ in done}
            rows = self.rows(done[0][1].dialogue_id)
            assert len({row.command_id for row in rows} & ids) <= 1, "one key did two things"

    def rows(self, stream_id: UUID) -> list[Any]:
        recorder = self.ledger.recorder
        assert isinstance(recorder, LogRecorder)
        return list(recorder.select_events(stream_id))

    def check(self, stream_id: UUID) -> None:
        head, answered, rows = GENESIS, set(), self.rows(stream_id)
        for version, row in enumerate(rows, 1):
            head = chain(head, Place(row.tenant_id, stream_id, version, row.topic), row.command_id, row.state)
            assert (row.originator_version, row.hash) == (version, head)
        events = self.ledger.read(stream_id)
        for event in events:
            if answers := getattr(event.fact, "answers", None):
                assert answers.message_id not in answered, "answered twice"
                answered.add(answers.message_id)
        assert [e.at for e in events] == sorted(e.at for e in events)
        assert [e.position for e in events] == sorted(e.position for e in events)
        if events[0].subject == "dialogue":
            assert self.ledger.load(stream_id).state == reduce(evolve, events, NOTHING)
        commands = {row.command_id: row.originator_version for row in rows}
        for who, outcome in self.told:
            if outcome.dialogue_id == stream_id and not outcome.replayed:
                # Its last event, or nothing at all where it changed nothing.
                assert commands.get(who.command_id, outcome.version) == outcome.version
