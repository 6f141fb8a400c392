"""Writers in processes of their own: what is sent to two of them at once is a race."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from typing import Any

from msgspec import Struct

from bichat.commands.command import Command
from bichat.commands.execute import Executor, Once, Outcome
from bichat.errors import BichatError
from bichat.events.envelope import Metadata
from chaos.asking import log


class Job(Struct, frozen=True):
    """One command, by whom, and under which key."""

    command: Command
    by: Metadata
    once: Once | None = None


Told = Outcome | BichatError


class Writer:
    """One process with a writer."""

    def __init__(self, database_url: str) -> None:
        context = multiprocessing.get_context("spawn")
        self._line, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, database_url), daemon=True)
        self._process.start()
        theirs.close()

    def send(self, jobs: Sequence[Job]) -> None:
        """Hands these over, to be executed all at once."""
        self._line.send(jobs)

    def told(self) -> list[Told]:
        """What became of those that were sent, in their order; raises `EOFError` when the process is gone."""
        answers: list[Told] = self._line.recv()
        return answers

    def close(self) -> None:
        """Ends the process."""
        self._line.close()
        self._process.join(10)
        self._process.kill()


@contextmanager
def writers(database_url: str, count: int) -> Iterator[list[Writer]]:
    """So many processes on one log."""
    with ExitStack() as stack:
        made = [Writer(database_url) for _ in range(count)]
        for writer in made:
            stack.callback(writer.close)
        yield made


def _serve(line: Connection[Any, Any], database_url: str) -> None:
    with log(database_url) as ledger:
        executor = Executor(ledger)
        executor.start()
        try:
            while True:
                line.send(asyncio.run(_all(executor, line.recv())))
        except EOFError:
            executor.close()


async def _all(executor: Executor, jobs: Sequence[Job]) -> list[Told | BaseException]:
    calls = (executor.execute(job.command, job.by, once=job.once) for job in jobs)
    return await asyncio.gather(*calls, return_exceptions=True)
