"""What the model is shown: for any history the same as the plain definition, and rebuilt byte for byte."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bichat import shown as order
from bichat.errors.model import ContextTooLong, QuestionErased
from bichat.events.dialogue import (
    AnswerTo,
    Asked,
    MessageAdded,
    ReplyCancelRequested,
    ReplyStarted,
    TextErased,
)
from bichat.events.envelope import Event, Fact
from bichat.model import ChatMessage, canonical
from bichat.prompts import PROMPT, PROMPTS
from bichat.shown import Place, rebuild, request
from bichat.tokens import count
from bichat.workers.context import OVERHEAD, Context, build
from tests.examples import DIALOGUE, events
from tests.projections.histories import shut


class Pages:
    """A history that is read as the ledger is, counting what it gives out."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self.events = events(facts)
        self.given = 0

    def read(
        self, stream_id: UUID, *, after: int = 0, upto: int | None = None, limit: int | None = None,
        desc: bool = False, kinds: Sequence[str] = (),
    ) -> list[Event]:  # fmt: skip
        assert stream_id == DIALOGUE
        found = [
            event
            for event in self.events[:: -1 if desc else 1]
            if after < event.version <= (upto or len(self.events)) and type(event.fact).__name__ in kinds
        ][:limit]
        self.given += len(found)
        return found


def ask(content: str, message_id: UUID | None = None) -> MessageAdded:
    return MessageAdded(message_id=message_id or uuid4(), role="user", content=content, asks=Asked())


def say(content: str) -> MessageAdded:
    return MessageAdded(message_id=uuid4(), role="system", content=content)


def answer(question: MessageAdded, content: str) -> MessageAdded:
    answers = AnswerTo(message_id=question.message_id, attempt=1, model="m")
    return MessageAdded(message_id=uuid4(), role="assistant", content=content, answers=answers)


def look(facts: Sequence[Fact], question: MessageAdded, budget: int = 100_000) -> tuple[Context, Pages]:
    log = Pages(facts)
    unanswered = {f.message_id for f in facts if isinstance(f, MessageAdded) and f.asks} - {
        f.answers.message_id for f in facts if isinstance(f, MessageAdded) and f.answers
    }
    place = Place(DIALOGUE, facts.index(question) + 1, len(facts))
    return build(log, place, unanswered, budget), log


def texts(context: Context) -> list[str]:
    assert context.messages[0] == ChatMessage("system", PROMPTS[PROMPT])
    return [message.content for message in context.messages[1:]]


def test_a_first_question_is_shown_with_the_prompt() -> None:
    asked = ask("How much?")
    shown, _ = look([asked], asked)
    assert texts(shown) == ["How much?"]
    assert (shown.shown.as_of, shown.shown.messages) == (1, 1)
    assert shown.question == asked


def test_later_questions_and_their_answers_are_left_out() -> None:
    one, two = ask("1?"), ask("2?")
    assert texts(look([one, two, answer(two, "2!")], one)[0]) == ["1?"]


def test_an_earlier_answer_stands_right_after_its_question_though_it_came_later() -> None:
    one, two, three = ask("1?"), ask("2?"), ask("3?")
    facts = [one, two, three, answer(two, "2!"), answer(one, "1!")]
    assert texts(look(facts, three)[0]) == ["1?", "1!", "2?", "2!", "3?"]


def test_a_question_without_an_answer_is_shown_alone_and_nobody_looks_for_one() -> None:
    one, two = ask("failed?"), ask("2?")
    shown, log = look([one, two, *(ask(f"later {n}") for n in range(500))], two)
    assert texts(shown) == ["failed?", "2?"]
    assert log.given == 2


def test_an_answer_at_the_far_end_is_found_from_there() -> None:
    one, two = ask("1?"), ask("2?")
    shown, log = look([one, two, *(say("x") for _ in range(5_000)), answer(one, "1!")], two)
    assert texts(shown) == ["1?", "1!", "2?"]
    assert log.given <= 2 + 2 * order.PAGE


def test_units_are_shown_whole_or_not_at_all() -> None:
    one, two, three = ask("1 " * 50), ask("2 " * 50), ask("3?")
    facts = [one, answer(one, "1! " * 50), two, answer(two, "2! " * 50), three]
    whole, _ = look(facts, three)
    part, _ = look(facts, three, budget=whole.tokens - 1)
    assert texts(part) == texts(whole)[2:]
    assert part.tokens < whole.tokens
    assert len(texts(look(facts, three, budget=part.tokens - 1)[0])) == 1


def test_a_question_over_the_budget_is_refused_with_the_figures() -> None:
    asked = ask("word " * 500)
    shown, _ = look([say("before"), asked], asked, budget=100)
    assert texts(shown) == ["word " * 500]
    with pytest.raises(ContextTooLong, match=f"{shown.tokens} tokens; the model is shown at most 100"):
        shown.expect_fit()


