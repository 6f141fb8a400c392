"""One turn: a claimed question, from what the log says of it to the fact that ends its attempt."""

from __future__ import annotations

import asyncio
from itertools import compress

from uuid_utils.compat import uuid7

from bichat import logs, metrics, tracing
from bichat.commands.function import DescribeFunction
from bichat.commands.reply import CompleteReply, EndCancelledReply, FailReply, WorkerCommand
from bichat.errors import LogRejected
from bichat.errors.model import ModelError, ModelNonsense
from bichat.projections.replies import Claim
from bichat.workers import attempts, planning
from bichat.workers.attempts import Tried
from bichat.workers.calling import Calling, NotWanted
from bichat.workers.kit import Kit
from bichat.workers.planning import Functions, Plan, Planning
from bichat.workers.record import Record
from bichat.workers.rounds import Rounds
from bichat.workers.speaker import Speaker

SETTLED = 2.0
"""Seconds that an ended question stays leased: until the queue, a read model, has heard of its end."""

NOT_STARTED = 0.25
"""Seconds before a question is looked at again that could not be started: the queue lags behind the log."""


class Turn:
    """Answers one question; however that goes, the log tells how the attempt ended."""

    def __init__(self, kit: Kit, claim: Claim, worker: str) -> None:
        self._kit, self._claim = kit, claim
        self._record = Record(kit.executor, claim, worker)
        self._rounds = Rounds(kit.model, Calling(self._record, kit.toolbox, claim, kit.budget))
        self._attempt = 0
        """The one that the log knows of."""

    def interrupt(self, reason: NotWanted | ModelError) -> None:
        """Stops the model, or the function that it called; what it has said by now is kept."""
        self._rounds.interrupt(reason)

    def give_up(self) -> None:
        """Waits no longer for a log that is away."""
        self._record.give_up()

    async def wanted(self) -> bool:
        """Whether the log, not a read model that may lag behind, still wants this attempt to end well."""
        attempt = self._attempt  # before the log is read: one that starts meanwhile is not in what is read
        stream = await asyncio.to_thread(self._kit.ledger.load, self._claim.dialogue_id)
        question = stream.state.unanswered.get(self._claim.message_id)
        if question is None or question.cancel_requested:
            return False
        if attempt:  # a question that was asked again waits for another attempt
            return question.status == "running" and question.attempt == attempt
        return question.status in ("waiting", "running")

    async def run(self) -> float:
        """One attempt; returns the seconds after which the question may be claimed again.

        Raises `LogUnavailable` when the log cannot be read.
        """
        with tracing.span("reply", "consumer", parent=await self._trace()) as span:
            if span:
                logs.note(trace_id=tracing.traceparent()[3:35])
                for name in ("tenant_id", "dialogue_id", "message_id"):
                    span.set_attribute(f"bichat.{name}", str(getattr(self._claim, name)))
            return await self._run()

    async def _run(self) -> float:
        functions = self._kit.toolbox.offered(self._claim.tenant_id)
        todo = await asyncio.to_thread(Planning(self._kit, self._claim).todo, functions)
        if todo is None:
            return SETTLED
        if not isinstance(todo, Plan):
            return await self._settle(todo)
        if self._rounds.interrupted or not await self._describe(todo.functions):
            return NOT_STARTED
        if not await self._record.commit(todo.start):
            return NOT_STARTED
        self._attempt = todo.start.attempt
        return await self._answer(todo)

    async def _trace(self) -> str:
        """The trace of the request that asked, while there are traces."""
        if not tracing.enabled():
            return ""
        before = self._claim.version - 1
        asked = await asyncio.to_thread(self._kit.ledger.read, self._claim.dialogue_id, after=before, limit=1)
        return asked[0].trace if asked else ""

    async def _describe(self, functions: Functions) -> bool:
        """Whether the log has what is offered: auditors will have nothing but the digests to go by."""
        tenant_id, toolbox = self._claim.tenant_id, self._kit.toolbox
        new = toolbox.undescribed(tenant_id, functions)
        done = await asyncio.gather(*(
            self._record.commit(DescribeFunction(
                tenant_id=tenant_id, digest=one.digest, name=one.name, schema=one.schema
            ))
            for one in new
        ))  # fmt: skip
        for one in compress(new, done):
            toolbox.described.put((tenant_id, one.digest), True)
        return all(done)

    # --- the answer -------------------------------------------------------------------------------

    async def _answer(self, plan: Plan) -> float:
        claim, attempt = self._claim, plan.start.attempt
        offered = [function.name for function in plan.functions]
        try:
            plan.context.expect_fit()
            async with Speaker(self._kit.deltas, claim.dialogue_id, claim.message_id, attempt) as speaker:
                await self._rounds.answer(attempt, plan.request, offered, speaker)
            return await self._complete(plan)
        except NotWanted:
            return await self._settle(self._cancelled(attempt))
        except ModelError as error:
            return await self._fail(plan, error)
        finally:
            metrics.tokens(plan.start.model, self._rounds.usage())
            await self._kit.limits.used(claim.tenant_id, self._rounds.usage().total_tokens)
            await self._kit.deltas.end(claim.dialogue_id, claim.message_id, attempt)

    async def _complete(self, plan: Plan) -> float:
        complete = CompleteReply(
            dialogue_id=self._claim.dialogue_id,
            message_id=self._claim.message_id,
            attempt=plan.start.attempt,
            answer_id=uuid7(),
            content=self._rounds.text,
            model=plan.start.model,
            finish_reason=self._rounds.finish_reason,
            usage=self._rounds.usage(),
        )
        try:
            return await self._settle_or_account(complete)
        except LogRejected:
            raise ModelNonsense(detail="its answer cannot be stored") from None

    async def _fail(self, plan: Plan, error: ModelError) -> float:
        attempt, model = plan.start.attempt, plan.start.model
        now = [*plan.before, Tried(attempt, model, error.code)]
        following = attempts.next_model(now, plan.models)
        failed = planning.failed(
            self._claim, attempt, error, final=following is None, partial=self._rounds.text,
            usage=self._rounds.usage(),
        )  # fmt: skip
        await self._settle_or_account(failed)
        return SETTLED if following is None else attempts.wait(now, following, error)

    # --- the log ----------------------------------------------------------------------------------

    async def _settle_or_account(self, command: CompleteReply | FailReply) -> float:
        """An end that comes too late, after a deletion, still says what the words cost."""
        if not await self._record.commit(command):
            await self._record.commit(self._cancelled(command.attempt))
        return SETTLED

    def _cancelled(self, attempt: int) -> EndCancelledReply:
        said, usage = self._rounds.text, self._rounds.usage()
        return planning.cancelled(self._claim, attempt, partial=said, usage=usage)

    async def _settle(self, command: WorkerCommand) -> float:
        await self._record.commit(command)
        return SETTLED
