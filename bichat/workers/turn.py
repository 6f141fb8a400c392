"""One turn: a claimed question, from what the log says of it to the fact that ends its attempt."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from msgspec import Struct
from msgspec.structs import replace
from uuid_utils.compat import uuid7

from bichat import logs, metrics, tracing
from bichat.commands.execute import Executor
from bichat.commands.reply import (
    CompleteReply,
    EndCancelledReply,
    FailReply,
    GiveUpReply,
    StartReply,
    WorkerCommand,
)
from bichat.deltas import Deltas
from bichat.errors import BeingForgotten, LogRejected, LogUnavailable, Refused, VersionRace
from bichat.errors.model import ModelError, ModelNonsense, QuestionErased, WorkerLost
from bichat.events.dialogue import Asked, Usage
from bichat.events.dialogue_state import DialogueState
from bichat.events.envelope import Actor, Cause, Metadata
from bichat.events.ledger import Ledger, Stream
from bichat.model import ChatRequest, Model, canonical
from bichat.projections.replies import Claim
from bichat.shown import Place, request
from bichat.workers import attempts, context
from bichat.workers.attempts import Tried
from bichat.workers.context import Context
from bichat.workers.listening import Listening, NotWanted
from bichat.workers.speaker import Speaker

SETTLED = 2.0
"""Seconds that an ended question stays leased: until the queue, a read model, has heard of its end."""

NOT_STARTED = 0.25
"""Seconds before a question is looked at again that could not be started: the queue lags behind the log."""

LONGEST_PAUSE = 2.0
"""Seconds between two tries to reach the log."""

log = logging.getLogger(__name__)


class Kit(Struct, frozen=True, kw_only=True):
    """What turns work with; one for all of a process."""

    executor: Executor
    ledger: Ledger
    model: Model
    deltas: Deltas
    models: tuple[str, ...]
    """The model's name, then the fallback's if there is one."""
    budget: int
    """Tokens of prompt and history."""


class _Plan(Struct, frozen=True):
    """An attempt about to be made."""

    start: StartReply
    request: ChatRequest
    context: Context
    before: list[Tried]
    models: tuple[str, ...]


class Turn:
    """Answers one question; however that goes, the log tells how the attempt ended."""

    def __init__(self, kit: Kit, claim: Claim, worker: str) -> None:
        self._kit, self._claim, self._worker = kit, claim, worker
        self._listening = Listening()
        self._stopped = asyncio.Event()
        self._attempt = 0
        """The one that the log knows of."""

    def interrupt(self, reason: NotWanted | ModelError) -> None:
        """Stops the model; what it has said by now is kept."""
        self._listening.interrupt(reason)

    def give_up(self) -> None:
        """Waits no longer for a log that is away."""
        self._stopped.set()

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
        todo = await asyncio.to_thread(self._todo)
        if todo is None:
            return SETTLED
        if not isinstance(todo, _Plan):
            return await self._settle(todo)
        if self._listening.interrupted or not await self._commit(todo.start):
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

    # --- before -----------------------------------------------------------------------------------

    def _todo(self) -> _Plan | WorkerCommand | None:
        """What the log wants of this question: an attempt, a last word, or nothing any more. Blocks."""
        stream = self._kit.ledger.load(self._claim.dialogue_id)
        question = stream.state.unanswered.get(self._claim.message_id)
        if question is None or question.status not in ("waiting", "running"):
            return None
        if question.cancel_requested:
            return self._cancelled(question.attempt, Usage())
        before = self._tried(question.version) if question.tries else []
        try:
            if question.status == "running":
                attempts.expect_worker(before)
            return self._plan(stream, question.attempt + 1, before)
        except WorkerLost as lost:
            return self._failed(question.attempt, lost, Usage(), final=True)
        except QuestionErased as erased:  # without a word, for there may be nobody to seal it for
            return GiveUpReply(
                dialogue_id=self._claim.dialogue_id, message_id=self._claim.message_id,
                attempt=question.attempt, code=erased.code, detail="",
            )  # fmt: skip

    def _tried(self, version: int) -> list[Tried]:
        events = self._kit.ledger.read(
            self._claim.dialogue_id, after=version, limit=100, desc=True, kinds=attempts.KINDS
        )
        return attempts.tried(events, self._claim.message_id)

    def _plan(self, stream: Stream[DialogueState], attempt: int, before: list[Tried]) -> _Plan:
        kit, claim = self._kit, self._claim
        place = Place(claim.dialogue_id, claim.version, stream.head.version)
        shown = context.build(kit.ledger, place, stream.state.unanswered, kit.budget)
        asked = shown.question.asks or Asked()
        models = tuple(dict.fromkeys((asked.model or kit.models[0], *kit.models[1:])))
        start = StartReply(
            dialogue_id=claim.dialogue_id,
            message_id=claim.message_id,
            attempt=attempt,
            model=attempts.next_model(before, models) or models[0],
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            shown=shown.shown,
            request_digest="",
        )
        call = request(start, shown.messages)
        digest = kit.ledger.keys.person(claim.tenant_id, claim.user_id).digest("request", canonical(call))
        return _Plan(replace(start, request_digest=digest.hex()), call, shown, before, models)

    # --- the answer -------------------------------------------------------------------------------

    async def _answer(self, plan: _Plan) -> float:
        claim, attempt = self._claim, plan.start.attempt
        try:
            plan.context.expect_fit()
            async with Speaker(self._kit.deltas, claim.dialogue_id, claim.message_id, attempt) as speaker:
                await self._listening.hear(self._kit.model, plan.request, speaker)
            return await self._complete(plan)
        except NotWanted:
            return await self._settle(self._cancelled(attempt, self._listening.usage(plan.context.tokens)))
        except ModelError as error:
            return await self._fail(plan, error)
        finally:
            metrics.tokens(plan.start.model, self._listening.usage(plan.context.tokens))
            await self._kit.deltas.end(claim.dialogue_id, claim.message_id, attempt)

    async def _complete(self, plan: _Plan) -> float:
        complete = CompleteReply(
            dialogue_id=self._claim.dialogue_id,
            message_id=self._claim.message_id,
            attempt=plan.start.attempt,
            answer_id=uuid7(),
            content=self._listening.text,
            model=plan.start.model,
            finish_reason=self._listening.finish_reason,
            usage=self._listening.usage(plan.context.tokens),
        )
        try:
            return await self._settle_or_account(complete)
        except LogRejected:
            raise ModelNonsense(detail="its answer cannot be stored") from None

    async def _fail(self, plan: _Plan, error: ModelError) -> float:
        attempt, model = plan.start.attempt, plan.start.model
        now = [*plan.before, Tried(attempt, model, error.code)]
        following = attempts.next_model(now, plan.models)
        usage = self._listening.usage(plan.context.tokens)
        await self._settle_or_account(self._failed(attempt, error, usage, final=following is None))
        return SETTLED if following is None else attempts.wait(now, following, error)

    # --- the log ----------------------------------------------------------------------------------

    def _failed(self, attempt: int, error: ModelError, usage: Usage, *, final: bool) -> FailReply:
        return FailReply(
            dialogue_id=self._claim.dialogue_id,
            message_id=self._claim.message_id,
            attempt=attempt,
            code=error.code,
            detail=str(error),
            partial=self._listening.text,
            usage=usage,
            final=final,
        )

    def _cancelled(self, attempt: int, usage: Usage) -> EndCancelledReply:
        return EndCancelledReply(
            dialogue_id=self._claim.dialogue_id,
            message_id=self._claim.message_id,
            attempt=attempt,
            partial=self._listening.text,
            usage=usage,
        )

    async def _settle_or_account(self, command: CompleteReply | FailReply) -> float:
        """An end that comes too late, after a deletion, still says what the words cost."""
        if not await self._commit(command):
            await self._commit(self._cancelled(command.attempt, command.usage))
        return SETTLED

    async def _settle(self, command: WorkerCommand) -> float:
        await self._commit(command)
        return SETTLED

    async def _commit(self, command: WorkerCommand) -> bool:
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
        pause = 0.1
        while True:
            try:
                await self._kit.executor.execute(command, by)
            except (BeingForgotten, LogUnavailable, VersionRace) as error:
                if self._stopped.is_set():
                    return False
                if pause < 0.2:
                    log.warning("%s waits for the log: %s", type(command).__name__, error)
            except Refused as no:
                log.info("%s of %s: %s", type(command).__name__, command.message_id, no)
                return False
            else:
                log.info("%s, attempt %d", type(command).__name__, command.attempt)
                return True
            pause = min(pause * 2, LONGEST_PAUSE)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopped.wait()
