"""Random histories of several dialogues, mixed as in a log, and what readers should see of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from functools import reduce
from itertools import count, pairwise
from typing import Any
from uuid import UUID

from hypothesis import strategies
from msgspec.structs import replace
from psycopg import Connection
from psycopg.rows import dict_row

from bichat.commands.command import Command
from bichat.commands.decide import decide
from bichat.commands.dialogue import (
    AddMessage,
    ArchiveDialogue,
    CancelReply,
    DeleteDialogue,
    EraseText,
    LabelDialogue,
    NewMessage,
    RenameDialogue,
    RestoreDialogue,
    RetryFailedReply,
    RetryReply,
    UnarchiveDialogue,
)
from bichat.commands.reply import (
    Call,
    CallFunctions,
    CompleteReply,
    EndCancelledReply,
    FailReply,
    GiveUpReply,
    ReturnFunction,
)
from bichat.errors import Refused
from bichat.events.dialogue import Asked, TextErased
from bichat.events.dialogue_state import NOTHING, DialogueState, Question, evolve
from bichat.events.envelope import Event, Fact, Metadata, kinds
from bichat.events.transcript import Dialogue, transcribe
from bichat.projections.read_model import Build
from bichat.projections.versions import MODELS
from tests.examples import (
    NOON,
    OTHER_TENANT,
    TENANT,
    USAGE,
    by,
    by_worker,
    events,
    question,
    start,
    start_reply,
)

BUILDS = [Build(model, 1) for model in MODELS]
OF_DIALOGUES = [build for build in BUILDS if build.model.subject == "dialogue"]
Pick = tuple[int, int, int]


def history(picks: Iterable[Pick]) -> list[Event]:
    """What becomes of (dialogue, what to do, to which question): the refused leaves nothing."""
    states: dict[int, DialogueState] = {}
    log: list[Event] = []
    ids = (UUID(int=n) for n in count(1000))
    for n, (dialogue, what, which) in enumerate(picks):
        state, dialogue_id = states.get(dialogue, NOTHING), UUID(int=dialogue + 1)
        command, who = _command(state, dialogue, what, which, ids)
        try:
            facts = decide(state, command, who)
        except Refused:
            continue
        version = sum(event.stream_id == dialogue_id for event in log)
        for new in events(facts, dialogue_id, who.tenant_id):
            event = replace(
                new, version=version + new.version, position=3 * len(log) + 7, at=NOON + timedelta(hours=n)
            )
            log.append(event)
            state = evolve(state, event)
        states[dialogue] = state
    return log


def _command(  # noqa: PLR0911, PLR0912 - one arm per command
    state: DialogueState, dialogue: int, what: int, which: int, ids: Iterable[UUID]
) -> tuple[Command, Metadata]:
    tenant, user = (OTHER_TENANT if dialogue % 2 else TENANT), f"user {dialogue // 2}"
    dialogue_id, new = UUID(int=dialogue + 1), iter(ids)
    person, worker = by(user, tenant), by_worker(tenant)
    if state.lifecycle == "none":
        return start(dialogue_id, question("First?", next(new)), user=user), person
    open_ = sorted(state.unanswered.items(), key=lambda item: item[1].version)
    asked, now = open_[which % len(open_)] if open_ else (UUID(int=0), Question(0))
    attempt = now.attempt
    about: Any = {"dialogue_id": dialogue_id, "message_id": asked, "attempt": attempt}
    match what:
        case 0 | 1:
            asks = Asked(schedule="off_peak" if what else "now")
            said = replace(question(f"Question {which}\x00?", next(new)), asks=asks)
            return AddMessage(dialogue_id=dialogue_id, messages=(said,)), person
        case 2:
            note = NewMessage(message_id=next(new), role="system", content="Note \\u0000 well", name="ü")
            return AddMessage(dialogue_id=dialogue_id, messages=(note, question("So?", next(new)))), person
        case 3 | 4 | 5:
            return start_reply(dialogue_id, asked, attempt + 1), worker
        case 6 | 7 | 8:
            answer: Any = {
                "answer_id": next(new),
                "content": "Yes.",
                "finish_reason": "stop",
                "model": "m-2026",
            }
            return CompleteReply(**about, **answer, usage=USAGE), worker
        case 9:
            why: Any = {"code": "model_silent", "detail": "…", "partial": "Y", "usage": USAGE}
            return FailReply(**about, **why, final=which % 2 == 0), worker
        case 10:
            return CancelReply(dialogue_id=dialogue_id, message_id=asked), person
        case 11:
            return EndCancelledReply(**about, partial="Y", usage=USAGE), worker
        case 12:
            return RetryReply(dialogue_id=dialogue_id, message_id=asked), person
        case 13:
            return RenameDialogue(dialogue_id=dialogue_id, label=f"Label {which}"), person
        case 16:
            return GiveUpReply(**about, code="parked", detail="not queued"), worker
        case 17:
            return RetryFailedReply(dialogue_id=dialogue_id, message_id=asked), by("olga", tenant)
        case 18:
            return EraseText(dialogue_id=dialogue_id), by("olga", tenant)
        case 19:
            call = Call(id=next(new), call_id=f"call_{which}", name="query", arguments='{"sql": "select 1"}')
            return CallFunctions(**about, round=1, said="I look.", calls=(call,) * (1 + which % 2)), worker
        case 20:
            back: Any = {"call_id": f"call_{which}", "name": "query", "result": "[1]", "failed": which == 1}
            return ReturnFunction(**about, id=next(new), **back), worker
        case 21:
            return LabelDialogue(dialogue_id=dialogue_id, label="Sales", model="m", usage=USAGE), worker
    changes = (DeleteDialogue, RestoreDialogue, ArchiveDialogue, UnarchiveDialogue)
    return changes[which % 4](dialogue_id=dialogue_id), person


picks = strategies.tuples(strategies.integers(0, 3), strategies.integers(0, 21), strategies.integers(0, 5))
histories = strategies.lists(picks, max_size=80).map(history)


@strategies.composite
def batched(draw: strategies.DrawFn) -> list[list[Event]]:
    """A history cut into batches anywhere."""
    log = draw(histories)
    cuts = draw(strategies.sets(strategies.integers(0, len(log)), max_size=12))
    return [log[a:b] for a, b in pairwise(sorted({0, len(log), *cuts}))]


def transcribed(log: Sequence[Event]) -> dict[UUID, Dialogue]:
    """The whole dialogues of a log."""
    dialogues: dict[UUID, Dialogue] = {}
    for event in log:
        dialogues[event.stream_id] = transcribe(dialogues.get(event.stream_id), event)
    return dialogues


def without_keys(log: Sequence[Event]) -> list[Event]:
    """The same as it is read once the keys are destroyed: text from before an erasure cannot be opened."""
    erased = {e.stream_id: e.version for e in log if isinstance(e.fact, TextErased)}
    return [e if e.version > erased.get(e.stream_id, 0) else replace(e, fact=shut(e.fact)) for e in log]


def shut(fact: Fact) -> Fact:
    """A fact whose text cannot be opened."""
    kind = dict(kinds())[type(fact).__name__]
    return replace(fact, **{name: None for name in kind.private if getattr(fact, name)})


def evolved(log: Sequence[Event], dialogue_id: UUID) -> DialogueState:
    """The deciding state of one dialogue of a log."""
    return reduce(evolve, (event for event in log if event.stream_id == dialogue_id), NOTHING)


def tables(connection: Connection[Any]) -> dict[str, list[dict[str, Any]]]:
    """Every row of every read model, in an order of its own."""
    found = {}
    with connection.cursor(row_factory=dict_row) as cursor:
        for build in BUILDS:
            for table in build.tables:
                rows = cursor.execute(f"select t.* from {table} t order by to_jsonb(t)::text".encode())
                found[table] = rows.fetchall()
    return found
