"""Folds whole dialogues and copies what they come to into the tables of builds, as if nothing were there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain, groupby
from typing import Any
from uuid import UUID

from msgspec import Struct
from psycopg import Connection

from bichat.events.dialogue import MessageAdded
from bichat.events.envelope import Entry, Event, Subject, Unreadable
from bichat.logs import described
from bichat.projections import erasures, parking
from bichat.projections.copying import copy
from bichat.projections.erasures import Ahead
from bichat.projections.parking import Parked
from bichat.projections.read_model import NEVER, Build, Erasure, Piece, Row

PIECE = 10_000
"""Events of one dialogue that are folded at once, and events folded before their rows are copied."""
CHARACTERS = 1600
"""A message weighs as much as one more event for each so many: memory is bounded, whatever people write."""


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

    def __init__(
        self, connection: Connection[Any], targets: Sequence[Target], ahead: Ahead | None = None
    ) -> None:
        """Writes within the caller's transaction. `ahead` looks into the log, unless it is given."""
        self._connection, self._targets = connection, targets
        self._subjects = frozenset(target.build.model.subject for target in targets)
        self._ahead = ahead or erasures.log_ahead(connection)
        self._rows: dict[tuple[int, int], list[dict[str, Any]]] = {
            (t, n): [] for t, target in enumerate(targets) for n, _ in enumerate(target.build.model.tables)
        }
        self._sums: dict[tuple[int, int], dict[tuple[Any, ...], dict[str, Any]]] = {}
        self._ended: dict[int, UUID] = {}
        """Of each target the dialogue of which the rest does not count."""
        self.parked: list[tuple[int, Parked]] = []
        """What a target could not digest."""
        self.unsettled: set[tuple[int, UUID]] = set()
        """Of each target the dialogues whose text cannot be opened, or not be shown, for an erasure that the
        target has not come to: a build that is there may still have the text."""
        self.events = 0

    def load(self, entries: Iterable[Entry]) -> None:
        """Folds and copies events that come stream by stream."""
        waiting = 0
        for piece, broken in pieces(entries, self._last_erasure, self._subjects):
            for t, _ in enumerate(self._targets):
                self._add(t, piece, broken)
            self.events += len(piece.events)
            waiting += sum(map(weight, piece.events))
            if waiting >= PIECE:
                self._copy()
                waiting = 0
        self._copy()

    def load_carefully(self, entries: Iterable[Entry]) -> None:
        """The same, dialogue by dialogue: one that the database refuses is parked at its first event."""
        found = pieces(entries, self._last_erasure, self._subjects)
        for _, whole in groupby(found, key=lambda both: both[0].dialogue_id):
            parts = list(whole)
            self.events += sum(len(piece.events) for piece, _ in parts)
            for t, _ in enumerate(self._targets):
                try:
                    with self._connection.transaction():
                        for part in parts:
                            self._add(t, *part)
                        self._copy()
                except Exception as error:
                    if not parking.blames_event(error):
                        raise
                    self._forget(t, parking.at(parts[0][0].events[0], described(error)))

    def sums(self) -> dict[tuple[int, int], list[dict[str, Any]]]:
        """What the dialogues add to rows that they share with others, by target and number of the table."""
        return {place: list(sums.values()) for place, sums in self._sums.items()}

    def _add(self, t: int, piece: Piece, broken: Parked | None) -> None:
        target, dialogue_id = self._targets[t], piece.dialogue_id
        if piece.subject != target.build.model.subject or self._ended.get(t) == dialogue_id:
            return
        end = target.end(dialogue_id)
        newest = broken.position if broken else piece.events[-1].position
        if newest >= end:
            piece, broken = self._cut(target, piece, end), None
            self._ended[t] = dialogue_id
        rows, culprit = digest(target.build, piece)
        if culprit := culprit or broken:
            self.parked.append((t, culprit))
            self._ended[t] = dialogue_id
            rows, _ = digest(target.build, self._cut(target, piece, culprit.position))
        for row in rows:
            self._rows[t, row.table].append(row.values)
        if piece.unsettled or piece.erased.position > target.upto:
            self.unsettled.add((t, dialogue_id))

    def _cut(self, target: Target, piece: Piece, end: int) -> Piece:
        """What comes before a position, blanked if an erasure that the target has come to is behind it."""
        counted = [event for event in piece.events if event.position < end]
        version = counted[-1].version if counted else piece.before.version if piece.before else 0
        erased = self._ahead(piece.dialogue_id, version + 1, target.upto)
        return Piece(piece.dialogue_id, counted, piece.before, erased=erased)

    def _last_erasure(self, dialogue_id: UUID) -> Erasure:
        return self._ahead(dialogue_id, 1, max(target.upto for target in self._targets))

    def _copy(self) -> None:
        for (t, n), rows in self._rows.items():
            build = self._targets[t].build
            if build.model.tables[n].stream:
                copy(self._connection, build.tables[n], rows)
        for (t, n), rows in self._rows.items():
            table = self._targets[t].build.model.tables[n]
            if not table.stream:
                self._sum(t, n, table.key, rows)
            rows.clear()

    def _sum(self, t: int, n: int, key: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> None:
        sums = self._sums.setdefault((t, n), {})
        for row in rows:
            place = tuple(row[column] for column in key)
            sofar = sums.get(place)
            sums[place] = row if sofar is None else {
                column: value if column in key else value + sofar[column] for column, value in row.items()
            }  # fmt: skip

    def _forget(self, t: int, refused: Parked) -> None:
        """What is not copied of a dialogue that a target refuses."""
        for (of, _), rows in self._rows.items():
            if of == t:
                rows.clear()
        self.parked = [
            (of, one) for of, one in self.parked if (of, one.dialogue_id) != (t, refused.dialogue_id)
        ]
        self.parked.append((t, refused))


def fill(
    connection: Connection[Any], targets: Sequence[Target],
    entries: Callable[[], Generator[list[Entry], None, None]],
) -> Loader:  # fmt: skip
    """A loader that has loaded `entries`, which it may ask for a second time, to find who is to blame."""
    try:
        # Its cursor is closed in the transaction that it was opened in: later, there is none to be closed.
        with connection.transaction(), closing(entries()) as first:
            loader = Loader(connection, targets)
            loader.load(chain.from_iterable(first))
            return loader
    except Exception as error:
        if not parking.blames_event(error):
            raise
    loader = Loader(connection, targets)
    loader.load_carefully(chain.from_iterable(entries()))
    return loader


def weight(event: Event) -> int:
    """How much of a piece an event takes."""
    fact = event.fact
    return 1 + len(fact.content or "") // CHARACTERS if isinstance(fact, MessageAdded) else 1


def pieces(
    entries: Iterable[Entry],
    erasure: Callable[[UUID], Erasure],
    subjects: Collection[Subject] = frozenset({"dialogue"}),
) -> Iterator[tuple[Piece, Parked | None]]:
    """Streams in pieces; with the last one of a stream, what kept its history from being read on.

    `erasure` is the last one of a dialogue: asked for when there are several pieces, for then what comes
    out of the first is written before the erasure is read.
    """
    wanted = (entry for entry in entries if entry.subject in subjects)
    for dialogue_id, history in groupby(wanted, lambda entry: entry.stream_id):
        held: list[Event] = []
        before, broken, weighs, erased = None, None, 0, NEVER
        for version, entry in enumerate(history, 1):
            if isinstance(entry, Unreadable):
                broken = parking.at(entry, entry.error)
                break  # groupby leaves out the rest
            if entry.version != version:
                broken = parking.at(entry, f"the log has version {entry.version} where {version} was to come")
                break
            if weighs >= PIECE:
                erased = erased if before else erasure(dialogue_id)
                before = Piece(dialogue_id, held, before, last=False, erased=erased, subject=entry.subject)
                held, weighs = [], 0
                yield before, None
            held.append(entry)
            weighs += weight(entry)
        yield Piece(dialogue_id, held, before, erased=erased, subject=entry.subject), broken


def digest(build: Build, piece: Piece) -> tuple[list[Row], Parked | None]:
    """What a piece makes of the tables, as far as the read model can digest it, and where it cannot."""
    if not piece.events and not piece.before:
        return [], None
    try:
        return list(build.model.rows(piece)), None
    except Exception as error:
        return _prefix(build, piece, described(error))


def _prefix(build: Build, piece: Piece, error: str) -> tuple[list[Row], Parked]:
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
            # Not the error itself: with its frames it would hold the piece, and nobody looks for such rings.
            error, bad = described(nearer), middle
    return rows, parking.at(piece.events[bad - 1], error)
