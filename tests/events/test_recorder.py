"""Appending: whole or not at all, on the head that was decided on and on no other."""

from __future__ import annotations

import asyncio
from uuid import UUID

import psycopg
import pytest
from eventsourcing.persistence import IntegrityError
from uuid_utils.compat import uuid7

from bichat.commands.dialogue import AddMessage, StartDialogue
from bichat.commands.execute import Once
from bichat.events import feed
from bichat.events.codec import Draft, StoredRow
from bichat.events.envelope import Fact
from bichat.events.ledger import Ledger
from bichat.events.recorder import Group, Head, LogRecorder
from bichat.events.seal import GENESIS
from tests.examples import FACTS, NOON, TENANT, by, opened, question, start, writing


def row(ledger: Ledger, stream_id: UUID, version: int, fact: Fact, prev_hash: bytes) -> StoredRow:
    key = ledger.keys.person(TENANT, "anna")
    return ledger.encode(
        Draft(stream_id=stream_id, version=version, at=NOON, by=by(), fact=fact, key=key, prev_hash=prev_hash)
    )


def test_a_head_with_the_version_but_another_history_is_refused(database_url: str) -> None:
    with opened(database_url) as ledger:
        stream_id = uuid7()
        first = row(ledger, stream_id, 1, FACTS["started"], GENESIS)
        assert ledger.append([Group(stream_id, Head(), (first,))]) == {0: [1]}
        then = row(ledger, stream_id, 2, FACTS["renamed"], bytes(32))
        assert ledger.append([Group(stream_id, Head(1, bytes(32)), (then,))]) == {}
        right = row(ledger, stream_id, 2, FACTS["renamed"], first.hash)
        assert ledger.append([Group(stream_id, Head(1, first.hash), (right,))]) == {0: [2]}


def test_groups_win_and_lose_each_for_itself(database_url: str) -> None:
    with opened(database_url) as ledger:
        ids = [uuid7() for _ in range(3)]
        firsts = [row(ledger, i, 1, FACTS["started"], GENESIS) for i in ids]
        ledger.append([Group(ids[1], Head(), (firsts[1],))])
        won = ledger.append([Group(i, Head(), (r,)) for i, r in zip(ids, firsts, strict=True)])
        assert won == {0: [2], 2: [3]}


def test_the_librarys_own_way_in_appends_and_refuses_alike(database_url: str) -> None:
    with opened(database_url) as ledger:
        stream_id = uuid7()
        first = row(ledger, stream_id, 1, FACTS["started"], GENESIS)
        assert isinstance(ledger.recorder, LogRecorder)
        assert ledger.recorder.insert_events([first]) == [1]
        with pytest.raises(IntegrityError):
            ledger.recorder.insert_events([first])
        section = ledger.notification_log["1,10"]
        assert [(item.id, item.topic) for item in section.items] == [(1, "DialogueStarted")]


def test_a_read_of_the_log_is_bounded_in_bytes_and_still_sees_everything(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "_AFTER", feed._AFTER.replace(str(feed._BYTES), "600"))
    with opened(database_url) as ledger, psycopg.connect(database_url) as connection:
        stream_id, head, rows = uuid7(), GENESIS, []
        for version in range(1, 8):
            fact = FACTS["started" if version == 1 else "renamed"]
            rows.append(row(ledger, stream_id, version, fact, head))
            head = rows[-1].hash
        ledger.append([Group(stream_id, Head(), tuple(rows))])
        log, seen = feed.Feed(ledger.keys), list[int]()
        while some := log.read(connection, seen[-1] if seen else 0):
            assert len(some) < 7
            seen += [event.position for event in some]
        assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_what_a_batch_looks_up_costs_the_same_however_few_there_were_when_its_plan_was_made(
    database_url: str,
) -> None:
    with opened(database_url) as ledger, writing(ledger) as executor:

        async def ask(command: StartDialogue | AddMessage) -> None:
            await executor.execute(command, by(), once=Once(str(uuid7()), b"ask"))

        async def talk() -> None:
            opening = [start() for _ in range(30)]
            await asyncio.gather(*map(ask, opening))
            for _ in range(10):
                more = [AddMessage(dialogue_id=o.dialogue_id, messages=(question(),)) for o in opening]
                await asyncio.gather(*map(ask, more))

        asyncio.run(talk())
    with psycopg.connect(database_url) as connection:
        read = connection.execute(
            "select relname, seq_tup_read from pg_stat_user_tables where seq_tup_read > 300"
            " and relname in ('stored_events', 'receipts', 'snapshots', 'void_keys')"
        ).fetchall()
    assert read == []


def test_the_end_of_a_long_stream_is_read_without_its_beginning(database_url: str) -> None:
    with opened(database_url) as ledger:
        stream_id, head, rows = uuid7(), GENESIS, []
        for version in range(1, 401):
            fact = FACTS["started" if version == 1 else "renamed"]
            rows.append(row(ledger, stream_id, version, fact, head))
            head = rows[-1].hash
        ledger.append([Group(stream_id, Head(), tuple(rows))])
        for _ in range(20):
            assert len(ledger.read(stream_id, after=390, limit=100, desc=True)) == 10
            assert not ledger.read(stream_id, after=390, limit=100, kinds=("DialogueStarted",))
    with psycopg.connect(database_url) as connection:
        [read] = connection.execute(
            "select idx_tup_fetch from pg_stat_user_tables where relname = 'stored_events'"
        ).fetchone() or (0,)
    assert 0 < read < 1000
