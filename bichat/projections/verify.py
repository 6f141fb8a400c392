"""Proves that builds are what the log comes to: folds the log anew, beside them, and compares every row."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from psycopg import Connection

from bichat import __version__
from bichat.errors.unusable import RebuildOutdated
from bichat.events import schema, slices
from bichat.events.slices import Slice
from bichat.projections.copying import copy
from bichat.projections.load import Target, fill
from bichat.projections.parking import Parked
from bichat.projections.processes import Database, Desk, Pool, desk
from bichat.projections.read_model import Build, Table
from bichat.projections.reports import Compared, Difference, Report
from bichat.projections.sql import filled, statement

Progress = Callable[[str, int, int], None]
"""Told what is done, how many events of it, and of how many."""


SHOWN = 20
"""Differences of a build that are told."""


class Checked(Struct, frozen=True):
    """What a process found in one slice."""

    number: int
    events: int
    tables: dict[tuple[int, int], tuple[Compared, list[Difference]]]
    """By number of the target and of its table."""
    sums: dict[tuple[int, int], list[dict[str, Any]]]
    undigestible: list[tuple[int, Parked]]
    unsettled: dict[int, int]
    """By number of the target the dialogues that were not compared."""


class CheckSlice(Struct, frozen=True):
    """The task of comparing one slice of several builds."""

    snapshot: str
    targets: tuple[Target, ...]
    slice: Slice

    def __call__(self, here: Desk) -> Checked:
        """Loads the slice into temporary tables, and leaves nothing behind."""
        connection = here.connection
        with snapshot(connection, self.snapshot):
            beside = [replace(t, build=replace(t.build, schema="pg_temp")) for t in self.targets]
            for target in beside:
                connection.execute(target.build.sql("tables"))
            fence = max(target.upto for target in self.targets)
            loader = fill(connection, beside, lambda: slices.read(connection, here.feed, self.slice, fence))
            for target in beside:
                if target.build.model.has("settle"):
                    connection.execute(target.build.sql("settle"))
            unsettled: dict[int, list[UUID]] = {t: [] for t, _ in enumerate(self.targets)}
            for t, dialogue_id in loader.unsettled:
                unsettled[t].append(dialogue_id)
            found = {
                (t, n): compare(connection, target.build, n, self.slice, unsettled[t])
                for t, target in enumerate(self.targets)
                for n, table in enumerate(target.build.model.tables)
                if table.stream
            }
            left_out = {t: len(dialogues) for t, dialogues in unsettled.items()}
            return Checked(self.slice.number, loader.events, found, loader.sums(), loader.parked, left_out)


@contextmanager
def snapshot(connection: Connection[Any], of: str | None = None) -> Iterator[None]:
    """One view of everything, that of another connection if it is named; whatever is written is undone."""
    with connection.transaction(force_rollback=True):
        connection.execute(statement("verify", "repeatable"))
        if of:
            connection.execute(f"set transaction snapshot '{of}'")
        yield


def compare(
    connection: Connection[Any], build: Build, number: int, slice_: Slice | None,
    left_out: Sequence[UUID] = (),
) -> tuple[Compared, list[Difference]]:  # fmt: skip
    """One table of a build beside the temporary one of its name: both digests, and the first differences."""
    table, name = build.model.tables[number], build.tables[number]
    beside = replace(build, schema="pg_temp").tables[number]
    where = filled("verify", "within", column=table.stream).decode() if slice_ and table.stream else ""
    values = slice_.range | {"left_out": list(left_out)} if slice_ else {}
    if left_out and table.stream:
        query = filled("verify", "leave_out", table=beside, column=table.stream)
        connection.execute(query, (list(left_out),))
    expected = connection.execute(filled("verify", "digest", table=beside, where="")).fetchone()
    found = connection.execute(filled("verify", "digest", table=name, where=where), values).fetchone()
    assert expected is not None  # noqa: S101 - aggregates have a row
    assert found is not None  # noqa: S101
    both = Compared(
        rows=found[0], digest=int(found[1]), expected_rows=expected[0], expected_digest=int(expected[1])
    )
    if found == expected:
        return both, []
    names = {"expected": beside, "table": name, "where": where, "key": ", ".join(table.key)}
    count = connection.execute(filled("verify", "count_different", **names), values).fetchone()
    rows = connection.execute(filled("verify", "different", **names), values).fetchall()
    return replace(both, different=max(1, count[0] if count else 0)), [
        _difference(table, row) for row in rows
    ]


def _difference(table: Table, row: Sequence[Any]) -> Difference:
    *key, expected, found = row
    return Difference(
        table=table.name,
        key=" ".join(map(str, key)),
        expected=expected and msgspec.json.decode(expected),
        found=found and msgspec.json.decode(found),
    )


def verify(
    database: Database, builds: Sequence[Build], pool: Pool, progress: Progress, sample: int | None = None
) -> list[Report]:
    """Compares builds with the log, all at one moment and without stopping anybody; reports in their order.

    `sample`: only about so many dialogues, and no sums over dialogues.
    """
    began = time.perf_counter()
    with desk(database) as here, snapshot(here.connection):
        return _Verification(here, builds, sample).run(pool, progress, began)


class _Verification:
    def __init__(self, here: Desk, builds: Sequence[Build], sample: int | None) -> None:
        self._here, self._builds, self._sample = here, builds, sample
        connection = here.connection
        self._targets, self._folds = zip(*(_target(connection, build) for build in builds), strict=True)
        self._fence = max(target.upto for target in self._targets)
        self._schema = schema.newest(connection)
        self._tables: dict[tuple[int, int], list[tuple[int, Compared]]] = {}
        self._differences: dict[int, list[Difference]] = {t: [] for t in range(len(builds))}
        self._undigestible: dict[int, list[Parked]] = {t: [] for t in range(len(builds))}
        self._unsettled: Counter[int] = Counter()
        self._events = 0
        self._bounds: list[UUID] = []

    def run(self, pool: Pool, progress: Progress, began: float) -> list[Report]:
        """The reports on the builds, in their order."""
        connection = self._here.connection
        shared = connection.execute(statement("verify", "export")).fetchone()
        assert shared  # noqa: S101 - a function has a value
        total, parts = self._parts()
        tasks = [CheckSlice(shared[0], self._targets, part) for part in parts]
        for build in self._builds:
            connection.execute(replace(build, schema="pg_temp").sql("tables"))
        progress("verifying", 0, total)
        for checked in pool.each(tasks):
            self._take(checked)
            progress("verifying", min(self._events, total), total)
        if not self._sample:
            self._compare_sums()
        return [self._report(t, build, began) for t, build in enumerate(self._builds)]

    def _parts(self) -> tuple[int, list[Slice]]:
        connection = self._here.connection
        total = slices.count(connection, self._fence)
        self._bounds = slices.cut(total, connection, self._fence)
        parts = slices.between(self._bounds)
        if not self._sample:
            return total, parts
        chosen = slices.sample(connection, self._sample, total)
        some = [
            replace(
                part, only=tuple(i for i in chosen if part.first <= i and (part.end is None or i < part.end))
            )
            for part in parts
        ]
        return total, [part for part in some if part.only]

    def _take(self, checked: Checked) -> None:
        self._events += checked.events
        self._unsettled.update(checked.unsettled)
        for place, (compared, differences) in checked.tables.items():
            self._tables.setdefault(place, []).append((checked.number, compared))
            self._differences[place[0]] = (self._differences[place[0]] + differences)[:SHOWN]
        for t, parked in checked.undigestible:
            if len(self._undigestible[t]) < SHOWN:
                self._undigestible[t].append(parked)
        for (t, n), rows in checked.sums.items():
            copy(self._here.connection, replace(self._builds[t], schema="pg_temp").tables[n], rows)

    def _compare_sums(self) -> None:
        connection = self._here.connection
        for t, build in enumerate(self._builds):
            if build.model.has("merge"):
                connection.execute(replace(build, schema="pg_temp").sql("merge"))
            for n, table in enumerate(build.model.tables):
                if table.stream is None:
                    compared, differences = compare(connection, build, n, None)
                    self._tables[t, n] = [(0, compared)]
                    self._differences[t] += differences

    def _report(self, t: int, build: Build, began: float) -> Report:
        tables = {
            table.name: sorted(self._tables[t, n])
            for n, table in enumerate(build.model.tables)
            if (t, n) in self._tables
        }
        return Report(
            build=build.id,
            position=self._targets[t].upto,
            events=self._events,
            parked=len(self._targets[t].parked),
            sample=self._sample,
            tables={name: sum((c for _, c in found), Compared()) for name, found in tables.items()},
            bounds=self._bounds,
            slices={name: [f"{c.digest:016x}" for _, c in found] for name, found in tables.items()},
            differences=self._differences[t][:SHOWN],
            undigestible=self._undigestible[t][:SHOWN],
            unsettled=self._unsettled[t],
            seconds=round(time.perf_counter() - began, 3),
            code=__version__,
            schema=self._schema,
            fold=build.model.fold,
            begun_with=self._folds[t],
        )


def _target(connection: Connection[Any], build: Build) -> tuple[Target, int]:
    """The build as far as it has come, and the fold that it was begun with."""
    row = connection.execute(statement("verify", "position"), build.key).fetchone()
    position, fold = row or (0, build.model.fold)
    if fold > build.model.fold:
        raise RebuildOutdated(name=build.model.name, fold=fold, ours=build.model.fold)
    parked: dict[UUID, int] = dict(connection.execute(statement("verify", "parked"), build.key).fetchall())
    return Target(build=build, upto=position, parked=parked), fold
