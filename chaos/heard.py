"""Compares what streams told with the log: events once and in order, no word doubled, replies ended once."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from msgspec import Struct, field

from bichat.events.dialogue import MessageAdded, ReplyCancelled, ReplyFailed
from chaos.evidence import Log
from chaos.told import ENDS, Heard, Stream
from chaos.verdict import Verdict

_FACTS = {"reply.completed": MessageAdded, "reply.failed": ReplyFailed, "reply.cancelled": ReplyCancelled}


class _Reply(Struct):
    """As told so far by one stream."""

    attempt: int = 0
    """The one under way; 0: none is."""
    latest: int = 0
    words: list[str] = field(default_factory=list)
    ends: list[Heard] = field(default_factory=list)


def judge(stream: Stream, log: Log, verdict: Verdict, *, whole: bool = False) -> None:
    """One stream; `whole`: no word was lost with Redis, so who was not cut off heard all of an answer."""
    who = f"{stream.who} on {stream.message_id or stream.dialogue_id}"
    verdict.check(all(status == 503 for status in stream.refused), f"{who}: refused with {stream.refused}")
    numbers = [event.data["sequence_number"] for event in stream.events]
    verdict.check(numbers == list(range(1, len(numbers) + 1)), f"{who}: events numbered {numbers}")
    replies: dict[str, _Reply] = {}
    for event in stream.events:
        if event.type.startswith("reply."):
            _take(replies.setdefault(event.data["message_id"], _Reply()), event, who, verdict)
            if event.type in ENDS:
                _end(stream, event, replies[event.data["message_id"]], log, verdict, whole=whole)
    verdict.check(stream.over or bool(stream.mark), f"{who}: cut off without an id to resume from")
    if stream.message_id:
        ends = [event.type for event in stream.events if event.type in ENDS]
        verdict.check(len(ends) == 1 and stream.over, f"{who}: ended with {ends}")
    else:
        _complete(stream, replies, log, verdict)
    verdict.counts["streams"] += 1
    verdict.counts["cut off"] += stream.connections - 1


def _take(reply: _Reply, event: Heard, who: str, verdict: Verdict) -> None:
    attempt, told = event.data["attempt"], f"{who}: {event.type} of attempt {event.data['attempt']}"
    match event.type:
        case "reply.started":
            verdict.check(not reply.attempt and attempt > reply.latest, f"{told} while {reply.attempt} runs")
            reply.attempt = reply.latest = attempt
            reply.words = []
        case "reply.superseded":
            verdict.check(attempt == reply.attempt, f"{told}, not of {reply.attempt}")
            reply.attempt, reply.words = 0, []
        case "reply.delta":
            verdict.check(attempt == reply.attempt, f"{told}, not of {reply.attempt}")
            reply.words.append(event.data["text"])
        case _:
            verdict.check(reply.attempt in (0, attempt), f"{told}, not of {reply.attempt}")
            reply.attempt = 0
            reply.ends.append(event)


def _end(stream: Stream, event: Heard, reply: _Reply, log: Log, verdict: Verdict, *, whole: bool) -> None:
    """It is committed, and what was heard before is how its text begins."""
    committed = log.at(stream.dialogue_id, event.data["version"])
    told = f"{stream.who} was told {event.data}, the log has {committed and committed.fact}"
    fact: Any = committed and committed.fact
    is_it = isinstance(fact, _FACTS[event.type]) and committed is not None
    verdict.check(is_it and committed is not None and committed.position == event.data["position"], told)
    if not is_it:
        return
    said = "".join(reply.words)
    if isinstance(fact, MessageAdded):
        message = event.data["message"]
        verdict.check((message["id"], message["content"]) == (str(fact.message_id), fact.content), told)
        verdict.check(bool(fact.answers and str(fact.answers.message_id) == event.data["message_id"]), told)
        verdict.check((fact.content or "").startswith(said), f"{told}, and word by word {said!r}")
        if whole and said and stream.connections == 1:
            verdict.check(fact.content == said, f"{told}, and word by word only {said!r}")
        verdict.counts["heard word by word"] += said == fact.content
    else:
        verdict.check(event.data["message_id"] == str(fact.message_id), told)
    reply.words = []


def _complete(stream: Stream, replies: dict[str, _Reply], log: Log, verdict: Verdict) -> None:
    """A dialogue's stream missed no message after it began, and no reply's last end."""
    who = f"{stream.who} on {stream.dialogue_id}"
    told = [event.data["message"]["id"] for event in stream.events if event.type == "message.added"]
    events = log.dialogues.get(stream.dialogue_id, [])
    said = [
        (str(event.fact.message_id), event.at.timestamp())
        for event in events
        if isinstance(event.fact, MessageAdded) and not event.fact.answers
    ]
    before = len(said) - len(told)  # what was said before it began
    missed = [id_ for id_, at in said[: max(before, 0)] if stream.since and at > stream.since]
    verdict.check(told == [id_ for id_, _ in said[before:]], f"{who}: told of {told}, said was {said}")
    verdict.check(not missed, f"{who}: not told of {missed}")
    for asked in told:
        ended = [event.version for event in events if _ends(event.fact, UUID(asked))]
        ends = [end.data["version"] for end in replies[asked].ends] if asked in replies else []
        verdict.check(ends[-1:] == ended[-1:], f"{who}: {asked} ended at {ended}, told was of {ends}")
        verdict.check(set(ends) <= set(ended), f"{who}: {asked} ended at {ended}, told was of {ends}")


def _ends(fact: Any, asked: UUID) -> bool:
    if isinstance(fact, MessageAdded):
        return bool(fact.answers and fact.answers.message_id == asked)
    if isinstance(fact, ReplyFailed):
        return fact.final and fact.message_id == asked
    return isinstance(fact, ReplyCancelled) and fact.message_id == asked
