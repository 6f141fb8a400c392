"""One batch of commands: each decided on the state after the one before it, appended together."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct

from bichat import metrics
from bichat.commands.command import Command, PersonCommand
from bichat.commands.decide import decide
from bichat.commands.dialogue import StartDialogue
from bichat.commands.job import Job, Outcome, key_of, receipt, replay
from bichat.errors import (
    BeingForgotten,
    LogUnavailable,
    LogUnreadable,
    PreconditionFailed,
    VersionRace,
)
from bichat.events.codec import Draft, StoredRow
from bichat.events.envelope import Fact, has_text
from bichat.events.keys.data_keys import Person
from bichat.events.keys.store import DAMAGED
from bichat.events.ledger import Ledger, Stream
from bichat.events.recorder import Group, Receipt
from bichat.events.seal import PersonKey

_TRIES = 20
"""How often a command may lose against rival writers; each time it is decided anew."""


class _Pending(Struct, eq=False):
    """What a batch wants to append to one stream, and who waits for it."""

    before: Stream[Any]
    after: Stream[Any]
    rows: list[StoredRow] = []
    receipts: list[tuple[int, Receipt]] = []
    answers: list[tuple[Job, int, Outcome | Exception]] = []
    """Each with the number of rows that stood when it was decided."""


class Batch:
    """Decides jobs in order; nobody is answered before what the answer rests on is committed."""

    def __init__(self, ledger: Ledger, held: dict[UUID, Stream[Any]], jobs: list[Job], now: datetime) -> None:
        """Brings the streams of `jobs` up to date in one round trip; raises `LogUnavailable`."""
        self._ledger, self._now = ledger, now
        keys = list({key for job in jobs if (key := job.key())})
        self._known = ledger.refresh(held, keys)
        self._damaged: set[Person] = set()
        self._keys_asked = self._prepare_keys(jobs)
        self._keys_taken: set[tuple[UUID, str, str]] = set()
        self._pending: dict[UUID, _Pending] = {}
        self.again: list[Job] = []
        """Jobs to be decided anew: they lost to a rival, or wait for one with the same key."""
        self.position = 0
        """Of the last event appended."""

    def decide(self, job: Job) -> None:
        """Decides one job; a failure is its own and harms no other."""
        stream_id = job.command.stream_id
        key = job.key()
        if key in self._keys_taken:
            self.again.append(job)
            return
        if stream_id in self._known.unreadable:
            job.answer = LogUnreadable(reason=self._known.unreadable[stream_id])
            return
        pending = self._pending.get(stream_id)
        stream = pending.after if pending else self._known.streams[stream_id]
        try:
            if job.once and key and (left := self._known.receipts.get(key)):
                key_of_it = self._ledger.keys.held_by_id(key_of(left))
                job.answer = replay(job.once, left, key_of_it)
                return
            if job.unless:
                raise job.unless
            facts = decide(stream.state, job.command, job.by)
            if job.if_match is not None and job.if_match != stream.head.version:
                raise PreconditionFailed(version=stream.head.version, expected=job.if_match)
            pending = pending or _Pending(before=stream, after=stream)
            self._write(pending, job, facts)
        except Exception as error:  # whatever it is, it is this caller's answer
            if pending and pending.rows:
                # It may rest on what is not committed yet.
                pending.answers.append((job, len(pending.rows), error))
            else:
                job.answer = error
            return
        self._pending[stream_id] = pending
        if key:
            self._keys_taken.add(key)

    def append(self) -> dict[UUID, Stream[Any]]:
        """Appends what was decided, answers everyone, and returns the streams as committed."""
        settled = {
            stream_id: pending
            for stream_id, pending in self._pending.items()
            if pending.rows or pending.receipts
        }
        groups = [
            Group(stream_id, p.before.head, tuple(p.rows), tuple(p.receipts))
            for stream_id, p in settled.items()
        ]
        won: dict[int, list[int]] = {}
        if groups:
            with metrics.APPENDS.time():
                won = self._ledger.append(groups)
        committed = dict(self._known.streams)
        for index, (stream_id, pending) in enumerate(settled.items()):
            if index in won:
                committed[stream_id] = _placed(pending.after, won[index])
                self.position = max([self.position, *won[index]])
                self._answer(pending, won[index])
            else:
                self._lost(pending)
        for stream_id, pending in self._pending.items():
            if stream_id not in settled:
                self._answer(pending, [])
        return committed

    def fail(self, error: Exception) -> None:
        """Ends everyone who waits for this batch: whether it was appended is not known."""
        for pending in self._pending.values():
            for job, _, _ in pending.answers:
                job.answer = error

    def single(self) -> list[list[Job]]:
        """The waiting jobs by stream, to be tried stream by stream."""
        return [[job for job, _, _ in pending.answers] for pending in self._pending.values()]

    def _write(self, pending: _Pending, job: Job, facts: list[Fact]) -> None:
        rows, stream = [], pending.after
        for fact in facts:
            draft = self._draft(stream, job, fact)
            row = self._ledger.encode(draft)
            stream = stream.after(draft.event(row))
            rows.append(row)
        outcome = Outcome(
            dialogue_id=job.command.stream_id,
            message_id=_asked(job.command),
            version=stream.head.version,
            position=pending.before.head.position,
        )
        left = self._receipt(job, outcome)
        # Nothing below can fail: a job is in the group whole or not at all.
        pending.after = stream
        pending.rows.extend(rows)
        if left:
            pending.receipts.append((len(pending.rows), left))
        pending.answers.append((job, len(pending.rows), outcome))

    def _draft(self, stream: Stream[Any], job: Job, fact: Fact) -> Draft:
        before = stream.head.at
        return Draft(
            stream_id=job.command.stream_id,
            version=stream.head.version + 1,
            at=max(self._now, before) if before else self._now,
            by=job.by,
            fact=fact,
            key=self._sealing_key(stream, job) if has_text(fact) else None,
            prev_hash=stream.head.hash,
        )

    def _sealing_key(self, stream: Stream[Any], job: Job) -> PersonKey:
        """The key of the stream's owner: what is said in a dialogue is theirs, whoever says it."""
        return self._key(job.by.tenant_id, _owner(stream, job))

    def _prepare_keys(self, jobs: list[Job]) -> bool:
        """Has the keys of everybody concerned at hand: nobody waits for a key in the middle of a batch.

        Whether they could be asked for: then who has none is being forgotten, or it is damaged.
        """
        keys = self._ledger.keys
        for job in jobs:
            # Who loses again and again may do so because the key that it seals with is void.
            if job.tries > 1:
                keys.forget(self._persons(job))
        with suppress(LogUnavailable):  # then only those whose key is not held have to be refused
            self._damaged = keys.prepare({person for job in jobs for person in self._persons(job)})
            keys.prepare_ids(key_of(left) for left in self._known.receipts.values())
            return True
        return False

    def _persons(self, job: Job) -> set[Person]:
        """Whose keys it needs."""
        stream, tenant_id = self._known.streams.get(job.command.stream_id), job.by.tenant_id
        users = {job.by.actor.id} if job.once else set()
        if stream and job.command.says:
            users |= {_owner(stream, job)} - {""}
        return {(tenant_id, user_id) for user_id in users}

    def _key(self, tenant_id: UUID, user_id: str) -> PersonKey:
        key = self._ledger.keys.held((tenant_id, user_id))
        if key:
            return key
        if (tenant_id, user_id) in self._damaged:
            raise LogUnavailable(reason=DAMAGED)
        if self._keys_asked:
            raise BeingForgotten()
        raise LogUnavailable(reason="the data keys cannot be reached")

    def _receipt(self, job: Job, outcome: Outcome) -> Receipt | None:
        if job.once is None:
            return None
        return receipt(job, job.once, outcome, self._key(job.by.tenant_id, job.by.actor.id))

    def _answer(self, pending: _Pending, positions: list[int]) -> None:
        for job, rows, answer in pending.answers:
            if rows and isinstance(answer, Outcome):
                job.answer = msgspec.structs.replace(answer, position=positions[rows - 1])
            else:
                job.answer = answer

    def _lost(self, pending: _Pending) -> None:
        metrics.LOSERS.inc(len(pending.answers))
        for job, _, _ in pending.answers:
            job.tries += 1
            if job.tries < _TRIES:
                self.again.append(job)
            else:
                job.answer = VersionRace()


def _placed(stream: Stream[Any], positions: list[int]) -> Stream[Any]:
    if not positions:
        return stream
    return msgspec.structs.replace(stream, head=msgspec.structs.replace(stream.head, position=positions[-1]))


def _owner(stream: Stream[Any], job: Job) -> str:
    """Whose text the stream holds, or will; empty when there is none."""
    if isinstance(job.command, StartDialogue | PersonCommand):
        return job.command.user_id
    owner: str = stream.state.owner
    return owner if stream.state.tenant_id == job.by.tenant_id else ""


def _asked(command: Command) -> UUID | None:
    messages = getattr(command, "messages", ())
    if messages:
        question: UUID = messages[-1].message_id
        return question
    return getattr(command, "message_id", None)