def test_a_long_history_is_read_no_further_than_it_is_shown() -> None:
    history: list[Fact] = []
    for n in range(2_000):
        asked = ask(f"question {n}")
        history += [asked, answer(asked, f"answer {n}")]
    asked = ask("last?")
    shown, log = look([*history, asked], asked, budget=600)
    assert len(shown.messages) > 20
    assert shown.tokens <= 600
    assert log.given <= len(shown.messages) + 2 * order.PAGE


def test_odd_names_do_not_break_the_request() -> None:
    asked = ask("?")
    named = MessageAdded(message_id=uuid4(), role="user", content="a", name="Ann-1")
    spaced = MessageAdded(message_id=uuid4(), role="user", content="b", name="Ann <Lee>")
    shown, _ = look([named, spaced, asked], asked)
    assert [(m.content, m.name) for m in shown.messages[1:]] == [
        ("a", "Ann-1"),
        ("b", ""),
        ("?", ""),
    ]


def test_from_before_an_erasure_nothing_is_shown_whatever_keys_there_are() -> None:
    old, asked, again = ask("Who am I?"), ask("And now?"), ask("So?")
    before = [old, answer(old, "Anna.")]
    after = [TextErased(), asked, answer(asked, "I do not know."), again]
    shown, log = look([*before, *after], again)
    assert texts(shown) == ["And now?", "I do not know.", "So?"]
    started = ReplyStarted(
        message_id=again.message_id, attempt=1, model="m", shown=shown.shown, request_digest=""
    )
    made = canonical(request(started, shown.messages))
    assert canonical(rebuild(log, DIALOGUE, 6, started)) == made
    later = Pages([shut(old), shut(before[1]), *after, TextErased()])
    assert canonical(rebuild(later, DIALOGUE, 6, started)) == made, "of text that was still there"


def test_text_without_a_key_is_not_shown_as_empty() -> None:
    old, asked = ask("Who am I?"), ask("And now?")
    facts = [say("Note"), shut(old), asked]
    shown, log = look(facts, asked)
    assert texts(shown) == ["And now?"]
    started = ReplyStarted(
        message_id=asked.message_id, attempt=1, model="m", shown=shown.shown, request_digest=""
    )
    assert canonical(rebuild(log, DIALOGUE, 3, started)) == canonical(request(started, shown.messages))
    with pytest.raises(QuestionErased):
        build(Pages([shut(asked)]), Place(DIALOGUE, 1, 1), set(), 100_000)


# --- any history ----------------------------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Fact], MessageAdded]:
    """Questions, messages, and answers in any order after their questions; and one question to look at."""
    facts: list[Fact] = []
    waiting: list[MessageAdded] = []
    for n in range(draw(st.integers(1, 60))):
        kind = draw(st.sampled_from(["ask", "ask", "say", "answer", "answer", "other"]))
        if kind == "say":
            facts.append(say(f"say {n}"))
        elif kind == "other":
            facts.append(ReplyCancelRequested(message_id=uuid4()))
        elif kind == "answer" and waiting:
            asked = waiting.pop(draw(st.integers(0, len(waiting) - 1)))
            facts.append(answer(asked, f"re {asked.content}"))
        else:
            waiting.append(ask(f"ask {n}"))
            facts.append(waiting[-1])
    if not waiting:
        waiting.append(ask("last"))
        facts.append(waiting[-1])
    return facts, draw(st.sampled_from(waiting))


def defined(facts: Sequence[Fact], question: MessageAdded) -> list[list[str]]:
    """The reading order, said plainly: units up to the question."""
    said = [fact for fact in facts if isinstance(fact, MessageAdded)]
    answers = {fact.answers.message_id: fact for fact in said if fact.answers}
    units = [
        [one.content or "", *([answers[one.message_id].content or ""] if one.message_id in answers else [])]
        for one in said
        if not one.answers
    ]
    return units[: [unit[0] for unit in units].index(question.content or "") + 1]


@given(histories(), st.integers(1, 400), st.sampled_from([1, 2, 3, 32]))
def test_any_history_is_shown_as_defined_and_rebuilt_the_same(
    history: tuple[list[Fact], MessageAdded], budget: int, page: int
) -> None:
    facts, question = history
    page_before, order.PAGE = order.PAGE, page
    try:
        shown, _ = look(facts, question, budget)
        units = defined(facts, question)
        kept = [text for unit in units[-_fitting(units, budget) :] for text in unit]
        assert texts(shown) == kept

        started = ReplyStarted(
            message_id=question.message_id, attempt=1, model="m", temperature=0.3, shown=shown.shown,
            request_digest="",
        )  # fmt: skip
        later = [*facts, *(answer(f, "later!") for f in facts if isinstance(f, MessageAdded) and f.asks)]
        again = rebuild(Pages(later), DIALOGUE, facts.index(question) + 1, started)
        assert canonical(again) == canonical(request(started, shown.messages))
    finally:
        order.PAGE = page_before


def _fitting(units: list[list[str]], budget: int) -> int:
    """How many of the newest units fit; at least one."""
    left, fitting = budget - OVERHEAD - count(PROMPTS[PROMPT]), 0
    for unit in reversed(units):
        left -= sum(OVERHEAD + count(text) for text in unit)
        if left < 0 and fitting:
            break
        fitting += 1
    return fitting
