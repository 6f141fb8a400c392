"""Compares what clients were told with the log: nothing lost, nothing done twice, questions ended once."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from bichat.events.dialogue import (
    DialogueRenamed,
    MessageAdded,
    ReplyCancelled,
    ReplyCancelRequested,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
)
from bichat.events.envelope import Event
from chaos.evidence import Log
from chaos.told import Request, Told
from chaos.verdict import Verdict

Due = Callable[[MessageAdded], str]


def judge(told: Told, log: Log, due: Due, verdict: Verdict) -> None:
    """What was told of commands, and what became of every question."""
    traces, requeued = _traces(log)
    for request in told.requests:
        _answered(request, verdict)
        _kept(request, log, verdict)
        _once(request, traces, verdict)
    for query in told.queries:
        verdict.check(query.status in (0, 200, 503), f"GET {query.path}: {query.status}")
    again = Counter(one.message_id for one in told.requests if one.doing == "retry" and one.done)
    verdict.check(requeued == again, f"asked again were {again}, not as often as told: {requeued}")
    texts = {request.text for request in told.requests}
    for dialogue_id, events in log.dialogues.items():
        versions = [event.version for event in events]
        verdict.check(versions == list(range(1, len(events) + 1)), f"{dialogue_id} has versions {versions}")
        for event in events:
            if isinstance(event.fact, MessageAdded) and event.fact.asks:
                verdict.check(event.fact.content in texts, f"nobody asked {event.fact.content!r}")
                _ended(events, event.fact, due(event.fact), verdict)


# --- commands -------------------------------------------------------------------------------------


def _answered(request: Request, verdict: Verdict) -> None:
    """Never but with what a client can act upon, and each time the same."""
    for answer in request.answers:
        verdict.check(not answer.wrong, f"{request.key}: {answer.status} {answer.body}")
    bodies = [answer.body for answer in request.done]
    verdict.check(all(body == bodies[0] for body in bodies), f"{request.key} was answered with {bodies}")
    first = sum(not answer.replayed for answer in request.done)
    verdict.check(first <= 1, f"{request.key}: {first} answers say that they are the first")
    verdict.counts["acknowledged"] += bool(bodies)
    verdict.counts["sent again"] += len(request.answers) > 1


def _kept(request: Request, log: Log, verdict: Verdict) -> None:
    """What was acknowledged is in the log, where the answer says."""
    for answer in request.done[:1]:
        body = answer.body
        event = log.at(UUID(body["dialogue_id"]), body["version"])
        where = f"{request.key} ({request.doing}) was told {body}, the log has {event and event.fact} there"
        verdict.check(event is not None and event.position == body["position"], where)
        match event and event.fact:
            case MessageAdded(message_id=said, content=content) if request.doing in ("start", "add"):
                verdict.check((str(said), content) == (body["message_id"], request.text), where)
            case DialogueRenamed(label=label):
                verdict.check(request.doing != "rename" or label == request.text, where)
            case _:
                verdict.check(request.doing in ("cancel", "retry"), where)
        if request.doing == "cancel":
            events = log.dialogues.get(UUID(body["dialogue_id"]), [])[: body["version"]]
            verdict.check(any(_over(event.fact, request.message_id) for event in events), where)


def _once(request: Request, traces: Counter[str | None], verdict: Verdict) -> None:
    """Under one key one thing was done, or none if nobody was told so: clients ask until they are."""
    if request.text:
        due = 1 if request.done else 0
        found = traces[request.text]
        verdict.check(found == due, f"{request.key} ({request.doing}) was done {found} times, not {due}")


def _traces(log: Log) -> tuple[Counter[str | None], Counter[UUID | None]]:
    """How often the log has each text of a person, and each question being asked again."""
    facts = [event.fact for events in log.dialogues.values() for event in events]
    texts = Counter(fact.content for fact in facts if isinstance(fact, MessageAdded) and fact.asks)
    texts += Counter(fact.label for fact in facts if isinstance(fact, DialogueRenamed))
    return texts, Counter(fact.message_id for fact in facts if isinstance(fact, ReplyRequeued))


# --- questions ------------------------------------------------------------------------------------


def _ended(events: Sequence[Event], asked: MessageAdded, due: str, verdict: Verdict) -> None:
    """Each time it was asked it ended once; at most one answer, of its last attempt, word for word."""
    about = [event.fact for event in events if _of(event.fact) == asked.message_id]
    course = "".join(map(_letter, about))
    told = f"{asked.content!r}: {course}"
    verdict.check(re.fullmatch(r"S*[AFC](RS*[AFC])*", course) is not None, f"not ended once, {told}")
    verdict.check(course.count("A") <= 1, f"answered twice, {told}")
    attempts = [fact.attempt for fact in about if isinstance(fact, ReplyStarted)]
    verdict.check(attempts == list(range(1, len(attempts) + 1)), f"attempts {attempts}, {told}")
    for fact in about:
        if isinstance(fact, MessageAdded) and fact.answers:
            verdict.check(fact.content == due, f"{told} was answered with {fact.content!r}")
            verdict.check(fact.answers.attempt == attempts[-1], f"an attempt given up answered, {told}")
        elif isinstance(fact, ReplyFailed | ReplyCancelled):
            verdict.check(due.startswith(fact.partial or ""), f"{told} has of it {fact.partial!r}")
    verdict.counts["questions"] += 1
    verdict.counts["answers"] += course.count("A")
    verdict.counts["attempts"] += len(attempts)


def _of(fact: Any) -> UUID | None:
    """The question that a fact is about; not what says it."""
    if isinstance(fact, MessageAdded):
        return fact.answers.message_id if fact.answers else None
    return getattr(fact, "message_id", None)


def _over(fact: Any, message_id: UUID | None) -> bool:
    """Whether nobody has to answer that question any more, or soon."""
    ends = isinstance(fact, ReplyCancelRequested) or _letter(fact) in set("AFC")
    return ends and _of(fact) == message_id


def _letter(fact: Any) -> str:
    """Started, answered, failed for good, cancelled, requeued; the rest ends nothing."""
    match fact:
        case MessageAdded():
            return "A"
        case ReplyFailed(final=final):
            return "F" if final else ""
        case ReplyStarted() | ReplyCancelled() | ReplyRequeued():
            return {ReplyStarted: "S", ReplyCancelled: "C", ReplyRequeued: "R"}[type(fact)]
    return ""


# --- what is read ---------------------------------------------------------------------------------


def judge_shown(shown: dict[UUID, list[dict[str, Any]]], log: Log, verdict: Verdict) -> None:
    """What the API shows of each dialogue is what the log has."""
    for dialogue_id, events in log.dialogues.items():
        said = {str(e.fact.message_id): e.fact.content for e in events if isinstance(e.fact, MessageAdded)}
        read = {one["id"]: one["content"] for one in shown[dialogue_id]}
        verdict.check(read == said, f"{dialogue_id} is shown as {read}, the log has {said}")
        verdict.check(len(read) == len(shown[dialogue_id]), f"{dialogue_id} is shown with a message twice")


def judge_verified(found: Iterable[tuple[str, bool, str]], verdict: Verdict) -> None:
    """bichat's own verifications."""
    for verb, well, said in found:
        verdict.check(well, f"bichat {verb}: {said}")
