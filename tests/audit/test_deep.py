"""JSON nested more deeply than Python follows is an event that cannot be read, and stops nobody."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import psycopg
import pytest

from bichat.errors import EventUnreadable
from bichat.events.codec import DEEPEST, EventMapper, State, decoded, key_ids, stored_state
from bichat.events.envelope import Unreadable
from bichat.events.feed import Feed
from bichat.events.history import audit_events
from bichat.events.recorder import COLUMNS, stored_row
from tests.audit.sealed import END, SEALED, Log, hash_anew, sealed
from tests.examples import DIALOGUE
from tests.poison import damaged

STATE = b'{"v":1,"at":"2026-01-01T00:00:00Z","by":["user","anna"],"data":{"label":%s}}'
DEEP = {levels: STATE % (b"[" * levels + b"]" * levels) for levels in (DEEPEST, 980, 20_000)}


@pytest.fixture(params=DEEP)
def log(database_url: str, request: pytest.FixtureRequest) -> Iterator[Log]:
    """Somebody has put it in the place of the last event, and chained it."""
    with sealed(database_url) as log, damaged(database_url, (DIALOGUE, END), state=DEEP[request.param]):
        with psycopg.connect(database_url, autocommit=True) as connection:
            hash_anew(connection, after=SEALED)
        yield log


def test_a_check_names_the_event(log: Log) -> None:
    [found] = log.check().findings
    assert (found.version, found.what) == (END, "changed")
    assert found.reason == "what it says is nothing that bichat writes"


def test_followers_meet_an_event_that_they_can_park(log: Log) -> None:
    with psycopg.connect(log.url, autocommit=True) as connection:
        entries = Feed(log.ledger.keys).read(connection, 0)
    [found] = [entry for entry in entries if isinstance(entry, Unreadable)]
    assert (found.stream_id, found.version) == (DIALOGUE, END)
    assert "nested too deeply" in found.error


def test_whoever_reads_the_row_is_told_so(log: Log) -> None:
    query = f"select {COLUMNS} from bichat.stored_events where originator_id = %s and originator_version = %s"
    with psycopg.connect(log.url) as connection:
        found = connection.execute(query.encode(), (DIALOGUE, END), binary=True).fetchone()
    assert found
    row = stored_row(found)
    assert key_ids(row) == set()
    with pytest.raises(msgspec.DecodeError):
        stored_state(row)
    with pytest.raises(EventUnreadable):
        EventMapper(log.ledger.keys.by_id).to_domain_event(row)
    [told] = audit_events([row], log.ledger.keys)
    assert told.unreadable == "DialogueRenamed cannot be read: DecodeError"


def test_many_brackets_beside_each_other_are_fine() -> None:
    wide = STATE % b",".join([b"[" + b",".join([b"[]"] * 5000) + b"]"])
    state = decoded(msgspec.json.Decoder(State), wide)
    assert len(state.data["label"]) == 5000
