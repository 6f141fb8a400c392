"""Rebuilds asked for over HTTP are made by a child process, and gone on with when that was cut short."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from bichat.config import Config, environment
from bichat.projections import dialogues, requested, usage
from bichat.projections.runner import connect
from bichat.workers.rebuilds import Rebuilds
from tests.examples import MASTER_KEY, by, opened, start, writing
from tests.projections.test_runner import until

ASK = "select * from bichat.request_rebuild(%s, %s, %s)"


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Of a database with a dialogue in its log, and two requests for rebuilds."""
    with opened(database_url) as ledger, writing(ledger) as executor:
        asyncio.run(executor.execute(start(), by()))
    with connect(database_url) as connection:
        for model in (usage.MODEL, dialogues.MODEL):
            connection.execute(ASK, (model.name, model.shape, model.fold))
        yield connection


def settings(database_url: str, **more: Any) -> dict[str, str]:
    values = {
        "database_url": database_url,
        "bichat_master_key": MASTER_KEY,
        "redis_url": "redis://127.0.0.1:9/0",
    }
    return environment(Config(**values | more))


def phases(connection: psycopg.Connection[Any]) -> dict[str, str]:
    return dict(connection.execute("select name, phase from bichat.builds").fetchall())


def test_what_was_asked_for_is_done_one_after_the_other(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    rebuilds = Rebuilds(settings(database_url))
    rebuilds.look(connection)
    until(lambda: phases(connection)["usage"] != "requested", 20)
    rebuilds.look(connection)
    assert phases(connection)["dialogues"] == "requested"

    def done() -> bool:
        rebuilds.look(connection)
        return set(phases(connection).values()) == {"done"}

    until(done, 60)
    query = "select name from bichat.serving where build = 2"
    assert {name for (name,) in connection.execute(query)} == {"usage", "dialogues"}
    rebuilds.stop(2.0)


def test_what_was_cut_short_is_gone_on_with(database_url: str, connection: psycopg.Connection[Any]) -> None:
    first = Rebuilds(settings(database_url))
    first.look(connection)
    time.sleep(0.7)
    began = time.monotonic()
    first.stop(2.0)
    assert time.monotonic() - began < 2.5
    until(lambda: "usage" in requested.waiting(connection))
    second = Rebuilds(settings(database_url))

    def done() -> bool:
        second.look(connection)
        return phases(connection)["usage"] == "done"

    until(done, 60)
    second.stop(2.0)


def test_what_fails_is_said_once_and_left_for_half_a_minute(
    database_url: str, connection: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    rebuilds = Rebuilds(settings(database_url, bichat_master_key=bytes(32)))
    end = time.monotonic() + 20
    while len(caplog.records) < 2:
        rebuilds.look(connection)
        time.sleep(0.05)
        assert time.monotonic() < end
    for _ in range(5):
        rebuilds.look(connection)
    assert [record.getMessage() for record in caplog.records] == [
        "The rebuild of usage ended with status 1",
        "The rebuild of dialogues ended with status 1",
    ]
    assert set(phases(connection).values()) == {"requested"}


def test_what_somebody_works_on_is_left_to_them(
    database_url: str, connection: psycopg.Connection[Any]
) -> None:
    assert requested.waiting(connection) == ["usage", "dialogues"]
    with connect(database_url) as other:
        other.execute("select pg_advisory_lock(hashtextextended('bichat.rebuild.usage', 0))")
        assert requested.waiting(connection) == ["dialogues"]
    until(lambda: requested.waiting(connection) == ["usage", "dialogues"])
    connection.execute("update bichat.builds set by_ops = name = 'usage'")
    assert requested.waiting(connection) == ["usage"]
    connection.execute("update bichat.builds set shape = 99")
    assert requested.waiting(connection) == []
