"""The projector as it runs: woken by the log, shared reading, an end that is quick and says why."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import redis

from bichat.commands.dialogue import AddMessage
from bichat.commands.execute import Executor, Outcome
from bichat.doorbell import REPLIES, Doorbell
from bichat.errors import EventTooNew
from bichat.events.feed import Feed
from bichat.events.ledger import Ledger
from bichat.workers import project
from tests.examples import by, opened, question, start, writing
from tests.projections.test_runner import until

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
