"""What each command makes of each state; a decision is a pure function, so this needs nothing else."""

from __future__ import annotations

from functools import reduce
from uuid import UUID

import pytest

from bichat.commands.command import Command
from bichat.commands.decide import decide
from bichat.commands.dialogue import (
    AddMessage,
    ArchiveDialogue,
    CancelReply,
    DeleteDialogue,
    RenameDialogue,
    RestoreDialogue,
    RetryFailedReply,
    RetryReply,
    UnarchiveDialogue,
)
from bichat.commands.reply import CompleteReply, EndCancelledReply, FailReply, GiveUpReply
from bichat.errors import (
    IsArchived,
    IsDeleted,
    NotFailed,
    NotFound,
    NotRetryable,
    Refused,
    ReplyBusy,
    ReplyNotDue,
    StaleAttempt,
)
from bichat.events.dialogue import (
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyCancelRequested,
    ReplyFailed,
    ReplyRequeued,
    Usage,
)
from bichat.events.dialogue_state import NOTHING, DialogueState, evolve
from bichat.events.envelope import Fact, Metadata
from tests.examples import (
    ANSWER,
    DIALOGUE,
    FACTS,
    OTHER_TENANT,
    QUESTION,
    USAGE,
    by,
    by_worker,
    events,
    question,
    start,
    start_reply,
)

SECOND = UUID("01a00000-0000-7000-8000-00000000001a")


def given(*names: str, also: tuple[Fact, ...] = ()) -> DialogueState:
    return reduce(evolve, events([*(FACTS[name] for name in names), *also]), NOTHING)


def complete(attempt: int = 1) -> CompleteReply:
    return CompleteReply(
        dialogue_id=DIALOGUE, message_id=QUESTION, attempt=attempt, answer_id=ANSWER, content="A lot.",
        model="small", finish_reason="stop", usage=USAGE,
    )  # fmt: skip


def fail(*, final: bool) -> FailReply:
    return FailReply(
        dialogue_id=DIALOGUE, message_id=QUESTION, attempt=1, code="model_cut_off", detail="no end",
        partial="A", usage=USAGE, final=final,
    )  # fmt: skip


def end(attempt: int = 1) -> EndCancelledReply:
    return EndCancelledReply(
        dialogue_id=DIALOGUE, message_id=QUESTION, attempt=attempt, partial="A", usage=USAGE
    )


PEOPLE: list[Command] = [
    AddMessage(dialogue_id=DIALOGUE, messages=(question(),)),
    RenameDialogue(dialogue_id=DIALOGUE, label="x"),
    DeleteDialogue(dialogue_id=DIALOGUE),
    ArchiveDialogue(dialogue_id=DIALOGUE),
    UnarchiveDialogue(dialogue_id=DIALOGUE),
    RestoreDialogue(dialogue_id=DIALOGUE),
    CancelReply(dialogue_id=DIALOGUE, message_id=QUESTION),
    RetryReply(dialogue_id=DIALOGUE, message_id=QUESTION),
]


