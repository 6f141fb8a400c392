"""Parked questions end as failed: what cannot be queued must not be waited for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID

from msgspec import Struct
from psycopg_pool import AsyncConnectionPool
from uuid_utils.compat import uuid7

from bichat import logs
from bichat.commands.execute import Executor
from bichat.commands.reply import GiveUpReply
from bichat.errors import Refused
from bichat.errors.model import QuestionParked
from bichat.events.dialogue_state import NOTHING, DialogueState, Question
from bichat.events.envelope import Actor, Cause, Metadata
from bichat.events.ledger import Ledger, Stream
from bichat.logs import described
from bichat.projections import unanswered

LOOKED = 3.0
"""Seconds between two looks at what is parked."""
QUIET = 60.0
"""Seconds before a dialogue that cannot be read is tried again."""
_PIECE = 256
"""Dialogues looked at together."""

log = logging.getLogger(__name__)


class _Due(Struct, frozen=True):
    """A question of a parked dialogue that has not ended."""

    dialogue_id: UUID
    tenant_id: UUID
    message_id: UUID
    question: Question


class ParkedQuestions:
    """Ends the questions of dialogues that are parked in the queue, for their people wait for nothing.

    The log says what is open, for the queue does not know it. What a worker has a lease on is left to it.
    Any number of workers look; the first to say it is right, and the others are refused.
    """

    def __init__(
        self, ledger: Ledger, executor: Executor, pool: AsyncConnectionPool[Any], worker: str
    ) -> None:
        """`pool` has connections of the owner in autocommit mode."""
        self._ledger, self._executor, self._pool, self._worker = ledger, executor, pool, worker
        self._held: dict[UUID, Stream[DialogueState]] = {}
        self._unreadable: dict[UUID, float] = {}
        """When to try them again."""

    async def end(self) -> None:
        """One look. Raises `Unavailable` kinds and `psycopg.Error`."""
        seen: set[UUID] = set()
        async for parked in self._parked():
            seen.update(parked)
            due = await asyncio.to_thread(self._due, parked)
            if due:
                async with self._pool.connection() as connection:
                    living = await unanswered.worked_on(connection, [one.message_id for one in due])
                for one in due:
                    if one.message_id not in living:
                        await self._give_up(one)
        self._held = {i: stream for i, stream in self._held.items() if i in seen}
        self._unreadable = {i: again for i, again in self._unreadable.items() if i in seen}

    async def _parked(self) -> AsyncIterator[list[UUID]]:
        after = UUID(int=0)
        while True:
            async with self._pool.connection() as connection:
                parked = await unanswered.parked(connection, after, _PIECE)
            if not parked:
                return
            yield parked
            after = parked[-1]

    def _due(self, parked: Iterable[UUID]) -> list[_Due]:
        """Their open questions, as the log has them now. Blocks."""
        now = time.monotonic()
        readable = [i for i in parked if self._unreadable.get(i, now) <= now]
        if not readable:
            return []
        known = self._ledger.refresh({i: self._held.get(i, Stream(NOTHING)) for i in readable}, ())
        for dialogue_id, error in known.unreadable.items():
            told = logging.DEBUG if dialogue_id in self._unreadable else logging.ERROR
            log.log(told, "The parked dialogue %s cannot be read: %s", dialogue_id, described(error))
            self._unreadable[dialogue_id] = now + QUIET
        self._held |= known.streams
        return [
            _Due(dialogue_id, stream.state.tenant_id, message_id, question)
            for dialogue_id, stream in known.streams.items()
            for message_id, question in stream.state.unanswered.items()
            if stream.state.tenant_id and question.status in ("waiting", "running")
        ]

    async def _give_up(self, due: _Due) -> None:
        why = QuestionParked()
        command = GiveUpReply(
            dialogue_id=due.dialogue_id,
            message_id=due.message_id,
            attempt=due.question.attempt,
            code=why.code,
            detail=str(why),
        )
        by = Metadata(
            tenant_id=due.tenant_id,
            actor=Actor("worker", self._worker),
            command_id=uuid7(),
            cause=Cause(due.dialogue_id, due.question.version),
        )
        with logs.about(tenant_id=due.tenant_id, dialogue_id=due.dialogue_id, message_id=due.message_id):
            try:
                await self._executor.execute(command, by)
            except Refused as no:  # another worker has said so, or it is answered
                log.info("A question is not given up: %s", no)
            else:
                log.warning("A question failed: its dialogue is parked in replies")
