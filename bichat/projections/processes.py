"""Processes that work on the log side by side, each with a connection and the keys to read it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from msgspec import Struct
from psycopg import Connection

from bichat.errors.unusable import ProcessFailed
from bichat.events.feed import Feed
from bichat.events.keys.store import KeyStore
from bichat.logs import described
from bichat.projections.runner import connect
from bichat.projections.sql import statement

T = TypeVar("T")


class Database(Struct, frozen=True, kw_only=True):
    """Where the log is, and what opens it."""

    url: str
    keys_url: str
    master_key: bytes
    old_master_key: bytes | None = None
    """The one before, while it is being replaced."""
    signing_key: bytes | None = None
    """Signs seals; `None`: the keys store has one."""
    redis_url: str | None = None

    def key_store(self) -> KeyStore:
        """What opens the log; still to be unlocked, and to be closed."""
        return KeyStore(self.keys_url, self.master_key, self.old_master_key)


class Desk(Struct, frozen=True):
    """What a task works with."""

    connection: Connection[Any]
    feed: Feed
    keys: KeyStore


AUTOGROUP = Path("/proc/self/autogroup")
"""The share of a session, in words of `nice`."""

Task = Callable[[Desk], T]
"""Pickled on its way to a process: a frozen struct with `__call__`."""


@contextmanager
def desk(database: Database) -> Iterator[Desk]:
    """A desk in this process."""
    with ExitStack() as stack:
        keys = database.key_store()
        stack.callback(keys.close)
        keys.unlock()
        connection = stack.enter_context(closing(connect(database.url)))
        connection.prepare_threshold = None  # tables are made in blocks of several statements
        connection.execute(statement("processes", "configure"))
        yield Desk(connection, Feed(keys), keys)


def cores() -> int:
    """How many processes this machine can run at once."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Does tasks in processes, which start with the first tasks.

    With 0 jobs it does all right here, and without processes yet a task that is alone.
    """

    def __init__(self, database: Database, jobs: int) -> None:
        self._database, self.jobs = database, jobs
        self._processes: ProcessPoolExecutor | None = None

    def each(self, tasks: Sequence[Task[T]]) -> Iterator[T]:
        """The results as they come; raises the first error, `ProcessFailed` when a process was killed."""
        if not self.jobs or (len(tasks) <= 1 and not self._processes):
            with desk(self._database) as here:
                for task in tasks:
                    yield task(here)
            return
        if not self._processes:
            # Not forked: threads and connections of this process would come along.
            context = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(
                self.jobs, mp_context=context, initializer=_sit_down, initargs=(self._database,)
            )
        try:
            with _deaf():
                waiting: set[Future[T]] = {self._processes.submit(_do, task) for task in tasks}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        except BrokenProcessPool:
            raise ProcessFailed(reason="a process was killed, perhaps for want of memory") from None

    def close(self) -> None:
        """Ends the processes, whatever they do: it is undone, or done again."""
        if self._processes:
            processes = list((self._processes._processes or {}).values())
            self._processes.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            for process in processes:
                process.join(5)


@contextmanager
def _deaf() -> Iterator[None]:
    """Ctrl-C reaches a whole group, and a process that starts inherits that it is not to hear it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


_open = ExitStack()
_desk: list[Desk] = []
"""Of a process of the pool, from its start to its end."""


def _sit_down(database: Database) -> None:
    # Requests, and who answers them, come first. What stops the parent for a while no longer stops this.
    os.setsid()
    os.nice(19)  # of this thread and those that it starts
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.Thread(target=_stand_back, daemon=True).start()
    gc.disable()  # what tasks make are trees, freed with their last reference; to look for rings costs 15 %
    _desk.append(_open.enter_context(desk(database)))


def _end_with_parent() -> None:
    """A parent that is killed ends nobody, and a pool's process waits for its next task for ever."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _stand_back() -> None:
    """A small share of the processors for this session.

    `nice` counts within a group of processes. Where no control groups share the processors out, Linux does so
    among sessions (autogroup): each terminal, service and connection of Postgres is one.
    """
    with suppress(OSError):  # not here, or not allowed
        while not _lowered():
            time.sleep(0.1)


def _lowered() -> bool:
    try:
        AUTOGROUP.write_text("19")
    except BlockingIOError:  # all who lack CAP_SYS_ADMIN are heard once in a tenth of a second, together
        return False
    return True


def _do(task: Task[T]) -> T:
    try:
        return task(_desk[0])
    except psycopg.Error as error:  # what it has to say gets lost on its way to another process
        raise ProcessFailed(reason=described(error)) from error
