"""The one writer of a process: a thread that takes what has gathered and appends it in batches."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from eventsourcing.application import LRUCache

from bichat import metrics
from bichat.commands.batch import Batch
from bichat.commands.command import Command
from bichat.commands.job import Job, deliver
from bichat.errors import LogRejected, LogUnavailable, Stopping
from bichat.events.ledger import Ledger, Stream

_BATCH, _BATCH_BYTES = 256, 16_000_000

log = logging.getLogger(__name__)


class Writer:
    """Takes jobs; each gets an answer, whatever happens."""

    def __init__(
        self, ledger: Ledger, on_commit: Callable[[int], None], clock: Callable[[], datetime], held: int
    ) -> None:
        """Keeps up to `held` deciding states in memory."""
        self._ledger, self._on_commit, self._clock = ledger, on_commit, clock
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._held: LRUCache[UUID, Stream[Any]] = LRUCache(held)
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self.put = self._queue.put
        self.waiting = self._queue.qsize

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Finishes the jobs that wait, ends the thread, and refuses what has come since."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()
        self._refuse_rest()

    def _run(self) -> None:
        again: list[Job] = []
        open_ = True
        while open_ or again:
            fresh, open_ = self._gather(block=not again) if open_ else ([], False)
            jobs = [*again, *fresh]
            metrics.batch(len(jobs), self.waiting())
            try:
                again = self._batch(jobs)
            except Exception as error:
                log.exception("a batch of %d commands failed", len(jobs))
                again = []
                for job in jobs:
                    job.answer = job.answer or LogUnavailable(reason=type(error).__name__)
            deliver(jobs)

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
            if not job.deserted:
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
                job.answer = error
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
        deliver(jobs)
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
        rest: list[Job] = []
        while True:
            try:
                job = self._queue.get_nowait()
            except queue.Empty:
                return deliver(rest)
            if job:
                job.answer = Stopping()
                rest.append(job)
