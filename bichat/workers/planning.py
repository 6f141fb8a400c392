"""What the log wants of a question: an attempt, planned to the byte, a last word, or nothing any more."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from bichat.commands.reply import EndCancelledReply, FailReply, GiveUpReply, StartReply, WorkerCommand
from bichat.errors.model import FunctionsRefused, ModelError, QuestionErased, WorkerLost, WorkerStopped
from bichat.events.dialogue import Asked, Usage
from bichat.events.dialogue_state import DialogueState
from bichat.events.ledger import Stream
from bichat.model import ChatRequest, canonical
from bichat.projections.replies import Claim
from bichat.shown import Place, request
from bichat.tokens import count
from bichat.workers import attempts, context
from bichat.workers.attempts import Tried
from bichat.workers.context import Context
from bichat.workers.function import Function
from bichat.workers.kit import Kit

SHARE = 4
"""Functions are offered if describing them takes less than this part of what the model is shown."""

Functions = tuple[Function[Any], ...]


class Plan(Struct, frozen=True):
    """An attempt about to be made."""

    start: StartReply
    request: ChatRequest
    context: Context
    functions: Functions
    before: list[Tried]
    models: tuple[str, ...]


class Planning:
    """Looks at one claimed question; everything here blocks."""

    def __init__(self, kit: Kit, claim: Claim) -> None:
        self._kit, self._claim = kit, claim

    def todo(self, functions: Functions) -> Plan | WorkerCommand | None:
        """What is to be done now; an attempt may offer `functions`."""
        stream = self._kit.ledger.load(self._claim.dialogue_id)
        question = stream.state.unanswered.get(self._claim.message_id)
        if question is None or question.status not in ("waiting", "running"):
            return None
        if question.cancel_requested:
            return cancelled(self._claim, question.attempt)
        before = self._tried(question.version) if question.tries else []
        try:
            if question.status == "running" and question.off_peak and not self._kit.quiet():
                return failed(self._claim, question.attempt, WorkerStopped(), final=False)
            if question.status == "running":
                attempts.expect_worker(before)
            return self._plan(stream, question.attempt + 1, before, functions)
        except WorkerLost as lost:
            return failed(self._claim, question.attempt, lost, final=True)
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

    def _plan(
        self, stream: Stream[DialogueState], attempt: int, before: list[Tried], functions: Functions
    ) -> Plan:
        kit, claim = self._kit, self._claim
        shown, functions = self._shown(stream, functions)
        asked = shown.question.asks or Asked()
        models = tuple(dict.fromkeys((asked.model or kit.models[0], *kit.models[1:])))
        model = attempts.next_model(before, models) or models[0]
        if self._refuses(model, before):
            functions = ()
        start = StartReply(
            dialogue_id=claim.dialogue_id,
            message_id=claim.message_id,
            attempt=attempt,
            model=model,
            max_tokens=asked.max_tokens,
            temperature=asked.temperature,
            top_p=asked.top_p,
            shown=replace(shown.shown, functions=tuple(function.digest for function in functions)),
            request_digest="",
        )
        tools = tuple(msgspec.json.decode(function.schema, type=dict[str, Any]) for function in functions)
        call = request(start, shown.messages, tools)
        digest = kit.ledger.keys.person(claim.tenant_id, claim.user_id).digest("request", canonical(call))
        return Plan(replace(start, request_digest=digest.hex()), call, shown, functions, before, models)

    def _shown(self, stream: Stream[DialogueState], functions: Functions) -> tuple[Context, Functions]:
        """What the model is shown beside the functions, which have to leave room for the question."""
        needed = sum(count(function.schema) for function in functions)
        if functions and needed * SHARE > self._kit.budget:
            return self._shown(stream, ())
        place = Place(self._claim.dialogue_id, self._claim.version, stream.head.version)
        prompt, budget = self._kit.prompts.system(self._claim.tenant_id), self._kit.budget - needed
        shown = context.build(self._kit.ledger, place, stream.state.unanswered, budget, prompt)
        if functions and shown.tokens > budget:
            return self._shown(stream, ())
        return shown, functions

    def _refuses(self, model: str, before: list[Tried]) -> bool:
        """Whether this model takes no functions, as far as is known: then it is asked without."""
        refused = any(one.model == model and one.code == FunctionsRefused.code for one in before)
        if refused:
            self._kit.toolbox.refusing.add(model)
        return refused or model in self._kit.toolbox.refusing


def failed(
    claim: Claim,
    attempt: int,
    error: ModelError,
    *,
    final: bool,
    partial: str = "",
    usage: Usage | None = None,
) -> FailReply:
    """The end of an attempt in `error`."""
    return FailReply(
        dialogue_id=claim.dialogue_id, message_id=claim.message_id, attempt=attempt, code=error.code,
        detail=str(error), partial=partial, usage=usage or Usage(), final=final,
    )  # fmt: skip


def cancelled(
    claim: Claim, attempt: int, *, partial: str = "", usage: Usage | None = None
) -> EndCancelledReply:
    """The end of an attempt that nobody wants any more."""
    return EndCancelledReply(
        dialogue_id=claim.dialogue_id, message_id=claim.message_id, attempt=attempt, partial=partial,
        usage=usage or Usage(),
    )  # fmt: skip
