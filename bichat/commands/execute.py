"""The way into the log for a process: commands from any number of callers, appended in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime

from msgspec.structs import replace

from bichat import metrics, tracing
from bichat.commands.command import Command
from bichat.commands.job import Job, Once, Outcome
from bichat.commands.writer import Writer
from bichat.errors import Overloaded, Stopping
from bichat.events.envelope import Metadata
from bichat.events.ledger import Ledger

__all__ = ["Executor", "Once", "Outcome"]

_LONGEST_QUEUE = 10_000
"""Commands that may wait: more only wait for their own refusal."""
_HELD = 20_000
"""Deciding states kept in memory, each about 1 KB and 0.1 KB for each open question."""


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
        self.ledger = ledger
        self._writer = Writer(ledger, on_commit, clock, _HELD)
        self._closing = False

    def start(self) -> None:
        """Starts the writer's thread."""
        self._writer.start()

    def close(self) -> None:
        """Refuses new commands, finishes those that wait, and ends the thread."""
        self._closing = True
        self._writer.close()

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
        if self._writer.waiting() >= _LONGEST_QUEUE:
            raise Overloaded()
        with tracing.span(f"execute {type(command).__name__}") as span:
            if span:
                span.set_attribute("bichat.command_id", str(by.command_id))
                by = replace(by, trace=tracing.traceparent())
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            self._writer.put(Job(command, by, once, if_match, future, unless))
            return await future
