"""The one writer of a process: commands from any number of callers, appended in batches."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from eventsourcing.application import LRUCache
from msgspec.structs import replace

from bichat import metrics, tracing
from bichat.commands.batch import Batch
from bichat.commands.command import Command
from bichat.commands.job import Job, Once, Outcome
from bichat.errors import LogRejected, LogUnavailable, Overloaded, Stopping
from bichat.events.envelope import Metadata
from bichat.events.ledger import Ledger, Stream

__all__ = ["Executor", "Once", "Outcome"]

_BATCH, _BATCH_BYTES = 256, 16_000_000
_LONGEST_QUEUE = 10_000
"""Commands that may wait: more only wait for their own refusal."""
_HELD = 20_000
"""Deciding states kept in memory, each about 1 KB and 0.1 KB for each open question."""

log = logging.getLogger(__name__)


class Executor:
    """`await execute(command)` returns when the command's events are committed, and not before."""

    def __init__(
        self,
        ledger: Ledger,
        *,
        on_commit: Callable[[int], None] = lambda position: None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`on_commit` is told the last position of each batch; it must neither block nor raise."""
        self.ledger = self._ledger = ledger
        self._on_commit, self._clock = on_commit, clock
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held: LRUCache[UUID, Stream[Any]] = LRUCache(_HELD)
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._closing = False

    def start(self) -> None:
        """Starts the writer's thread."""
        self._thread.start()

    def close(self) -> None:
        """Refuses new commands, finishes those that wait, and ends the thread."""
        self._closing = True
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._refuse_rest()

    @metrics.commands
    async def execute(
        self, command: Command, by: Metadata, *, once: Once | None = None, if_match: int | None = None,
        unless: Exception | None = None,
    ) -> Outcome:  # fmt: skip
        """Executes one command, exactly once per `once.key`; with `unless` only tells how it went before.

        Raises `unless`, a `Refused` kind when the decision says no, `Overloaded` when too many wait already,
        `LogUnavailable` when it is not known whether the command was done: the same command with the
        same key tells.
        """
        if self._closing:
            raise Stopping()
        if self._queue.qsize() >= _LONGEST_QUEUE:
            raise Overloaded()
        with tracing.span(f"execute {type(command).__name__}") as span:
            if span:
                span.set_attribute("bichat.command_id", str(by.command_id))
                by = replace(by, trace=tracing.traceparent())
            job = Job(command, by, once, if_match, Future(), unless)
            self._queue.put(job)
            return await asyncio.wrap_future(job.future)

    def _run(self) -> None:
        again: list[Job] = []
        open_ = True
        while open_ or again:
            fresh, open_ = self._gather(block=not again) if open_ else ([], False)
            jobs = [*again, *fresh]
            metrics.batch(len(jobs), self._queue.qsize())
            try:
                again = self._batch(jobs)
            except Exception as error:
                log.exception("a batch of %d commands failed", len(jobs))
                again = []
                for job in jobs:
                    if not job.future.done():
                        job.fail(LogUnavailable(reason=type(error).__name__))

    def _gather(self, *, block: bool) -> tuple[list[Job], bool]:
        """What has come in by now, at most a batch; and whether more may come."""
        jobs: list[Job] = []
        size = 0
        while len(jobs) < _BATCH and size < _BATCH_BYTES:
            try:
                job = self._queue.get(block=block and not jobs)
            except queue.Empty:
                break
            if job is None:
                return jobs, False
            if job.future.set_running_or_notify_cancel():
                jobs.append(job)
                size += job.size
            elif not jobs:
                break  # its caller went away; look for work that must be done anew
        return jobs, True

    def _batch(self, jobs: list[Job]) -> list[Job]:
        """Executes one batch; returns the jobs that have to be decided anew."""
        if not jobs:
            return []
        try:
            batch = Batch(self._ledger, self._states(jobs), jobs, self._clock())
        except LogUnavailable as error:
            for job in jobs:
                job.fail(error)
            return []
        for job in jobs:
            batch.decide(job)
        try:
            committed = batch.append()
        except LogRejected as error:
            return batch.again + self._one_by_one(batch, error)
        except LogUnavailable as error:
            batch.fail(error)
            return batch.again
        if batch.position:
            self._on_commit(batch.position)
        self._keep(committed)
        return batch.again

    def _one_by_one(self, batch: Batch, error: LogRejected) -> list[Job]:
        """A row that the database will not take fails its own stream's commands, not the others'."""
        groups = batch.single()
        if len(groups) == 1:
            batch.fail(error)
            return []
        return [job for group in groups for job in self._batch(group)]

    def _states(self, jobs: list[Job]) -> dict[UUID, Stream[Any]]:
        return {job.command.stream_id: self._state(job.command) for job in jobs}

    def _state(self, command: Command) -> Stream[Any]:
        try:
            return self._held.get(command.stream_id)
        except KeyError:
            return Stream(command.nothing)

    def _keep(self, committed: dict[UUID, Stream[Any]]) -> None:
        due = {}
        for stream_id, stream in committed.items():
            if stream.head.version == 0:
                continue  # not there: holding it would fill memory with guesses
            if stream.snapshot_due:
                due[stream_id] = stream.snapshotted()
            self._held.put(stream_id, due.get(stream_id, stream))
        if due:
            try:
                self._ledger.keep_snapshots(due)
            except (LogUnavailable, LogRejected) as error:
                log.warning("snapshots were not written, the next ones will be: %s", error)

    def _refuse_rest(self) -> None:
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return
            if job and job.future.set_running_or_notify_cancel():
                job.fail(Stopping())
