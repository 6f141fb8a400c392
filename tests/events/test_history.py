"""A dialogue as it was is what its transcript was then, and any event that was touched is noticed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bichat.errors import ChainBroken, LogUnreadable
from bichat.events import envelope
from bichat.events.codec import StoredRow
from bichat.events.envelope import Event
from bichat.events.history import Doer, Unfolding, audit_events, chained_row
from bichat.events.ledger import Ledger
from bichat.events.recorder import COLUMNS
from bichat.events.transcript import Dialogue, transcribe, transcribed
from tests.examples import COMMAND, DIALOGUE, FACTS, NOON, TENANT, events, opened
from tests.projections.histories import histories
from tests.projections.logs import write


def rows(database_url: str, dialogue_id: UUID) -> list[StoredRow]:
    """What is stored of a stream, each row knowing the hash before it."""
    previous = "lag(hash) over (order by originator_version)"
    query = (
        f"select {COLUMNS}, {previous} from bichat.stored_events"
        " where originator_id = %s order by originator_version"
    )
    with psycopg.connect(database_url) as connection:
        return [chained_row(found) for found in connection.execute(query.encode(), (dialogue_id,))]


def unfolded(ledger: Ledger, stored: Sequence[StoredRow], **until: object) -> Dialogue | None:
    """The dialogue, read a few rows at a time."""
    unfolding = Unfolding(ledger.keys, **until)  # type: ignore[arg-type]
    for first in range(0, len(stored), 3):
        if not unfolding.take(stored[first : first + 3]):
            break
    return unfolding.dialogue


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(log=histories)
def test_a_dialogue_as_of_each_version_is_its_transcript_then(database_url: str, log: list[Event]) -> None:
    with opened(database_url) as ledger, psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("truncate bichat.stored_events, bichat.snapshots")
        write(ledger, log)
        for dialogue_id in {event.stream_id for event in log}:
            stored, then = rows(database_url, dialogue_id), None
            for event in ledger.read(dialogue_id):
                then = transcribe(then, event)
                assert unfolded(ledger, stored, version=event.version) == then
            assert unfolded(ledger, stored) == then


@pytest.fixture
def told(database_url: str) -> Iterator[Ledger]:
    """A log with one short dialogue."""
    with opened(database_url) as ledger:
        facts = ("started", "asked", "reply started", "answered", "renamed", "deleted")
        write(ledger, events([FACTS[name] for name in facts]))
        yield ledger


def test_a_time_shows_what_had_happened_by_then(told: Ledger, database_url: str) -> None:
    stored = rows(database_url, DIALOGUE)
    for seconds, version in ((0.9, 0), (1, 1), (1.5, 1), (4, 4), (99, 6)):
        found = unfolded(told, stored, at=NOON + timedelta(seconds=seconds))
        assert (found.version if found else 0) == version


def test_events_say_who_when_and_by_which_command(told: Ledger, database_url: str) -> None:
    shown = audit_events(rows(database_url, DIALOGUE), told.keys)
    assert [one.version for one in shown] == [1, 2, 3, 4, 5, 6]
    assert [one.prev_hash for one in shown] == ["00" * 32, *(one.hash for one in shown[:-1])]
    assert shown[1].data is not None
    assert (shown[1].data["content"], "erased" in shown[1].data) == ("How much?", False)
    assert (shown[1].actor, shown[1].command_id, shown[1].dialogue_id) == (
        Doer("user", "anna"), COMMAND, DIALOGUE,
    )  # fmt: skip


def test_text_without_its_key_is_null_and_said_to_be_erased(told: Ledger, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("update bichat_keys.data_keys set wrapped = null, destroyed_at = now()")
    with opened(database_url) as later:
        stored = rows(database_url, DIALOGUE)
        shown = audit_events(stored, later.keys)
        assert shown[0].data == {"user_id": "anna", "label": None, "erased": True}
        assert shown[2].data is not None
        assert "erased" not in shown[2].data
        found = unfolded(later, stored)
        assert found is not None
        assert [message.content for message in found.messages] == [None, None]


TAMPERED = {
    "changed": "update bichat.stored_events set state = replace(convert_from(state, 'UTF8'),"
    " '\"anna\"', '\"otto\"')::bytea where originator_version = 3",
    "another command": "update bichat.stored_events set command_id = tenant_id where originator_version = 3",
    "another kind": "update bichat.stored_events set topic = 'ReplyRequeued' where originator_version = 3",
    "removed": "delete from bichat.stored_events where originator_version = 3",
    "renumbered": "update bichat.stored_events set originator_version = 30 where originator_version = 3",
    "hashed anew": "update bichat.stored_events set hash = sha256(state) where originator_version = 3",
    "no JSON": "update bichat.stored_events set state = 'x' where originator_version = 3",
}


@pytest.mark.parametrize("statement", TAMPERED.values(), ids=TAMPERED.keys())
def test_an_event_that_was_touched_is_named(told: Ledger, database_url: str, statement: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(statement.encode())
    stored = rows(database_url, DIALOGUE)
    with pytest.raises(ChainBroken, match="Event 3 of this dialogue is not what was once stored"):
        unfolded(told, stored)
    before = unfolded(told, stored, version=2)
    assert before is not None
    assert before.version == 2
    assert len(audit_events(stored, told.keys)) == len(stored), "what is stored can be looked at all the same"


def test_what_cannot_be_read_says_why_and_quotes_nothing(told: Ledger, database_url: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update bichat.stored_events set state = 'My secret' where originator_version = 2;"
            "update bichat.stored_events set topic = 'ThingHappened' where originator_version = 3"
        )
    spoilt, newer = audit_events(rows(database_url, DIALOGUE), told.keys)[1:3]
    assert (spoilt.at, spoilt.actor, spoilt.data) == (None, None, None)
    assert spoilt.unreadable == "MessageAdded cannot be read: DecodeError"
    assert "newer than this code" in str(newer.unreadable)


def test_an_event_newer_than_the_code_stops_the_fold_and_is_no_tampering(
    told: Ledger, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(envelope._catalog, "DialogueRenamed")  # code from before it was thought of
    with pytest.raises(LogUnreadable, match="newer than this code"):
        unfolded(told, rows(database_url, DIALOGUE))


@given(cuts=st.lists(st.integers(1, 200), max_size=5), messages=st.integers(0, 200))
def test_the_fold_of_many_is_the_fold_of_one_by_one(cuts: list[int], messages: int) -> None:
    started, asked, erased = FACTS["started"], FACTS["asked"], FACTS["erased"]
    facts = [started, *[asked] * messages]
    for cut in cuts:
        facts.insert(min(cut, len(facts)), erased)
    log = events(facts, DIALOGUE, TENANT)
    one: Dialogue | None = None
    for event in log:
        one = transcribe(one, event)
    assert transcribed(None, log) == one
