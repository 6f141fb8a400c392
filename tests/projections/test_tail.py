"""The end of the log is read once for all; nobody misses an event, nobody waits for what is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import psycopg
import pytest

from bichat.doorbell import Ear
from bichat.events.envelope import Entry, Event
from bichat.projections import tail
from bichat.projections.tail import Tail
from tests.projections.test_runner import LOG

NO_CONNECTION: Any = None


class Growing:
    """A log that grows, and rings when it has; what is read of it is counted."""

    def __init__(self, bell: Ear) -> None:
        self.length, self.events, self.bell = 0, 0, bell
        self.broken = False

    def grow(self, length: int) -> None:
        self.length = length
        self.bell.ring()

    def read(self, _: psycopg.Connection[Any], after: int, limit: int) -> list[Event]:
        if self.broken:
            raise psycopg.OperationalError("gone")
        found = [event for event in LOG[: self.length] if event.position > after][:limit]
        time.sleep(0.001)
        self.events += len(found)
        return found


@pytest.fixture
def log() -> Growing:
    return Growing(Ear())


@pytest.fixture
def shared(log: Growing) -> Tail:
    return Tail(log, log.bell)


class Follower(threading.Thread):
    """Takes the log as a runner does, in batches of its own size and at its own pace."""

    def __init__(self, shared: Tail, limit: int, pace: float) -> None:
        super().__init__(daemon=True)
        self.shared, self.limit, self.pace, self.told = shared, limit, pace, list[Entry]()

    def run(self) -> None:
        while len(self.told) < len(LOG):
            after = self.told[-1].position if self.told else 0
            self.told += self.shared.next(NO_CONNECTION, after, self.limit, 0.5)
            time.sleep(self.pace)


@pytest.mark.parametrize("kept", [1, 3, 500])
def test_all_are_told_everything_in_order_and_it_is_read_once(
    log: Growing, shared: Tail, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT", kept)
    followers = [
        Follower(shared, limit, pace) for limit, pace in ((7, 0), (50, 0.001), (3, 0), (2000, 0.002))
    ]
    for follower in followers:
        follower.start()
    for length in range(1, len(LOG) + 1, 3):
        log.grow(length)
        time.sleep(0.002)
    log.grow(len(LOG))
    for follower in followers:
        follower.join(5)
        assert follower.told == LOG
    assert log.events == len(LOG) or kept < len(LOG)


def test_who_is_far_behind_reads_alone_and_joins_the_others_later(
    log: Growing, shared: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT", 5)
    log.grow(len(LOG))
    first, late = Follower(shared, 10, 0), Follower(shared, 3, 0)
    first.run()
    late.run()
    assert first.told == late.told == LOG
    assert log.events < 2 * len(LOG)


def test_a_ring_ends_the_wait_of_all(log: Growing, shared: Tail) -> None:
    told: list[tuple[float, Sequence[Entry]]] = []

    def wait() -> None:
        events = shared.next(NO_CONNECTION, 0, 2000, 5.0) or shared.next(NO_CONNECTION, 0, 2000, 5.0)
        told.append((time.monotonic(), events))

    threads = [threading.Thread(target=wait, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    began = time.monotonic()
    log.grow(2)
    for thread in threads:
        thread.join(5)
    assert [events for _, events in told] == [LOG[:2]] * 4
    assert max(at for at, _ in told) - began < 1


def test_without_a_ring_it_looks_once_in_a_while(log: Growing, shared: Tail) -> None:
    assert shared.next(NO_CONNECTION, 0, 10, 0.05) == []
    log.length = 1
    assert shared.next(NO_CONNECTION, 0, 10, 0.05) == LOG[:1]


def test_a_reader_whose_connection_dies_leaves_the_turn_to_the_next(log: Growing, shared: Tail) -> None:
    log.broken = True
    for _ in range(2):
        with pytest.raises(psycopg.OperationalError):
            shared.next(NO_CONNECTION, 0, 10, 0.05)
    log.broken, log.length = False, 1
    assert shared.next(NO_CONNECTION, 0, 10, 5.0) == LOG[:1]


def test_who_waits_while_what_is_kept_moves_on_misses_nothing(
    log: Growing, shared: Tail, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tail, "KEPT", 1)
    assert shared.next(NO_CONNECTION, 0, 5, 0.01) == []
    shared._reading = True  # another is at it

    def others_go_ahead(_: float) -> None:
        log.length, shared._reading = len(LOG), False
        for place in range(0, 50, 5):
            shared._keep(LOG[place - 1].position if place else 0, LOG[place : place + 5])

    monkeypatch.setattr(shared._changed, "wait", others_go_ahead)
    assert shared.next(NO_CONNECTION, 0, 5, 1.0) == LOG[:5]
