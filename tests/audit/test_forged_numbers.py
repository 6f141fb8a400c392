"""What Python holds for equal is not what was stored: numbers of another kind, moments told otherwise."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import timedelta, timezone

import msgspec
import pytest
from msgspec.structs import replace

from bichat.audit import offline
from bichat.errors.unusable import NotProven
from bichat.events.codec import State
from tests.audit.exports import Export, exported, trusted
from tests.audit.sealed import Log
from tests.examples import DIALOGUE, opened, question, start, start_reply

STARTED = 2
"""The line of `ReplyStarted`, after those of the dialogue and its question."""
DEEP = b'{"v":1,"at":"2026-01-01T00:00:00Z","by":["user","anna"],"data":{"a":%s}}' % (b"[" * 400 + b"]" * 400)


@pytest.fixture(scope="module")
def log(module_database_url: str) -> Iterator[Log]:
    with opened(module_database_url) as ledger:
        log = Log(module_database_url, ledger)
        asked = question()
        claimed = replace(start_reply(DIALOGUE, asked.message_id), max_tokens=2, temperature=1.0)
        log.execute(start(DIALOGUE, asked), claimed)
        yield log


@pytest.fixture(scope="module")
def data(log: Log) -> bytes:
    return exported(log)


def one_as_true(e: Export) -> None:
    e.data(STARTED, attempt=True)


def two_as_fraction(e: Export) -> None:
    e.data(STARTED, max_tokens=2.0)


def fraction_as_one(e: Export) -> None:
    e.data(STARTED, temperature=1)


def inside(e: Export) -> None:
    shown = (e.lines[STARTED].event.data or {})["shown"]
    e.data(STARTED, shown={**shown, "messages": float(shown["messages"])})


def fields_in_another_order(e: Export) -> None:
    told = e.lines[STARTED].event.data or {}
    e.event(STARTED, data=dict(reversed(told.items())))


def another_offset(e: Export) -> None:
    at = e.lines[STARTED].event.at
    assert at
    e.event(STARTED, at=at.astimezone(timezone(timedelta(hours=2))))


def steers_the_terminal(e: Export) -> None:
    e.data(STARTED, **{"\x1b[2J\x07" + "x" * 500: 1})


def deep(e: Export) -> None:
    e.proof(STARTED, state=DEEP)
    e.event(STARTED, data=msgspec.json.decode(DEEP, type=State).data)
    e.hash_anew()


FORGERIES: list[tuple[Callable[[Export], None], str]] = [
    (one_as_true, "not stored: data.attempt."), (two_as_fraction, "not stored: data.max_tokens."),
    (fraction_as_one, "not stored: data.temperature."), (inside, "not stored: data.shown."),
    (fields_in_another_order, "not stored: data."), (another_offset, "not stored: at."),
    (steers_the_terminal, "not stored: data.[2J" + "x" * 96 + "…."), (deep, "it is not an event"),
]  # fmt: skip


@pytest.mark.parametrize(("forge", "reason"), FORGERIES, ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_equal_in_python_only_is_refused(
    log: Log, data: bytes, forge: Callable[[Export], None], reason: str
) -> None:
    offline.check(io.BytesIO(data), trusted(log))
    export = Export(data)
    forge(export)
    with pytest.raises(NotProven) as refused:
        offline.check(io.BytesIO(export.written()), trusted(log))
    told = str(refused.value)
    assert told.startswith(f"Line {STARTED + 2} proves nothing: ")
    assert reason.removesuffix(".") in told
    assert told.isprintable()
    assert len(told) < 250
