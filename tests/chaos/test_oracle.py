"""The oracle finds each kind of broken promise in histories that were made up, and none in a good one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from msgspec.structs import replace
from uuid_utils.compat import uuid7

from bichat.events.dialogue import (
    AnswerTo,
    Asked,
    DialogueRenamed,
    DialogueStarted,
    MessageAdded,
    ReplyFailed,
    ReplyRequeued,
    ReplyStarted,
)
from bichat.events.envelope import Fact
from chaos import heard, oracle, script
from chaos.evidence import Log
from chaos.told import Answer, Heard, Query, Request, Stream, Told
from chaos.verdict import Verdict
from tests.examples import ANSWER, DIALOGUE, QUESTION, SHOWN, events

ASKED, DUE = script.question(1), script.answer(1)


def started(attempt: int) -> ReplyStarted:
    return ReplyStarted(message_id=QUESTION, attempt=attempt, model="m", shown=SHOWN, request_digest="")


def answered(content: str = DUE, attempt: int = 2, to: UUID = QUESTION) -> MessageAdded:
    answers = AnswerTo(message_id=to, attempt=attempt, model="m")
    return MessageAdded(message_id=ANSWER, role="assistant", content=content, answers=answers)


class Story:
    """A question whose first worker died; asked under a key whose first answer was lost, and renamed."""

    def __init__(self) -> None:
        self.facts: list[Fact] = [
            DialogueStarted(user_id="anna"),
            MessageAdded(message_id=QUESTION, role="user", content=ASKED, asks=Asked()),
            started(1),
            DialogueRenamed(label="Sales"),
            started(2),
            answered(),
        ]
        lost, done = Answer(0.0, 0), Answer(0.0, 202, self.accepted(), replayed=True)
        self.asking = Request(key="k1", who="anna", doing="start", text=ASKED, answers=[lost, done])
        named = Answer(0.0, 200, {"dialogue_id": str(DIALOGUE), "version": 4, "position": 4})
        self.naming = Request(key="k2", who="anna", doing="rename", text="Sales", answers=[named])
        self.told = Told(requests=[self.asking, self.naming])
        self.stream = Stream(who="anna", dialogue_id=DIALOGUE, message_id=QUESTION, mark="1", connections=1)
        self.said(("started", 1), ("delta", 1, "Of re"), ("superseded", 1), ("started", 2))
        self.said(("delta", 2, DUE[:9]), ("delta", 2, DUE[9:]))
        self.ends()

    def accepted(self) -> dict[str, Any]:
        return {"dialogue_id": str(DIALOGUE), "message_id": str(QUESTION), "version": 2, "position": 2}

    def said(self, *events: tuple[Any, ...]) -> None:
        for kind, attempt, *text in events:
            number = len(self.stream.events) + 1
            data = {"message_id": str(QUESTION), "attempt": attempt, "sequence_number": number}
            self.stream.events.append(
                Heard(0.0, f"reply.{kind}", {**data, **({"text": text[0]} if text else {})})
            )

    def ends(self, version: int = 6) -> None:
        self.said(("completed", 2))
        message = {"id": str(ANSWER), "content": DUE}
        self.stream.events[-1].data.update(message=message, version=version, position=version)

    def judged(self) -> Verdict:
        verdict, log = Verdict(id="", done=""), Log({DIALOGUE: events(self.facts)})
        oracle.judge(self.told, log, script.due, verdict)
        heard.judge(self.stream, log, verdict, whole=True)
        return verdict


def test_a_good_story_keeps_every_promise() -> None:
    verdict = Story().judged()
    assert not verdict.broken
    assert verdict.checks > 20


def lost(story: Story) -> None:
    del story.facts[1:]


def renaming_lost(story: Story) -> None:
    del story.facts[3]


def done_twice(story: Story) -> None:
    story.facts.append(MessageAdded(message_id=uuid7(), role="user", content=ASKED, asks=Asked()))


def renamed_twice(story: Story) -> None:
    story.facts.insert(4, DialogueRenamed(label="Sales"))


def done_though_refused(story: Story) -> None:
    story.naming.answers = [Answer(0.0, 409)]


def asked_by_nobody(story: Story) -> None:
    story.told.requests.remove(story.asking)


def told_two_things(story: Story) -> None:
    story.asking.answers.append(Answer(0.0, 202, story.accepted() | {"version": 3}, replayed=True))


def first_twice(story: Story) -> None:
    story.asking.answers += [Answer(0.0, 202, story.accepted())] * 2


def told_500(story: Story) -> None:
    story.asking.answers.insert(0, Answer(0.0, 500))


def cancelled_in_vain(story: Story) -> None:
    told = Answer(0.0, 200, {"dialogue_id": str(DIALOGUE), "version": 4, "position": 4})
    cancel = Request(key="k3", who="anna", doing="cancel", message_id=QUESTION, answers=[told])
    story.told.requests.append(cancel)


def query_failed(story: Story) -> None:
    story.told.queries.append(Query(0.0, "/", 404))


def answered_twice(story: Story) -> None:
    story.facts.append(answered())


def never_answered(story: Story) -> None:
    del story.facts[-1]


def answered_after_its_end(story: Story) -> None:
    story.facts.insert(5, ReplyFailed(message_id=QUESTION, attempt=2, code="x"))


def another_answer(story: Story) -> None:
    story.facts[-1] = answered(script.answer(2))


def doubled_in_the_log(story: Story) -> None:
    story.facts[-1] = answered(DUE + DUE)


def old_attempt_answers(story: Story) -> None:
    story.facts[-1] = answered(attempt=1)


def asked_again_by_nobody(story: Story) -> None:
    story.facts += [ReplyRequeued(message_id=QUESTION), started(3), ReplyFailed(
        message_id=QUESTION, attempt=3, code="x")]  # fmt: skip
    story.told.requests.append(
        Request(key="k3", who="anna", doing="retry", message_id=QUESTION, answers=[Answer(0.0, 409)])
    )


def partial_of_another(story: Story) -> None:
    story.facts[-1] = ReplyFailed(message_id=QUESTION, attempt=2, code="x", partial=script.answer(2)[:16])


def doubled_in_the_stream(story: Story) -> None:
    story.stream.events.insert(5, story.stream.events[5])


def word_heard_twice(story: Story) -> None:
    event = story.stream.events[4]
    story.stream.events[4] = replace(event, data=event.data | {"text": DUE[:4] * 2})


def word_missed(story: Story) -> None:
    event = story.stream.events[5]
    story.stream.events[5] = replace(event, data=event.data | {"text": DUE[9:-3]})


def first_attempts_words_kept(story: Story) -> None:
    del story.stream.events[2]


def never_told_of_the_end(story: Story) -> None:
    story.stream.events.pop()


def told_of_an_end_that_is_not_committed(story: Story) -> None:
    story.stream.events.pop()
    story.ends(version=5)


def ended_twice(story: Story) -> None:
    story.ends()


def stream_not_found(story: Story) -> None:
    story.stream.refused.append(404)


def no_way_back(story: Story) -> None:
    story.stream.events.pop()
    story.stream.mark = ""


@pytest.mark.parametrize(
    ("breaks", "found"),
    [
        (lost, "k1 (start) was told"),
        (renaming_lost, "k2 (rename) was told"),
        (done_twice, "k1 (start) was done 2 times"),
        (renamed_twice, "k2 (rename) was done 2 times"),
        (done_though_refused, "k2 (rename) was done 1 times, not 0"),
        (asked_by_nobody, "nobody asked"),
        (told_two_things, "k1 was answered with"),
        (first_twice, "2 answers say that they are the first"),
        (told_500, "k1: 500"),
        (cancelled_in_vain, "k3 (cancel) was told"),
        (query_failed, "GET /: 404"),
        (answered_twice, "answered twice"),
        (never_answered, "not ended once"),
        (answered_after_its_end, "not ended once"),
        (another_answer, "was answered with"),
        (doubled_in_the_log, "was answered with"),
        (old_attempt_answers, "an attempt given up answered"),
        (asked_again_by_nobody, "not as often as told"),
        (partial_of_another, "has of it"),
        (doubled_in_the_stream, "events numbered"),
        (word_heard_twice, "and word by word"),
        (word_missed, "and word by word only"),
        (first_attempts_words_kept, "started of attempt 2 while 1 runs"),
        (never_told_of_the_end, "ended with []"),
        (told_of_an_end_that_is_not_committed, "the log has"),
        (ended_twice, "ended with ['reply.completed', 'reply.completed']"),
        (stream_not_found, "refused with [404]"),
        (no_way_back, "without an id"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_is_broken_is_found(breaks: Callable[[Story], None], found: str) -> None:
    story = Story()
    breaks(story)
    assert any(found in promise for promise in story.judged().broken), story.judged().broken


def test_whoever_follows_a_dialogue_misses_nothing() -> None:
    story = Story()
    story.stream.message_id = None
    story.said(("started", 2))
    story.stream.events.pop()
    added = {"message": {"id": str(QUESTION)}, "sequence_number": 0}
    for number, event in enumerate([Heard(0.0, "message.added", added), *story.stream.events], 1):
        event.data["sequence_number"] = number
    story.stream.events.insert(0, Heard(0.0, "message.added", added))
    assert not story.judged().broken
    del story.stream.events[0]
    for event in story.stream.events:
        event.data["sequence_number"] -= 1
    story.stream.since = 1.0
    assert any("not told of" in promise for promise in story.judged().broken)


def test_what_is_shown_is_what_the_log_has() -> None:
    story, log = Story(), Log({DIALOGUE: events(Story().facts)})
    good = [{"id": str(QUESTION), "content": ASKED}, {"id": str(ANSWER), "content": DUE}]
    for shown, held in ((good, True), (good[:1], False), ([*good, good[0]], False)):
        verdict = Verdict(id="", done="")
        oracle.judge_shown({DIALOGUE: shown}, log, verdict)
        assert verdict.held == held, story