@pytest.mark.parametrize("command", PEOPLE, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("state", [given(), given("started", "asked"), given("started", "deleted")])
@pytest.mark.parametrize("who", [by("eve"), by("anna", OTHER_TENANT), by("eve", OTHER_TENANT)])
def test_what_is_not_yours_and_what_is_not_there_are_the_same_no(
    command: Command, state: DialogueState, who: Metadata
) -> None:
    with pytest.raises(NotFound) as refusal:
        decide(state, command, who)
    assert str(refusal.value) == "There is no such dialogue."


@pytest.mark.parametrize("command", PEOPLE, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize(
    ("lifecycle", "refusal", "back"),
    [("deleted", IsDeleted, RestoreDialogue), ("archived", IsArchived, UnarchiveDialogue)],
)
def test_a_deleted_or_archived_dialogue_takes_nothing_but_what_brings_it_back(
    command: Command, lifecycle: str, refusal: type[Refused], back: type[Command]
) -> None:
    state = given("started", lifecycle)
    if isinstance(command, back):
        assert len(decide(state, command, by())) == 1
    elif lifecycle == "archived" and isinstance(command, RestoreDialogue):
        assert decide(state, command, by()) == []
    else:
        with pytest.raises(refusal):
            decide(state, command, by())


def test_starting_makes_the_dialogue_and_its_first_message_at_once() -> None:
    facts = decide(NOTHING, start(DIALOGUE), by())
    assert [type(fact).__name__ for fact in facts] == ["DialogueStarted", "MessageAdded"]


def test_an_id_that_is_taken_is_not_started_again() -> None:
    with pytest.raises(NotFound):
        decide(given("started"), start(DIALOGUE), by())


@pytest.mark.parametrize("command", [RestoreDialogue, UnarchiveDialogue])
def test_bringing_back_what_is_there_changes_nothing(command: type[Command]) -> None:
    assert decide(given("started"), command(dialogue_id=DIALOGUE), by()) == []


def test_cancelling_what_waits_ends_it_and_what_runs_asks_its_worker() -> None:
    cancel = CancelReply(dialogue_id=DIALOGUE, message_id=QUESTION)
    assert decide(given("started", "asked"), cancel, by()) == [ReplyCancelled(message_id=QUESTION, attempt=0)]
    running = given("started", "asked", "reply started")
    assert decide(running, cancel, by()) == [ReplyCancelRequested(message_id=QUESTION)]
    assert decide(given("started", "asked", "reply started", "cancel requested"), cancel, by()) == []
    assert decide(given("started", "asked", "reply started", "answered"), cancel, by()) == []
    assert decide(given("started"), cancel, by()) == []


def test_only_what_failed_or_was_cancelled_is_retried() -> None:
    retry = RetryReply(dialogue_id=DIALOGUE, message_id=QUESTION)
    final = ReplyFailed(message_id=QUESTION, attempt=1, code="model_refused")
    failed = given("started", "asked", "reply started", also=(final,))
    assert decide(failed, retry, by()) == [ReplyRequeued(message_id=QUESTION)]
    cancelled = given("started", "asked", "reply started", "cancelled")
    assert decide(cancelled, retry, by()) == [ReplyRequeued(message_id=QUESTION)]
    assert decide(given("started", "asked"), retry, by()) == []
    stopping = given("started", "asked", "reply started", "cancel requested")
    assert decide(stopping, retry, by()) == [
        ReplyCancelled(message_id=QUESTION, attempt=1, account_due=True),
        ReplyRequeued(message_id=QUESTION),
    ]
    for state in (given("started"), given("started", "asked", "reply started", "answered")):
        with pytest.raises(NotRetryable):
            decide(state, retry, by())


RETRY = RetryFailedReply(dialogue_id=DIALOGUE, message_id=QUESTION)
FAILED = ReplyFailed(message_id=QUESTION, attempt=1, code="model_refused")


def test_ops_queue_anybodys_failed_question_again_but_only_in_their_tenant() -> None:
    failed = given("started", "asked", "reply started", also=(FAILED,))
    assert decide(failed, RETRY, by("olga")) == [ReplyRequeued(message_id=QUESTION)]
    for state, who in (
        (failed, by("olga", OTHER_TENANT)),
        (failed, by("anna", OTHER_TENANT)),
        (NOTHING, by()),
    ):
        with pytest.raises(NotFound):
            decide(state, RETRY, who)


@pytest.mark.parametrize(
    "names",
    [
        ("started",),
        ("started", "asked"),
        ("started", "asked", "reply started"),
        ("started", "asked", "reply started", "answered"),
        ("started", "asked", "reply started", "cancelled"),
    ],
)
def test_ops_queue_nothing_again_that_did_not_fail(names: tuple[str, ...]) -> None:
    with pytest.raises(NotFailed):
        decide(given(*names), RETRY, by("olga"))


@pytest.mark.parametrize(("lifecycle", "refusal"), [("deleted", IsDeleted), ("archived", IsArchived)])
def test_ops_leave_a_dialogue_that_was_put_away(lifecycle: str, refusal: type[Refused]) -> None:
    state = given("started", "asked", "reply started", lifecycle, also=(FAILED,))
    with pytest.raises(refusal):
        decide(state, RETRY, by("olga"))


def test_deleting_ends_every_reply_in_the_same_decision_oldest_first() -> None:
    second = MessageAdded(message_id=SECOND, role="user", content="And?", asks=FACTS["asked"].asks)  # type: ignore[attr-defined]
    state = given("started", "asked", "reply started", also=(second,))
    facts = decide(state, DeleteDialogue(dialogue_id=DIALOGUE), by())
    assert facts == [
        ReplyCancelled(message_id=QUESTION, attempt=1, account_due=True),
        ReplyCancelled(message_id=SECOND, attempt=0),
        FACTS["deleted"],
    ]


# --- workers --------------------------------------------------------------------------------------


def test_an_attempt_is_one_more_than_the_last_whoever_ran_that() -> None:
    command = start_reply(DIALOGUE, QUESTION, 1)
    (fact,) = decide(given("started", "asked"), command, by_worker())
    assert (fact.message_id, fact.attempt) == (QUESTION, 1)  # type: ignore[attr-defined]
    assert (
        len(
            decide(
                given("started", "asked", "reply started"), start_reply(DIALOGUE, QUESTION, 2), by_worker()
            )
        )
        == 1
    )
    for state, attempt in ((given("started", "asked"), 2), (given("started", "asked", "reply started"), 1)):
        with pytest.raises(StaleAttempt):
            decide(state, start_reply(DIALOGUE, QUESTION, attempt), by_worker())


@pytest.mark.parametrize(
    "names",
    [
        ("started",),
        ("started", "asked", "reply started", "answered"),
        ("started", "asked", "reply started", "cancelled"),
        ("started", "asked", "reply started", "cancel requested"),
    ],
)
def test_nothing_is_started_that_is_answered_cancelled_or_about_to_be(names: tuple[str, ...]) -> None:
    with pytest.raises(ReplyNotDue):
        decide(given(*names), start_reply(DIALOGUE, QUESTION, 2), by_worker())


def test_one_reply_at_a_time_in_a_dialogue() -> None:
    second = MessageAdded(message_id=SECOND, role="user", content="And?", asks=FACTS["asked"].asks)  # type: ignore[attr-defined]
    with pytest.raises(ReplyBusy):
        decide(
            given("started", "asked", "reply started", also=(second,)),
            start_reply(DIALOGUE, SECOND),
            by_worker(),
        )


def test_only_the_newest_attempt_may_end_the_reply() -> None:
    two = given("started", "asked", "reply started", also=(_second_attempt(),))
    for command in (complete(1), fail(final=True), end(1)):
        with pytest.raises(StaleAttempt):
            decide(two, command, by_worker())
    assert len(decide(two, complete(2), by_worker())) == 1


def _second_attempt() -> Fact:
    (fact,) = decide(
        given("started", "asked", "reply started"), start_reply(DIALOGUE, QUESTION, 2), by_worker()
    )
    return fact


def test_an_answer_comes_once() -> None:
    with pytest.raises(ReplyNotDue):
        decide(given("started", "asked", "reply started", "answered"), complete(), by_worker())


def test_an_answer_to_a_deleted_dialogue_is_refused_and_to_an_archived_one_kept() -> None:
    running = given("started", "asked", "reply started")
    deleted = reduce(evolve, events(decide(running, DeleteDialogue(dialogue_id=DIALOGUE), by())), running)
    with pytest.raises(StaleAttempt):
        decide(deleted, complete(), by_worker())
    assert len(decide(given("started", "asked", "reply started", "archived"), complete(), by_worker())) == 1


def test_a_worker_says_once_what_a_reply_had_cost_when_its_dialogue_was_deleted() -> None:
    running = given("started", "asked", "reply started")
    deleted = reduce(evolve, events(decide(running, DeleteDialogue(dialogue_id=DIALOGUE), by())), running)
    (account,) = decide(deleted, end(), by_worker())
    assert account == ReplyAccounted(message_id=QUESTION, attempt=1, partial="A", usage=USAGE)
    assert decide(reduce(evolve, events([account]), deleted), end(), by_worker()) == []


def test_what_an_attempt_had_cost_is_also_told_after_the_question_was_asked_again() -> None:
    again = given(
        "started", "asked", "reply started", "cancelled while it ran", "requeued", also=(_second_attempt(),)
    )
    (account,) = decide(again, end(1), by_worker())
    assert account == ReplyAccounted(message_id=QUESTION, attempt=1, partial="A", usage=USAGE)
    told = reduce(evolve, events([account]), again)
    assert told.unanswered[QUESTION].status == "running"
    with pytest.raises(StaleAttempt):
        decide(told, end(1), by_worker())


def test_what_never_started_has_no_account() -> None:
    with pytest.raises(StaleAttempt):
        decide(given("started", "asked"), end(0), by_worker())


def test_a_failure_keeps_partial_text_and_usage_and_waits_unless_final() -> None:
    (fact,) = decide(given("started", "asked", "reply started"), fail(final=False), by_worker())
    assert fact == ReplyFailed(
        message_id=QUESTION,
        attempt=1,
        code="model_cut_off",
        detail="no end",
        partial="A",
        usage=USAGE,
        final=False,
    )


def test_a_failure_that_would_be_retried_ends_a_reply_that_should_be_cancelled() -> None:
    state = given("started", "asked", "reply started", "cancel requested")
    (fact,) = decide(state, fail(final=False), by_worker())
    assert isinstance(fact, ReplyCancelled)
    assert fact.usage == USAGE


def test_a_cancelled_reply_is_ended_once() -> None:
    wanted = given("started", "asked", "reply started", "cancel requested")
    assert len(decide(wanted, end(), by_worker())) == 1
    assert decide(given("started", "asked", "reply started", "cancelled"), end(), by_worker()) == []
    assert Usage() != USAGE


def give_up(attempt: int = 0) -> GiveUpReply:
    return GiveUpReply(
        dialogue_id=DIALOGUE, message_id=QUESTION, attempt=attempt, code="parked", detail="not queued"
    )


def test_a_question_that_waits_is_given_up_without_an_attempt_that_could_be_counted() -> None:
    first = given("started", "asked")
    (fact,) = decide(first, give_up(), by_worker())
    assert fact == ReplyFailed(message_id=QUESTION, attempt=0, code="parked", detail="not queued")
    again = given("started", "asked", "reply started", "reply failed")
    (fact,) = decide(again, give_up(1), by_worker())
    assert fact == ReplyFailed(message_id=QUESTION, attempt=0, code="parked", detail="not queued")


def test_a_reply_that_runs_is_given_up_with_its_attempt() -> None:
    running = given("started", "asked", "reply started")
    (fact,) = decide(running, give_up(1), by_worker())
    assert fact == ReplyFailed(message_id=QUESTION, attempt=1, code="parked", detail="not queued")
    state = reduce(evolve, events([fact]), running)
    assert (state.running, state.unanswered[QUESTION].status) == (None, "failed")
    with pytest.raises(StaleAttempt):
        decide(state, complete(), by_worker())


def test_what_was_to_be_cancelled_is_cancelled_when_it_is_given_up() -> None:
    stopping = given("started", "asked", "reply started", "cancel requested")
    assert decide(stopping, give_up(1), by_worker()) == [ReplyCancelled(message_id=QUESTION, attempt=1)]


@pytest.mark.parametrize(
    ("names", "attempt", "refusal"),
    [
        (("started",), 0, ReplyNotDue),
        (("started", "asked", "reply started", "answered"), 1, ReplyNotDue),
        (("started", "asked", "reply started", "cancelled"), 1, ReplyNotDue),
        (("started", "asked", "reply started"), 0, StaleAttempt),
        (("started", "asked", "reply started", "reply failed"), 0, StaleAttempt),
    ],
)
def test_nothing_is_given_up_that_ended_or_moved_on(
    names: tuple[str, ...], attempt: int, refusal: type[Refused]
) -> None:
    with pytest.raises(refusal):
        decide(given(*names), give_up(attempt), by_worker())


def test_what_was_given_up_can_be_asked_again_and_is_then_the_next_attempt() -> None:
    (fact,) = decide(given("started", "asked"), give_up(), by_worker())
    state = given("started", "asked", also=(fact,))
    for retry in (RETRY, RetryReply(dialogue_id=DIALOGUE, message_id=QUESTION)):
        again = given("started", "asked", also=(fact, *decide(state, retry, by())))
        assert len(decide(again, start_reply(DIALOGUE, QUESTION, 1), by_worker())) == 1
