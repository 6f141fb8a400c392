"""What is in the tables is the fold of the log, whatever the batches it came in."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings

from bichat.events.dialogue import (
    DialogueStarted,
    MessageAdded,
    ReplyAccounted,
    ReplyCancelled,
    ReplyFailed,
    ReplyStarted,
    TextErased,
    Usage,
)
from bichat.events.dialogue_state import DialogueState
from bichat.events.envelope import Event
from bichat.events.transcript import Message, Turn
from bichat.projections.runner import connect
from tests.projections.histories import BUILDS, batched, evolved, history, tables, transcribed, without_keys

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def connection(module_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(module_database_url) as connection:
        yield connection


def applied(connection: psycopg.Connection[Any], batches: Sequence[Sequence[Event]]) -> dict[str, Rows]:
    """The tables after these batches, which are then forgotten."""
    with connection.transaction(force_rollback=True):
        for batch in filter(None, batches):
            for build in BUILDS:
                build.model.apply(build, connection, batch)
        return tables(connection)


@given(batches=batched())
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_tables_are_the_fold_of_the_log_whatever_the_batches(
    connection: psycopg.Connection[Any], batches: list[list[Event]]
) -> None:
    log = [event for batch in batches for event in batch]
    found = applied(connection, batches)
    assert found == applied(connection, [log])
    check_transcripts(log, found)
    check_dialogues(log, found)
    check_replies(log, found["bichat.replies_v2_g1"])
    check_usage(log, found["bichat.usage_v1_g1"])
    assert found == applied(connection, [without_keys(log)])


def clean(value: Any, kind: Any) -> Any:
    """As it comes out of a table: no NUL."""
    return msgspec.json.decode(msgspec.json.encode(value).replace(b"?\\u0000", b"?").replace(
        b"\\u0000?", b"\\ufffd?"), type=kind)  # fmt: skip


def check_transcripts(log: Sequence[Event], found: dict[str, Rows]) -> None:
    headers = {row["id"]: row for row in found["bichat.transcripts_v2_g1"]}
    pages: dict[Any, list[Message]] = defaultdict(list)
    turns: dict[Any, list[Turn]] = defaultdict(list)
    for row in sorted(found["bichat.transcripts_pages_v2_g1"], key=lambda row: row["page"]):
        messages = msgspec.convert(row["messages"], list[Message])
        assert row["cold"] == (headers[row["dialogue_id"]]["state"] == "archived")
        assert row["questions"] == [m.id for m in messages if m.asks]
        assert row["version"] == messages[-1].version
        assert {(m.seq - 1) // 50 for m in messages} == {row["page"]}
        pages[row["dialogue_id"]] += messages
    for row in found["bichat.transcripts_turns_v2_g1"]:
        turns[row["dialogue_id"]].append(msgspec.convert(row, Turn))
    dialogues = transcribed(log)
    assert headers.keys() == dialogues.keys()
    for i, dialogue in dialogues.items():
        messages = clean(dialogue.messages, list[Message])
        assert pages[i] == messages
        assert sorted(turns[i], key=lambda t: t.seq) == sorted(dialogue.turns.values(), key=lambda t: t.seq)
        same = ("tenant_id", "user_id", "label", "state", "version", "created_at", "updated_at", "erased")
        assert all(headers[i][name] == getattr(dialogue, name) for name in same)
        assert headers[i]["message_count"] == len(messages)
        assert msgspec.convert(headers[i]["last_message"], Message) == messages[-1]


def check_dialogues(log: Sequence[Event], found: dict[str, Rows]) -> None:
    counts: Counter[tuple[Any, ...]] = Counter()
    rows = {row["id"]: row for row in found["bichat.dialogues_v1_g1"]}
    for i, dialogue in transcribed(log).items():
        newest = max(dialogue.turns.values(), key=lambda turn: turn.seq)
        assert (rows[i]["question_id"], rows[i]["status"]) == (newest.message_id, newest.status)
        assert (rows[i]["version"], rows[i]["label"]) == (dialogue.version, dialogue.label)
        last = msgspec.convert(rows[i]["last_message"], Message)
        assert last == clean(dialogue.last_message, Message)
        counts[dialogue.tenant_id, dialogue.user_id, dialogue.state] += 1
    kept = {tuple(row.values())[:3]: row["dialogues"] for row in found["bichat.dialogues_counts_v1_g1"]}
    assert counts == {key: dialogues for key, dialogues in kept.items() if dialogues}


def check_replies(log: Sequence[Event], rows: Rows) -> None:
    found = {row["message_id"]: row for row in rows}
    for i in {event.stream_id for event in log}:
        state = evolved(log, i)
        asked = {e.fact.message_id: e for e in log if isinstance(e.fact, MessageAdded) and e.stream_id == i}
        for message_id, q in state.unanswered.items():
            row = found.pop(message_id)
            assert (row["dialogue_id"], row["tenant_id"], row["user_id"]) == (
                i,
                state.tenant_id,
                state.user_id,
            )
            assert (row["version"], row["status"], row["attempt"]) == (q.version, q.status, q.attempt)
            assert (row["tries"], row["cancel_requested"]) == (q.tries, q.cancel_requested)
            assert row["detail"] == last_detail(log, i, message_id)
            assert row["due"] == (q.status in ("waiting", "running"))
            assert (row["off_peak"], row["later"]) == (q.off_peak, q.off_peak and q.status == "waiting")
            assert row["first"] == (q.version in firsts(state))
            assert row["position"] == asked[message_id].position
            assert row["asked_at"] == asked[message_id].at
    assert not found


def firsts(state: DialogueState) -> set[int]:
    """What can be claimed: the reply under way, else the first for now and the first for later."""
    if state.running:
        return {state.unanswered[state.running].version}
    first: dict[bool, int] = {}
    for q in sorted(state.unanswered.values(), key=lambda q: q.version):
        if q.status == "waiting":
            first.setdefault(q.off_peak, q.version)
    return set(first.values())


def last_detail(log: Sequence[Event], dialogue_id: Any, message_id: Any) -> str | None:
    detail = None
    for e in log:
        if e.stream_id == dialogue_id and isinstance(e.fact, TextErased):
            detail = None
        elif isinstance(e.fact, ReplyFailed) and e.fact.message_id == message_id:
            detail = e.fact.detail
    return detail


def check_usage(log: Sequence[Event], rows: Rows) -> None:
    owner: dict[Any, str] = {}
    model: dict[Any, str] = {}
    spent: Counter[tuple[Any, ...]] = Counter()
    for e in log:
        match e.fact:
            case DialogueStarted(user_id=user_id):
                owner[e.stream_id] = user_id
            case ReplyStarted():
                model[e.fact.message_id] = e.fact.model
            case MessageAdded(answers=answers) if answers:
                spent[e.tenant_id, owner[e.stream_id], e.at.date(), answers.model] += (
                    answers.usage.total_tokens
                )
            case ReplyFailed() | ReplyCancelled() | ReplyAccounted() if _called(e.fact):
                key = e.tenant_id, owner[e.stream_id], e.at.date(), model[e.fact.message_id]
                spent[key] += e.fact.usage.total_tokens
    assert spent == {
        (r["tenant_id"], r["user_id"], r["day"], r["model"]): r["total_tokens"] for r in rows
    }  # fmt: skip


def _called(fact: ReplyFailed | ReplyCancelled | ReplyAccounted) -> bool:
    """Whether the model was asked: of an attempt that its worker left without a word, nobody knows better."""
    return bool(fact.attempt) and (isinstance(fact, ReplyFailed) or fact.usage != Usage())


def test_a_page_holds_fifty_messages_and_is_left_alone_when_full(
    connection: psycopg.Connection[Any],
) -> None:
    log = history([(0, 0, 0)] * 120)
    with connection.transaction(force_rollback=True):
        transcripts = BUILDS[0]
        transcripts.model.apply(transcripts, connection, log[:90])
        pages = b"select page, xmin::text, jsonb_array_length(messages) from bichat.transcripts_pages_v2_g1"
        before = connection.execute(pages).fetchall()
        for event in log[90:]:
            with connection.transaction():
                transcripts.model.apply(transcripts, connection, [event])
        after = {page: (xmin, n) for page, xmin, n in connection.execute(pages)}
    assert [n for _, _, n in sorted(before)] == [50, 39]
    assert [n for _, (_, n) in sorted(after.items())] == [50, 50, 20]
    assert after[0][0] == before[0][1]


def test_an_erasure_blanks_the_failure_of_a_question_that_is_not_touched(
    connection: psycopg.Connection[Any],
) -> None:
    log = history([(0, 0, 0), (0, 3, 0), (0, 9, 0), (0, 18, 0)])
    found = applied(connection, [log[:-1], log[-1:]])
    assert [(row["code"], row["detail"]) for row in found["bichat.replies_v2_g1"]] == [("model_silent", None)]
    check_transcripts(log, found)


def test_an_event_out_of_turn_is_refused(connection: psycopg.Connection[Any]) -> None:
    log = history([(0, 0, 0)] * 4)
    with pytest.raises(ValueError, match="does not follow"):
        applied(connection, [log[:2], log[3:]])


def test_a_history_is_what_it_says() -> None:
    log = history([(0, 0, 0), (0, 3, 0), (0, 9, 1), (0, 3, 0), (0, 6, 0), (1, 0, 0), (0, 14, 0)])
    assert [type(event.fact).__name__ for event in log] == [
        "DialogueStarted", "MessageAdded", "ReplyStarted", "ReplyFailed", "ReplyStarted", "MessageAdded",
        "DialogueStarted", "MessageAdded", "DialogueDeleted",
    ]  # fmt: skip


def test_what_a_reply_cost_when_its_dialogue_was_deleted_is_counted(
    connection: psycopg.Connection[Any],
) -> None:
    log = history([(0, 0, 0), (0, 3, 0), (0, 14, 0), (0, 11, 0)])
    assert isinstance(log[-1].fact, ReplyAccounted)
    found = applied(connection, [log[:-1], log[-1:]])
    assert found == applied(connection, [log])
    check_transcripts(log, found)
    check_replies(log, found["bichat.replies_v2_g1"])
    check_usage(log, found["bichat.usage_v1_g1"])
    assert found["bichat.usage_v1_g1"][0]["calls"] == 1
