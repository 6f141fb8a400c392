"""The log in order, for followers: what cannot be read is said in its place, and the rest is read."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import msgspec
import psycopg
import pytest
from uuid_utils.compat import uuid7

from bichat.commands.dialogue import AddMessage
from bichat.errors.unusable import EventTooNew
from bichat.events.envelope import Event, Unreadable, lacks_text
from bichat.events.feed import Feed
from bichat.events.keys import data_keys
from bichat.events.ledger import Ledger
from tests.examples import TENANT, by, opened, question, start, writing
from tests.poison import damaged

SECRET = "the words of a person"


@pytest.fixture
def ledger(database_url: str) -> Iterator[Ledger]:
    with opened(database_url) as ledger:
        yield ledger


def asked(ledger: Ledger) -> tuple[UUID, UUID]:
    """Two dialogues with three events each, by turns: positions 1, 2, 5 and 3, 4, 6."""
    one, other = uuid7(), uuid7()
    with writing(ledger) as executor:
        for dialogue_id in (one, other):
            asyncio.run(executor.execute(start(dialogue_id, question(SECRET)), by()))
        for dialogue_id in (one, other):
            more = AddMessage(dialogue_id=dialogue_id, messages=(question(SECRET),))
            asyncio.run(executor.execute(more, by()))
    return one, other


BROKEN = {
    "no JSON": b"nonsense",
    "cut": b'{"v":1,"at":"2026-11-22T12:00:00Z","by":["user","anna"],"data":{"message_id":"',
    "no text of ours": b"\xff\xfe",
    "of another form": msgspec.json.encode(
        {"v": 1, "at": "2026-11-22T12:00:00Z", "by": ["user", "anna"], "data": {"role": SECRET}}
    ),
    "not sealed": msgspec.json.encode(
        {"v": 1, "at": "2026-11-22T12:00:00Z", "by": ["user", "anna"], "data": {"content": [SECRET]}}
    ),
    "a version that is none": msgspec.json.encode(
        {"v": -3, "at": "2026-11-22T12:00:00Z", "by": ["user", "anna"], "data": {}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("state", BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_read_is_said_in_its_place(database_url: str, ledger: Ledger, state: bytes) -> None:
    one, other = asked(ledger)
    with psycopg.connect(database_url) as connection, damaged(database_url, (one, 2), state=state):
        entries = Feed(ledger.keys).read(connection, 0)
        assert [(e.stream_id, e.version, e.position) for e in entries] == [
            (one, 1, 1), (one, 2, 2), (other, 1, 3), (other, 2, 4), (one, 3, 5), (other, 3, 6)
        ]  # fmt: skip
        bad = entries.pop(1)
        assert isinstance(bad, Unreadable)
        assert bad.tenant_id == TENANT
        assert "cannot be read" in bad.error
        assert SECRET not in bad.error
        assert all(isinstance(entry, Event) for entry in entries)


def test_keys_that_are_not_held_are_fetched_together_and_a_damaged_one_harms_nobody_else(
    database_url: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = ("bob", "anna", "carl", "bob")
    with writing(ledger) as executor:
        for user in people:
            asyncio.run(executor.execute(start(user=user), by(user)))
    with psycopg.connect(database_url) as connection:
        for wrapped, user in ((b"damaged", "anna"), (None, "carl")):
            connection.execute(
                "update bichat_keys.data_keys set wrapped = %s where user_id = %s", (wrapped, user)
            )
    asked: list[int] = []

    def living(connection: psycopg.Connection[Any], key_ids: list[UUID]) -> list[data_keys.Row]:
        asked.append(len(key_ids))
        return found(connection, key_ids)

    found = data_keys.living
    monkeypatch.setattr(data_keys, "living", living)
    with opened(database_url) as other, psycopg.connect(database_url) as connection:
        entries = Feed(other.keys).read(connection, 0)
    assert asked == [3, 1, 1]  # the damaged one again for each of its events: it may have come back
    bobs, annas, carls = (*entries[:2], *entries[6:]), entries[2:4], entries[4:6]
    assert all(isinstance(one, Event) and not lacks_text(one.fact) for one in bobs)
    assert all(isinstance(one, Unreadable) for one in annas)
    assert all(isinstance(one, Event) and lacks_text(one.fact) for one in carls)


def test_a_box_that_is_too_short_for_its_cipher_cannot_be_read(database_url: str, ledger: Ledger) -> None:
    one, _ = asked(ledger)
    key_id = str(ledger.keys.person(TENANT, "anna").key_id)
    data = {"message_id": key_id, "role": "user", "content": [1, key_id, "AA==", "AA=="]}
    state = msgspec.json.encode({"v": 1, "at": "2026-11-22T12:00:00Z", "by": ["user", "anna"], "data": data})
    with psycopg.connect(database_url) as connection, damaged(database_url, (one, 2), state=state):
        assert isinstance(Feed(ledger.keys).read(connection, 0)[1], Unreadable)


def test_what_stands_before_an_event_that_is_too_new_is_read_first(database_url: str, ledger: Ledger) -> None:
    one, other = asked(ledger)
    feed = Feed(ledger.keys)
    newer = b'{"v":99,"at":"2026-11-22T12:00:00Z","by":["user","anna"],"data":{}}'
    with (
        psycopg.connect(database_url) as connection,
        damaged(database_url, (other, 2), state=newer),
        damaged(database_url, (one, 2)),
    ):
        assert [entry.position for entry in feed.read(connection, 0)] == [1, 2, 3]
        for after in (3, 3):
            with pytest.raises(EventTooNew, match="at position 4"):
                feed.read(connection, after)
        assert [entry.position for entry in feed.read(connection, 4)] == [5, 6]


def test_one_stream_is_read_from_a_version_as_far_as_a_position(database_url: str, ledger: Ledger) -> None:
    one, other = asked(ledger)
    feed = Feed(ledger.keys)
    with psycopg.connect(database_url) as connection, damaged(database_url, (other, 2)):

        def read(first: int, upto: int, limit: int = 9) -> list[tuple[int, bool]]:
            entries = feed.stream(connection, other, first, upto, limit)
            return [(entry.position, isinstance(entry, Event)) for entry in entries]

        assert read(1, 6) == [(3, True), (4, False), (6, True)]
        assert read(2, 6) == [(4, False), (6, True)]
        assert read(2, 5) == [(4, False)]
        assert read(1, 6, limit=2) == [(3, True), (4, False)]
        assert read(4, 6) == []
        assert [entry.position for entry in feed.stream(connection, one, 1, 6)] == [1, 2, 5]
