"""Events damaged where they are stored, as a bad disk or a bad hand would, and made whole again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg


@contextmanager
def damaged(url: str, *places: tuple[UUID, int], state: bytes = b"nonsense") -> Iterator[Callable[[], None]]:
    """Makes these events (stream, version) unreadable; gives what makes them whole."""
    with psycopg.connect(url, autocommit=True) as connection:
        held = {place: _state(connection, place) for place in places}

        def repair() -> None:
            for place, was in held.items():
                _put(connection, place, was)

        for place in places:
            _put(connection, place, state)
        yield repair


def _state(connection: psycopg.Connection[Any], place: tuple[UUID, int]) -> bytes:
    query = "select state from bichat.stored_events where originator_id = %s and originator_version = %s"
    row = connection.execute(query, place).fetchone()
    assert row
    return bytes(row[0])


def _put(connection: psycopg.Connection[Any], place: tuple[UUID, int], state: bytes) -> None:
    query = "update bichat.stored_events set state = %s where originator_id = %s and originator_version = %s"
    assert connection.execute(query, (state, *place)).rowcount == 1
