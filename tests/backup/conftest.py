"""Databases for the log, for its keys, and to restore into."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from bichat.backup.dump import back_up
from bichat.projections import following
from bichat.projections.processes import Database
from tests.backup.world import (
    Make,
    quiet,
    write,
)
from tests.examples import MASTER_KEY


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for a projector."""
    monkeypatch.setattr(following, "LEFT_ALONE", 0.1)


@pytest.fixture
def log(new_database: Make) -> Iterator[str]:
    """The database of the log, without the keys."""
    with new_database() as url:
        yield url


@pytest.fixture
def store(new_database: Make) -> Iterator[str]:
    """The keys store."""
    with new_database() as url:
        yield url


@pytest.fixture
def other(new_database: Make) -> Iterator[str]:
    """A database to restore into: `bichat migrate` has been there."""
    with new_database() as url:
        yield url


@pytest.fixture
def there(other: str, store: str, redis_url: str) -> Database:
    """Where to restore to."""
    return Database(url=other, keys_url=store, master_key=MASTER_KEY, redis_url=redis_url)


@pytest.fixture
def made(log: str, store: str, tmp_path: Path) -> Path:
    """A backup of what anna and ben have said."""
    write(log, store)
    return back_up(log, tmp_path / "b", quiet).path


@pytest.fixture
def environ(store: str, redis_url: str) -> dict[str, str]:
    return {
        "BICHAT_MASTER_KEY": base64.b64encode(MASTER_KEY).decode(),
        "KEYS_DATABASE_URL": store,
        "REDIS_URL": redis_url,
    }
