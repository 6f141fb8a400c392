"""Calls what the model wants called, on record: before it is called, and before the model is told of it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from uuid_utils.compat import uuid7

from bichat import metrics
from bichat.commands.reply import Call, CallFunctions, ReturnFunction, called, returned
from bichat.errors import LogRejected
from bichat.errors.functions import NothingLeft, TooManyCalls
from bichat.errors.model import ModelNonsense
from bichat.events.envelope import Fact
from bichat.model import ToolCall
from bichat.model.calls import unused
from bichat.projections.replies import Claim
from bichat.workers.function import Context
from bichat.workers.listening import Listening
from bichat.workers.record import Record
from bichat.workers.toolbox import UNKNOWN, Returned, Toolbox, failure

MOST = 8
"""Calls in one round that are made."""
TIME = 60.0
"""Seconds of all calls of an attempt."""
ROOM, TOKEN = 50_000, 4
"""Bytes of one result, and of a token: where less history is shown to the model, results are shorter too."""
RESULTS = 4
"""As many results of that size fit into one attempt."""
LEAST = 500
"""Bytes; with less room left, nothing is called any more."""


class NotWanted(Exception):
    """Nobody waits for this reply any more: it was cancelled, or its question has ended otherwise."""


class Calling:
    """What one attempt may still call, and its record."""

    def __init__(self, record: Record, toolbox: Toolbox, claim: Claim, budget: int) -> None:
        """`budget`: tokens of prompt and history."""
        self._record, self._toolbox, self._claim = record, toolbox, claim
        self._one = min(ROOM, TOKEN * budget)
        self._room, self._time = RESULTS * self._one, TIME
        self._ids: set[str] = set()

    @property
    def version(self) -> int:
        """Of the dialogue, after the last return."""
        return self._record.version

    async def round(self, attempt: int, number: int, heard: Listening, offered: Sequence[str]) -> list[Fact]:
        """The facts of this round, committed; raises `NotWanted` when the log takes them no more."""
        about = {"dialogue_id": self._claim.dialogue_id, "message_id": self._claim.message_id}
        calls = tuple(self._calls(heard.calls, offered))
        called_ = CallFunctions(**about, attempt=attempt, round=number, said=heard.text, calls=calls)
        await self._commit(called_)
        facts: list[Fact] = list(called(called_))
        for n, call in enumerate(calls):
            came = await self._call(call, offered) if n < MOST else failure(TooManyCalls(most=MOST))
            returned_ = ReturnFunction(
                **about, attempt=attempt, id=uuid7(), call_id=call.call_id, name=call.name,
                result=came.result, failed=came.failed,
            )  # fmt: skip
            await self._commit(returned_)
            facts.append(returned(returned_))
        return facts

    def _calls(self, calls: Iterable[ToolCall], offered: Sequence[str]) -> Iterable[Call]:
        """Under ids that are used once in the attempt: there are servers that count from 0 in each round."""
        for call in calls:
            id_ = unused(call.id, self._ids)
            self._ids.add(id_)
            name = call.function.name if call.function.name in offered else UNKNOWN
            yield Call(id=uuid7(), call_id=id_, name=name, arguments=call.function.arguments)

    async def _call(self, call: Call, offered: Sequence[str]) -> Returned:
        if self._time <= 0 or self._room < LEAST:
            return failure(NothingLeft(what="room" if self._time > 0 else "time"))
        began = time.monotonic()
        came = await self._toolbox.call(call.name, call.arguments, self._context(), offered)
        took = time.monotonic() - began
        metrics.function(call.name, took, failed=came.failed)
        self._time -= took
        self._room -= len(came.result.encode())
        return came

    def _context(self) -> Context:
        claim, room = self._claim, min(self._one, self._room)
        return self._toolbox.context(claim.tenant_id, claim.user_id, claim.dialogue_id, room)

    async def _commit(self, command: CallFunctions | ReturnFunction) -> None:
        try:
            if not await self._record.commit(command):
                raise NotWanted()
        except LogRejected:
            raise ModelNonsense(detail="what it calls cannot be stored") from None
