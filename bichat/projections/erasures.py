"""Erasures of text: what a build holds from before one is blanked, also when its fold has not come so far."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import args_row

from bichat.events.dialogue import TextErased
from bichat.events.envelope import Entry, Event
from bichat.projections.read_model import NEVER, Build, Erasure
from bichat.projections.sql import statement

UNTOLD = 2**62
"""Stands for the version of an erasure that a dialogue could not be told of: it comes after all there is."""
Ahead = Callable[[UUID, int, int], Erasure]
"""The last erasure of a dialogue from a version on, up to a position of the log."""


def told(entries: Iterable[Entry]) -> dict[UUID, int]:
    """The version of the last erasure of each dialogue that has one among `entries`."""
    return {
        entry.stream_id: entry.version
        for entry in entries
        if isinstance(entry, Event) and isinstance(entry.fact, TextErased)
    }


def blank(connection: Connection[Any], build: Build, erased: Mapping[UUID, int]) -> None:
    """Leaves of all the text that a build holds of these dialogues only that it was given.

    Whatever is there must be from before the version that `erased` gives. Done twice, it is done once.
    """
    if erased and build.model.has("blank"):
        values = {"dialogues": list(erased), "versions": list(erased.values())}
        connection.execute(build.sql("blank"), values)


def log_ahead(connection: Connection[Any]) -> Ahead:
    """Looks into the log: at a range of its primary key, which is as long as the rest of the dialogue."""

    def ahead(dialogue_id: UUID, since: int, upto: int) -> Erasure:
        with connection.cursor(row_factory=args_row(Erasure)) as cursor:
            found = cursor.execute(statement("parking", "erased"), (dialogue_id, since, upto)).fetchone()
        return found or NEVER

    return ahead
