"""Labels: after an answer the model gives a dialogue that never had a label a short one, or none."""

from __future__ import annotations

import asyncio
import logging
import re

from msgspec import Struct
from uuid_utils.compat import uuid7

from bichat import metrics
from bichat.commands.dialogue import LabelDialogue
from bichat.errors import BichatError
from bichat.events.dialogue import AnswerTo, MessageAdded
from bichat.events.envelope import Actor, Cause, Metadata
from bichat.logs import described
from bichat.model import ChatMessage, ChatRequest
from bichat.projections.replies import Claim
from bichat.workers.kit import Kit
from bichat.workers.listening import Listening
from bichat.workers.places import Places

PATIENCE = 10.0
"""Seconds that a label may take."""

READ, TOKENS, LONGEST = 1_000, 40, 80
"""Characters of the question and of the answer that the model reads; tokens it may say; characters kept."""

NEAR = 8
"""Messages at the dialogue's end among which the answer is looked for."""

TRIES = 3
"""Answers among those after which a label is asked for: some models never find one."""

PROMPT = (
    "Give the conversation that follows a title, in the language of the question: at most six words, in one"
    " line, without quotation marks. Say nothing but the title."
)

_THOUGHT = re.compile(r"<think>.*?(</think>|\Z)", re.DOTALL)
_AROUND = " \t\"'`*_#.:;,«»„“”‚‘’‹›「」"  # noqa: RUF001 - the quotation marks of many languages

log = logging.getLogger(__name__)


class _Exchange(Struct, frozen=True):
    """A question and its answer in a dialogue that has no label."""

    question: str
    answer: str
    model: str
    version: int
    """Of the answer."""


class Labels:
    """Asks for labels. Nobody waits for one: what goes wrong is tried again after the next answers."""

    def __init__(self, kit: Kit, worker: str, places: Places) -> None:
        self._kit, self._worker, self._places = kit, worker, places
        self._asking = set[asyncio.Timeout]()
        self._stopped = False

    async def give(self, claim: Claim) -> None:
        """Gives a label to the dialogue of a question, if that is answered now and a label is wanted."""
        if self._stopped:
            return
        try:
            async with asyncio.timeout(PATIENCE) as limit:
                self._asking.add(limit)
                try:
                    if found := await asyncio.to_thread(self._exchange, claim):
                        async with self._places.one(claim.tenant_id) as free:
                            if free:
                                await self._label(claim, found)
                finally:
                    self._asking.discard(limit)
        except TimeoutError:
            log.info("The dialogue has no label yet: the model takes too long")
        except BichatError as error:
            log.info("The dialogue has no label yet: %s", described(error))
        except Exception:
            log.exception("a label met an error of the worker's own")

    def stop(self) -> None:
        """Ends what is under way, and begins no more."""
        self._stopped = True
        for limit in self._asking:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())

    def _exchange(self, claim: Claim) -> _Exchange | None:
        """As the log has it now. Blocks."""
        ledger = self._kit.ledger
        stream = ledger.load(claim.dialogue_id)
        if claim.message_id in stream.state.unanswered or not stream.state.wants_label:
            return None
        question = ledger.read(claim.dialogue_id, after=claim.version - 1, limit=1)[0].fact
        newest = ledger.read(claim.dialogue_id, limit=NEAR, desc=True, kinds=("MessageAdded",))
        if sum(isinstance(event.fact, MessageAdded) and bool(event.fact.answers) for event in newest) > TRIES:
            return None
        for event in newest:
            match event.fact:
                case MessageAdded(content=said, answers=AnswerTo(message_id=asked, model=model)) if (
                    asked == claim.message_id and isinstance(question, MessageAdded)
                ):
                    return _Exchange(question.content or "", said or "", model, event.version)
        return None

    async def _label(self, claim: Claim, found: _Exchange) -> None:
        said = f"{found.question[:READ]}\n\n{found.answer[:READ]}"
        call = ChatRequest(found.model, (ChatMessage("system", PROMPT), ChatMessage("user", said)), TOKENS)
        heard = Listening(call)
        try:
            await heard.hear(self._kit.model, lambda words: None)
        finally:  # also one that is too late has cost something
            metrics.tokens(call.model, heard.usage())
            await self._kit.limits.used(claim.tenant_id, heard.usage().total_tokens)
        if label := cleaned(heard.text):
            command = LabelDialogue(
                dialogue_id=claim.dialogue_id, label=label, model=call.model, usage=heard.usage()
            )
            await self._kit.executor.execute(command, Metadata(
                tenant_id=claim.tenant_id, actor=Actor("worker", self._worker), command_id=uuid7(),
                cause=Cause(claim.dialogue_id, found.version),
            ))  # fmt: skip


def cleaned(said: str) -> str:
    """What a model said, as a label: its first line, without what it likes to put around; or nothing."""
    lines = ("".join(filter(str.isprintable, " ".join(line.split()))) for line in
             _THOUGHT.sub("", said).splitlines())  # fmt: skip
    label = next(filter(None, (line.strip(_AROUND) for line in lines)), "")
    if len(label) <= LONGEST:
        return label
    words = label[:LONGEST]
    return (words.rsplit(" ", 1)[0] if " " in words else words[:-1]) + "…"
