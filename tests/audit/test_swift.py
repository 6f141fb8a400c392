"""The check over HTTP costs what the dialogue costs, and says how far it went."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from bichat.audit import checking
from bichat.audit.checking import Single, swift
from tests.audit.sealed import END, SEALED, Log, sealed
from tests.audit.test_tampering import TAMPERINGS, tamper
from tests.examples import DIALOGUE, start


@pytest.fixture
def log(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    """Five seals, of which the last three are followed."""
    monkeypatch.setattr(checking, "RECENT", 3)
    with sealed(database_url) as log:
        for _ in range(3):
            log.execute(start())
            log.seal()
        yield log


def check(log: Log) -> Single:
    with psycopg.connect(log.url, autocommit=True) as connection:
        found = swift(connection, log.signer.remembered(), DIALOGUE)
    assert found
    return found


def gone(seal: int) -> list[str]:
    return [
        f"delete from bichat.seal_leaves where seal = {seal}",
        f"delete from bichat.seals where number = {seal}",
    ]


def test_what_nobody_touched_is_valid_and_it_says_from_where(log: Log) -> None:
    found = check(log)
    assert (found.findings, found.events, found.checked) == ([], END, 3)
    assert found.seal
    assert found.seal.number == 3
    assert found.sealed == END > SEALED


@pytest.mark.parametrize("kind", ["text", "removed", "truncated", "dialogue removed", "seal's signature"])
def test_what_was_done_to_the_dialogue_is_found(log: Log, kind: str) -> None:
    statements, version, _ = TAMPERINGS[kind]
    tamper(log, statements)
    assert check(log).findings[0].version == version


def test_a_seal_that_is_missing_among_the_newest_is_found(log: Log) -> None:
    tamper(log, gone(4))
    [found] = check(log).findings
    assert (found.what, found.seal) == ("seal removed", 4)
    tamper(log, gone(5))
    assert "log cut off" in [one.what for one in check(log).findings]


def test_leaves_of_later_seals_are_not_read(log: Log) -> None:
    tamper(log, ["update bichat.seal_leaves set leaf = sha256('x') where seal = 5"])
    assert check(log).findings == []
    assert log.check().findings
