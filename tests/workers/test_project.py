"""The projector as it runs: woken by the log, shared reading, an end that is quick and says why."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import redis

from bichat.commands.dialogue import AddMessage
from bichat.commands.execute import Executor, Outcome
from bichat.doorbell import REPLIES, Doorbell
from bichat.errors.unusable import EventTooNew
from bichat.events import schema
from bichat.events.envelope import Event
from bichat.events.feed import Feed
from bichat.events.ledger import Ledger
from bichat.projections import parking, versions
from bichat.projections.read_model import Build
from bichat.projections.runner import connect
from bichat.workers import project
from tests.examples import by, opened, question, start, writing
from tests.poison import damaged
from tests.projections.histories import BUILDS
from tests.projections.test_runner import contents, expected, until

NOWHERE = "redis://127.0.0.1:9/0"


@contextmanager
def projecting(database_url: str, ledger: Ledger, redis_url: str) -> Iterator[list[BaseException]]:
    """A projector in a thread; in the list, what ended it."""
    stop, doorbell, ended = threading.Event(), Doorbell(redis_url), list[BaseException]()

    def run() -> None:
        try:
            project.run(database_url, Feed(ledger.keys), doorbell, stop)
        except Exception as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield ended
    finally:
        began = time.monotonic()
        stop.set()
        thread.join(10)
        assert time.monotonic() - began < 2
        doorbell.close()


def positions(url: str) -> set[tuple[int, str]]:
    with psycopg.connect(url) as connection:
        return set(connection.execute("select position, state from bichat.checkpoints").fetchall())


def asked(executor: Executor, times: int = 1) -> Outcome:
    first = start()
    outcome = asyncio.run(executor.execute(first, by()))
    for _ in range(times - 1):
        more = AddMessage(dialogue_id=first.dialogue_id, messages=(question(),))
        outcome = asyncio.run(executor.execute(more, by()))
    return outcome


def test_what_is_committed_is_projected_and_told(database_url: str, redis_url: str) -> None:
    client, bell = redis.Redis.from_url(redis_url, decode_responses=True), Doorbell(redis_url)
    pubsub = client.pubsub()  # type: ignore[no-untyped-call]
    with opened(database_url) as ledger, projecting(database_url, ledger, redis_url), pubsub:
        pubsub.psubscribe("bichat:dialogue:*", REPLIES)
        executor = Executor(ledger, on_commit=bell.ring)
        executor.start()
        outcome = asked(executor, 3)
        until(lambda: positions(database_url) == {(outcome.position, "live")})
        heard: dict[str, str] = {}
        while message := pubsub.get_message(timeout=0.5):
            heard[message["channel"]] = message["data"]
        assert (
            heard[f"bichat:dialogue:{outcome.dialogue_id}"] == f'{{"t": "projected", "v": {outcome.version}}}'
        )
        assert REPLIES in heard
        executor.close()
    bell.close()


def test_without_redis_it_polls(database_url: str) -> None:
    with opened(database_url) as ledger, writing(ledger) as executor:
        with projecting(database_url, ledger, NOWHERE):
            outcome = asked(executor)
            began = time.monotonic()
            until(lambda: positions(database_url) == {(outcome.position, "live")})
            assert time.monotonic() - began < 1
        behind = asked(executor)
        with projecting(database_url, ledger, NOWHERE):
            until(lambda: positions(database_url) == {(behind.position, "live")})


def test_an_event_newer_than_the_code_ends_the_projector_with_that_line(
    database_url: str, redis_url: str
) -> None:
    with opened(database_url) as ledger, writing(ledger) as executor:
        outcome = asked(executor)
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "update bichat.stored_events set topic = 'MoonLanded' where notification_id = %s",
                (outcome.position,),
            )
        with projecting(database_url, ledger, redis_url) as ended:
            until(lambda: ended)
        assert isinstance(ended[0], EventTooNew)
        assert "MoonLanded v1 at position" in str(ended[0])
        # What came before it is not lost: those with the older code go on from there.
        assert {state for _, state in positions(database_url)} <= {"live", "stopped"}


def test_what_cannot_be_read_parks_its_dialogue_everywhere_and_keeps_nobody_else(database_url: str) -> None:
    with opened(database_url) as ledger, writing(ledger) as executor:
        new, old, well = asked(executor), asked(executor), asked(executor)
        feed = Feed(ledger.keys)
        with (
            damaged(database_url, (new.dialogue_id, 1), (old.dialogue_id, 2)) as repair,
            projecting(database_url, ledger, NOWHERE),
            connect(database_url) as connection,
        ):
            for dialogue_id in (new.dialogue_id, old.dialogue_id, well.dialogue_id):
                more = AddMessage(dialogue_id=dialogue_id, messages=(question(),))
                last = asyncio.run(executor.execute(more, by()))
            until(lambda: positions(database_url) == {(last.position, "live")})
            query = "select name, dialogue_id, version from bichat.parked"
            assert set(connection.execute(query)) == {
                (build.model.name, dialogue_id, version)
                for build in BUILDS
                if build.model.subject == "dialogue"
                for dialogue_id, version in ((new.dialogue_id, 1), (old.dialogue_id, 2))
            }
            query = "select id, version from bichat.transcripts_v2"
            assert set(connection.execute(query)) == {(old.dialogue_id, 1), (well.dialogue_id, 3)}
            repair()
            for build in BUILDS:
                assert not [one for one in parking.retry(connection, build, feed) if one.parked]
            assert positions(database_url) == {(last.position, "live")}
            log = [event for event in feed.read(connection, 0) if isinstance(event, Event)]
            assert contents(database_url) == expected(database_url, BUILDS, log)


def one_more(connection: psycopg.Connection[Any]) -> Build:
    """A second build of the transcripts, empty."""
    build = Build(BUILDS[0].model, 2)
    with connection.transaction():
        versions.create(connection, build, "live")
        connection.execute(build.sql("indexes"))
    return build


def test_builds_are_followed_as_they_come_and_left_as_they_go(database_url: str) -> None:
    def following() -> set[str]:
        return {thread.name for thread in threading.enumerate() if re.search(r"_v\d+_g\d+$", thread.name)}

    with (
        opened(database_url) as ledger,
        writing(ledger) as executor,
        schema.connect(database_url) as connection,
    ):
        for build in BUILDS:
            versions.drop(connection, build.key, serves=True)
        with projecting(database_url, ledger, NOWHERE) as ended:
            time.sleep(0.2)
            assert not ended
            assert not following()
            made = versions.ensure(connection)
            outcome = asked(executor)
            until(lambda: positions(database_url) == {(outcome.position, "live")})
            assert following() == {build.id for build in made}
            second = one_more(connection)
            until(lambda: len(positions(database_url)) == 1)
            assert following() == {build.id for build in (*made, second)}
            versions.drop(connection, second.key)
            until(lambda: following() == {build.id for build in made})
        assert not ended
    assert not following()


def test_it_goes_on_when_the_database_was_away(database_url: str) -> None:
    with (
        opened(database_url) as ledger,
        writing(ledger) as executor,
        projecting(database_url, ledger, NOWHERE),
    ):
        until(lambda: positions(database_url) == {(0, "live")})
        with psycopg.connect(database_url, autocommit=True) as killer:
            time.sleep(0.3)
            killer.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and application_name in ('bichat', 'bichat-projector')"
            )
        outcome = asked(executor)
        until(lambda: positions(database_url) == {(outcome.position, "live")})
        with schema.connect(database_url) as connection:
            one_more(connection)
        until(lambda: len(positions(database_url)) == 1)
