"""The doorbell: heard by every follower, coalesced, and missed by nobody when Redis is away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis

from bichat.doorbell import REPLIES, Doorbell, Ear

NOWHERE = "redis://127.0.0.1:9/0"


@pytest.fixture
def doorbell(redis_url: str) -> Iterator[Doorbell]:
    doorbell = Doorbell(redis_url)
    yield doorbell
    doorbell.close()


def quiet(ear: Ear) -> None:
    """Past the rings of its own subscribing."""
    while ear.wait(0.3):
        pass


def test_a_ring_wakes_every_ear_in_every_process(redis_url: str, doorbell: Doorbell) -> None:
    other = Doorbell(redis_url)
    ears = [doorbell.ear(), doorbell.ear(), other.ear()]
    for ear in ears:
        quiet(ear)
    doorbell.ring(7)
    assert all(ear.wait(2) for ear in ears)
    other.close()


def test_a_new_ear_is_rung_at_once_and_again_when_it_can_hear(doorbell: Doorbell) -> None:
    ear = doorbell.ear()
    assert ear.wait(0)
    assert ear.wait(10)


def test_a_ring_before_the_wait_is_not_lost(doorbell: Doorbell) -> None:
    ear = doorbell.ear()
    quiet(ear)
    doorbell.ring(1)
    time.sleep(0.2)
    assert ear.wait(0)


def test_an_ear_that_has_ended_holds_nobody_up(doorbell: Doorbell) -> None:
    ear = doorbell.ear()
    quiet(ear)
    ear.end()
    assert ear.wait(0)
    assert ear.wait(0)


def test_who_listens_is_told_of_the_close(redis_url: str, doorbell: Doorbell) -> None:
    """And does not wait for the end of its turn, half a second."""
    seconds = []
    for _ in range(7):
        other = Doorbell(redis_url)
        quiet(other.ear())
        started = time.monotonic()
        other.close()
        seconds.append(time.monotonic() - started)
    assert sorted(seconds)[3] < 0.1


def test_what_is_told_is_coalesced_to_the_newest_of_each_channel(redis_url: str, doorbell: Doorbell) -> None:
    dialogue = uuid4()
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    with client.pubsub() as pubsub:  # type: ignore[no-untyped-call]
        pubsub.subscribe(f"bichat:dialogue:{dialogue}", REPLIES)
        while pubsub.get_message(timeout=0.3):
            pass
        for version in range(1, 500):
            doorbell.projected({dialogue: version})
        doorbell.replies()
        heard = []
        while message := pubsub.get_message(timeout=0.5):
            heard.append((message["channel"], message["data"]))
    said = [data for channel, data in heard if channel != REPLIES]
    assert said[-1] == '{"t": "projected", "v": 499}'
    assert len(said) < 499
    assert (REPLIES, "{}") in heard


def test_a_dead_redis_neither_blocks_nor_raises(caplog: pytest.LogCaptureFixture) -> None:
    doorbell = Doorbell(NOWHERE)
    ear = doorbell.ear()
    quiet(ear)
    began = time.monotonic()
    for position in range(1000):
        doorbell.ring(position)
    assert time.monotonic() - began < 0.5
    assert not ear.wait(0.3)
    assert sum("followers poll" in line for line in caplog.messages) == 1
    doorbell.close()
    assert time.monotonic() - began < 4


def test_closing_ends_the_wait_and_says_what_was_still_to_be_said(redis_url: str) -> None:
    listener, speaker = Doorbell(redis_url), Doorbell(redis_url)
    ear = listener.ear()
    quiet(ear)
    speaker.ring(1)
    speaker.close()
    assert ear.wait(2)
    threading.Timer(0.2, listener.close).start()
    assert ear.wait(2)
