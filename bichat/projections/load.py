"""Folds whole dialogues and copies what they come to into the tables of builds, as if nothing were there."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from typing import Any
from uuid import UUID

from msgspec import Struct
from psycopg import Connection

from bichat.events.envelope import Entry, Event, Unreadable
from bichat.projections import parking, sql
from bichat.projections.parking import Parked
from bichat.projections.read_model import Build, Piece, Row, Table

PIECE = 2000
"""Events of one dialogue that are folded at once, and events folded before their rows are copied."""


class Target(Struct, frozen=True, kw_only=True):
    """A build to be filled with the log up to a position; of dialogues in `parked` with what is before."""

    build: Build
    upto: int
    parked: dict[UUID, int] = {}

    def end(self, dialogue_id: UUID) -> int:
        """The position from which on events of this dialogue do not count."""
        return min(self.upto + 1, self.parked.get(dialogue_id, self.upto + 1))


class Loader:
    """Fills builds, the targets, which it calls by their number; `events` is how many it has seen."""

    def __init__(self, connection: Connection[Any], targets: Sequence[Target]) -> None:
        """Writes within the caller's transaction."""
        self._connection, self._targets = connection, targets
        self._rows: dict[tuple[int, int], list[dict[str, Any]]] = {
            (t, n): [] for t, target in enumerate(targets) for n, _ in enumerate(target.build.model.tables)
        }
        self._sums: dict[tuple[int, int], dict[tuple[Any, ...], dict[str, Any]]] = {}
        self._ended: dict[int, UUID] = {}
        """Of each target the dialogue of which the rest does not count."""
        self.parked: list[tuple[int, Parked]] = []
        """What a target could not digest."""
        self.events = 0

    def load(self, entries: Iterable[list[Entry]]) -> None:
        """Folds and copies events that come dialogue by dialogue."""
        waiting = 0
        for piece, broken in pieces(chain.from_iterable(entries)):
            for t, _ in enumerate(self._targets):
                self._add(t, piece, broken)
            self.events += len(piece.events)
            waiting += len(piece.events)
            if waiting >= PIECE:
                self._copy()
                waiting = 0
        self._copy()

    def sums(self) -> dict[tuple[int, int], list[dict[str, Any]]]:
        """What the dialogues add to rows that they share with others, by target and number of the table."""
        return {place: list(sums.values()) for place, sums in self._sums.items()}

    def _add(self, t: int, piece: Piece, broken: Parked | None) -> None:
        target, dialogue_id = self._targets[t], piece.dialogue_id
        if self._ended.get(t) == dialogue_id:
            return
        end = target.end(dialogue_id)
        newest = broken.position if broken else piece.events[-1].position
        if newest >= end:
            counted = [event for event in piece.events if event.position < end]
            piece, broken = Piece(dialogue_id, counted, piece.before), None
            self._ended[t] = dialogue_id
        rows, culprit = digest(target.build, piece)
        if culprit := culprit or broken:
            self.parked.append((t, culprit))
            self._ended[t] = dialogue_id
        for row in rows:
            table = target.build.model.tables[row.table]
            if table.dialogue:
                self._rows[t, row.table].append(row.values)
            else:
                self._sum(t, row, table)

    def _sum(self, t: int, row: Row, table: Table) -> None:
        key = tuple(row.values[column] for column in table.key)
        sums = self._sums.setdefault((t, row.table), {})
        sofar = sums.get(key)
        sums[key] = row.values if sofar is None else {
            column: value if column in table.key else value + sofar[column]
            for column, value in row.values.items()
        }  # fmt: skip

    def _copy(self) -> None:
        for (t, n), rows in self._rows.items():
            sql.copy(self._connection, self._targets[t].build.tables[n], rows)
            rows.clear()


def pieces(entries: Iterable[Entry]) -> Iterator[tuple[Piece, Parked | None]]:
    """Dialogues in pieces; with the last one of a dialogue, what kept its history from being read on."""
    for dialogue_id, history in groupby(entries, lambda entry: entry.stream_id):
        held: list[Event] = []
        before, broken = None, None
        for version, entry in enumerate(history, 1):
            if isinstance(entry, Unreadable):
                broken = parking.at(entry, entry.error)
                break  # groupby leaves out the rest
            if entry.version != version:
                broken = parking.at(entry, f"the log has version {entry.version} where {version} was to come")
                break
            if len(held) == PIECE:
                before, held = Piece(dialogue_id, held, before, last=False), []
                yield before, None
            held.append(entry)
        yield Piece(dialogue_id, held, before), broken


def digest(build: Build, piece: Piece) -> tuple[list[Row], Parked | None]:
    """What a piece makes of the tables, as far as the read model can digest it, and where it cannot."""
    if not piece.events and not piece.before:
        return [], None
    try:
        return list(build.model.rows(piece)), None
    except Exception as error:
        return _prefix(build, piece, error)


def _prefix(build: Build, piece: Piece, error: Exception) -> tuple[list[Row], Parked]:
    """Of events that are folded in order, the longest run from the start that goes well."""
    good, bad = 0, len(piece.events)
    rows: list[Row] = []
    if piece.before:
        rows = list(build.model.rows(Piece(piece.dialogue_id, (), piece.before)))
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            rows = list(build.model.rows(Piece(piece.dialogue_id, piece.events[:middle], piece.before)))
            good = middle
        except Exception as nearer:
            error, bad = nearer, middle
    return rows, parking.at(piece.events[bad - 1], parking.describe(error))
