"""What a stream says of changes that come together, or while a reply is being told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import UUID

import immutables
import pytest

from bichat.api.sse import Mark
from bichat.api.telling import Telling
from bichat.chat import parsed
from bichat.deltas import Said
from bichat.errors import Invalid
from bichat.events.dialogue_state import QuestionStatus
from bichat.events.transcript import Dialogue, Message, Turn
from bichat.projections.transcripts import Changes, Reply
from tests.examples import DIALOGUE, NOON, TENANT


def turn(n: int, version: int, status: QuestionStatus, attempt: int = 1) -> Turn:
    return Turn(
        message_id=UUID(int=n), seq=n, version=version, position=version, at=NOON, status=status,
        attempt=attempt, model="small", partial="Half",
    )  # fmt: skip


def message(seq: int, version: int, answers: int = 0) -> Message:
    return Message(
        id=UUID(int=seq), seq=seq, version=version, role="assistant" if answers else "user", content="Yes.",
        at=NOON, asks=not answers, reply_to=UUID(int=answers) if answers else None,
    )  # fmt: skip


def changes(version: int, *new: Turn | Message, label: str = "") -> Changes:
    dialogue = Dialogue(
        id=DIALOGUE, tenant_id=TENANT, user_id="anna", label=label, state="active", version=version,
        created_at=NOON, updated_at=NOON, messages=tuple(m for m in new if isinstance(m, Message)),
        turns=immutables.Map({t.message_id: t for t in new if isinstance(t, Turn)}),
    )  # fmt: skip
    return Changes(dialogue, version)


def told(chunks: Iterable[bytes]) -> list[str]:
    return [f"{event['type']} {event['attempt']}" for event in read(chunks)]


def read(chunks: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    return parsed(b"".join(chunks).decode().splitlines())


def following() -> Telling:
    telling = Telling(DIALOGUE, Mark())
    assert list(telling.begin(changes(2).dialogue)) == []
    return telling


def test_a_question_cancelled_meanwhile_does_not_silence_the_reply_being_told() -> None:
    telling = following()
    assert told(telling.dialogue(changes(3, turn(1, 3, "running")))) == ["reply.started 1"]
    telling.said(Said(UUID(int=1), 1, 1, "Yes"))
    cancelled = changes(5, message(2, 4), turn(2, 5, "cancelled", attempt=0))
    assert told(telling.dialogue(cancelled)) == ["message.added 0", "reply.cancelled 0"]
    assert telling.expects(Said(UUID(int=1), 1, 2, "."))


def test_what_comes_together_is_told_in_the_order_in_which_it_happened() -> None:
    telling = following()
    list(telling.dialogue(changes(3, turn(1, 3, "running"))))
    together = changes(
        9,
        message(2, 4),
        message(3, 7, answers=1),
        turn(1, 7, "answered", 3),
        turn(2, 8, "running"),
        label="x",
    )
    events = list(read(telling.dialogue(together)))
    assert [event["type"] for event in events] == [
        "message.added", "reply.superseded", "reply.started", "reply.completed", "reply.started",
        "dialogue.changed",
    ]  # fmt: skip
    assert [Mark.read("", event["id"]).version for event in events] == [4, 6, 6, 7, 8, 9]
    for place, event in enumerate(events):
        again = Telling(DIALOGUE, Mark.read("", event["id"]))
        list(again.begin(together.dialogue))
        happened = (*together.dialogue.messages, *together.dialogue.turns.values())
        rest = changes(9, *(new for new in happened if new.version > again.mark.version), label="x")
        assert [e["type"] for e in read(again.dialogue(rest))] == [e["type"] for e in events[place + 1 :]]


def test_the_end_is_told_once() -> None:
    telling = Telling(DIALOGUE, Mark(), only=UUID(int=1))
    answered = Reply(turn(1, 7, "answered"), message(2, 7, answers=1))
    assert told(telling.reply(answered)) == ["reply.started 1", "reply.completed 1"]
    assert telling.over
    again = Telling(DIALOGUE, telling.mark, only=UUID(int=1))
    assert (list(again.reply(answered)), again.over) == ([], True)


@pytest.mark.parametrize("status", ["answered", "failed"])
def test_who_has_heard_a_late_start_only_hears_the_end_on_resuming(status: QuestionStatus) -> None:
    ended = Reply(turn(1, 7, status, 2), message(2, 7, answers=1) if status == "answered" else None)
    heard = list(read(Telling(DIALOGUE, Mark(), only=UUID(int=1)).reply(ended)))
    assert [event["attempt"] for event in heard] == [2, 2]
    again = Telling(DIALOGUE, Mark.read("", heard[0]["id"]), only=UUID(int=1))
    assert list(read(again.reply(ended))) == heard[1:]


def test_what_failed_before_anybody_came_to_it_has_an_end_but_no_start() -> None:
    parked = Reply(turn(1, 3, "failed", attempt=0), None)
    assert told(Telling(DIALOGUE, Mark(), only=UUID(int=1)).reply(parked)) == ["reply.failed 0"]
    telling = following()
    assert told(telling.dialogue(changes(4, message(2, 3), turn(2, 4, "failed", attempt=0)))) == [
        "message.added 0", "reply.failed 0",
    ]  # fmt: skip
    assert told(telling.dialogue(changes(6, turn(2, 6, "running")))) == ["reply.started 1"]


def test_a_mark_of_another_reply_is_no_hindrance() -> None:
    telling = Telling(DIALOGUE, Mark(version=9, seq=1, attempt=1, segments=5), only=UUID(int=2))
    assert told(telling.reply(Reply(turn(2, 8, "running"), None))) == ["reply.started 1"]
    assert telling.expects(Said(UUID(int=2), 1, 1, "Yes"))


@pytest.mark.parametrize(
    "text", ["", "1", "1.2.3.4.5", "1.2.3.4.5.x", "-1.0.0.0.0.0", "1.0.0.0.0.0\n", "9" * 200]
)
def test_a_mark_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="Last-Event-ID"):
        Mark.read("Last-Event-ID", text)


def test_an_event_is_one_line_whatever_is_said() -> None:
    telling = Telling(DIALOGUE, Mark())
    chunk = telling.said(Said(UUID(int=1), 1, 1, "a\nb\r\u2028c\u0085d\u2029"))
    assert len(chunk.decode().splitlines()) == 4
    assert (
        json.loads(chunk.decode().splitlines()[2].removeprefix("data: "))["text"]
        == "a\nb\r\u2028c\u0085d\u2029"
    )


# --- functions ---------------------------------------------------------------------------------------


def call(seq: int, version: int, attempt: int = 1, returned: str = "") -> Message:
    return Message(
        id=UUID(int=100 + seq), seq=seq, version=version, role="tool", content=returned, at=NOON,
        name="query", reply_to=UUID(int=1), attempt=attempt, call_id="call_1",
        arguments="" if returned else "{}",
    )  # fmt: skip


def test_a_call_and_its_return_are_told_between_start_and_end() -> None:
    events = list(
        read(
            following().dialogue(
                changes(
                    7,
                    call(2, 4),
                    call(3, 5, returned="[1]"),
                    message(4, 6, answers=1),
                    turn(1, 6, "answered"),
                )
            )
        )
    )
    assert [e["type"] for e in events] == ["reply.started", "tool.called", "tool.returned", "reply.completed"]
    assert [(e["call_id"], e["name"]) for e in events[1:3]] == [("call_1", "query")] * 2
    assert events[1]["arguments"] == "{}"
    assert (events[2]["result"], events[2]["failed"]) == ("[1]", False)


def test_calls_of_a_reply_that_is_being_told_are_told_as_they_come() -> None:
    telling = following()
    assert told(telling.dialogue(changes(3, turn(1, 3, "running")))) == ["reply.started 1"]
    assert told(telling.dialogue(changes(4, call(2, 4)))) == ["tool.called 1"]
    assert told(telling.dialogue(changes(5, call(3, 5, returned="1")))) == ["tool.returned 1"]


def test_calls_of_an_attempt_that_was_given_up_come_before_that_is_said_or_not_at_all() -> None:
    new = changes(7, call(2, 4), turn(1, 5, "running", attempt=2), call(3, 6, attempt=2))
    assert told(following().dialogue(new)) == ["reply.started 2", "tool.called 2"]
    telling = following()
    list(telling.dialogue(changes(3, turn(1, 3, "running"))))
    expected = ["tool.called 1", "reply.superseded 1", "reply.started 2", "tool.called 2"]
    assert told(telling.dialogue(new)) == expected


@pytest.mark.parametrize("heard", range(4))
def test_whoever_resumes_anywhere_in_a_reply_hears_the_rest_once(heard: int) -> None:
    calls, answer = (call(2, 4), call(3, 5, returned="[1]")), message(4, 6, answers=1)
    expected = ["reply.started 1", "tool.called 1", "tool.returned 1", "reply.completed 1"]
    ended = turn(1, 6, "answered")

    telling = Telling(DIALOGUE, Mark(version=2), only=UUID(int=1))
    marks = [telling.mark]
    said = []
    for chunk in telling.reply(Reply(ended, answer, calls)):
        said += told([chunk])
        marks.append(telling.mark)
    assert said == expected

    again = Telling(DIALOGUE, marks[heard], only=UUID(int=1))
    later = tuple(c for c in calls if c.version > marks[heard].version)
    assert told(again.reply(Reply(ended, answer, later))) == expected[heard:]
    assert again.over
