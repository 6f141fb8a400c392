"""What a worker puts in the log about one question: again and again, if the log is away."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from uuid_utils.compat import uuid7

from bichat import logs
from bichat.commands.command import Command
from bichat.commands.execute import Executor
from bichat.commands.reply import FailReply, StartReply, WorkerCommand
from bichat.errors import BeingForgotten, LogUnavailable, Refused, VersionRace
from bichat.events.envelope import Actor, Cause, Metadata
from bichat.projections.replies import Claim

LONGEST_PAUSE = 2.0
"""Seconds between two tries to reach the log."""

log = logging.getLogger(__name__)


class Record:
    """The log, as the worker of one claim writes to it."""

    def __init__(self, executor: Executor, claim: Claim, worker: str) -> None:
        self._executor, self._claim, self._worker = executor, claim, worker
        self._stopped = asyncio.Event()
        self._model = ""
        self.version = 0
        """Of the dialogue, after the last commit about it."""

    def give_up(self) -> None:
        """Waits no longer for a log that is away."""
        self._stopped.set()

    async def commit(self, command: Command) -> bool:
        """Whether the log has it now. Waits out a log that is away: the words are paid for.

        A commit whose confirmation was lost is refused when it is tried again, which is as good.
        """
        by = Metadata(
            tenant_id=self._claim.tenant_id,
            actor=Actor("worker", self._worker),
            command_id=uuid7(),
            cause=Cause(self._claim.dialogue_id, self._claim.version),
        )
        logs.note(command_id=by.command_id)
        what, pause = _named(command), 0.1
        while True:
            try:
                outcome = await self._executor.execute(command, by)
            except (BeingForgotten, LogUnavailable, VersionRace) as error:
                if self._stopped.is_set():
                    return False
                if pause < 0.2:
                    log.warning("%s waits for the log: %s", what, error)
            except Refused as no:
                log.info("%s of %s: %s", what, self._claim.message_id, no)
                return False
            else:
                if isinstance(command, StartReply):
                    self._model = command.model
                if isinstance(command, FailReply):  # its detail may quote people
                    log.warning("%s: %s, model %s", what, command.code, self._model or "not asked")
                else:
                    log.info("%s", what)
                if command.stream_id == self._claim.dialogue_id:
                    self.version = outcome.version
                return True
            pause = min(pause * 2, LONGEST_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopped.wait()


def _named(command: Command) -> str:
    name = type(command).__name__
    return f"{name}, attempt {command.attempt}" if isinstance(command, WorkerCommand) else name
