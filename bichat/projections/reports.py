"""What verifications find: the report, and those that are kept, without what people wrote."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from psycopg import Connection
from psycopg.rows import class_row

from bichat.projections.parking import Parked
from bichat.projections.read_model import Build
from bichat.projections.sql import statement

_DIGESTS = 2**64


class Difference(Struct, frozen=True, kw_only=True):
    """A row that is not what the log says; None: there is no such row. The rows are not in kept reports."""

    table: str
    key: str
    expected: dict[str, Any] | None = None
    found: dict[str, Any] | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that differ; all, when a row is on one side only."""
        expected, found = self.expected or {}, self.found or {}
        return [name for name in expected | found if expected.get(name) != found.get(name)]


class Compared(Struct, frozen=True, kw_only=True):
    """One table in one slice, or in all: rows and the sum of their hashes, as found and as expected."""

    rows: int = 0
    digest: int = 0
    expected_rows: int = 0
    expected_digest: int = 0
    different: int = 0

    def __add__(self, other: Compared) -> Compared:
        return Compared(
            rows=self.rows + other.rows,
            digest=(self.digest + other.digest) % _DIGESTS,
            expected_rows=self.expected_rows + other.expected_rows,
            expected_digest=(self.expected_digest + other.expected_digest) % _DIGESTS,
            different=self.different + other.different,
        )


class Report(Struct, frozen=True, kw_only=True):
    """What a verification of one build found; kept in `bichat.reports` without the rows."""

    build: str
    position: int
    events: int
    parked: int
    sample: int | None
    tables: dict[str, Compared]
    bounds: list[UUID]
    """The dialogues' ids between which the slices lie."""
    slices: dict[str, list[str]]
    """Of each table the digests by slice, hexadecimal."""
    differences: list[Difference]
    undigestible: list[Parked]
    unsettled: int = 0
    """Dialogues that were not compared: the key to their text is gone, and at this moment the log, or the
    build, did not know of an erasure yet."""
    seconds: float
    code: str
    schema: str
    fold: int
    """That this code compared with."""
    begun_with: int
    """That the build was begun with; if it is older, what differs may be what has changed since."""

    @property
    def valid(self) -> bool:
        """Whether nothing differs."""
        return not self.undigestible and not any(table.different for table in self.tables.values())

    @property
    def finding(self) -> str:
        """The first thing that is wrong, in a few words without a person's text."""
        for one in self.differences:
            return f"{one.table} {one.key}: {', '.join(one.columns)}"
        for other in self.undigestible:
            return f"dialogue {other.dialogue_id} version {other.version}: {other.error}"
        return "nothing"

    @property
    def outdated(self) -> bool:
        """Whether it differs and was begun with an older fold, so that a rebuild may be all it needs."""
        return not self.valid and self.begun_with < self.fold

    def kept(self) -> Report:
        """Without what people wrote."""
        bare = [
            Difference(table=d.table, key=d.key, found=dict.fromkeys(d.columns)) for d in self.differences
        ]
        return replace(self, differences=bare)


class Kept(Struct, frozen=True):
    """One report (`verify.Report`), and when it was made."""

    made_at: datetime
    valid: bool
    report: dict[str, Any]

    def line(self) -> dict[str, Any]:
        """In short."""
        shown = ("build", "position", "events", "sample", "seconds", "code", "schema")
        return {
            "made": f"{self.made_at:%Y-%m-%d %H:%M:%S}",
            "verdict": "right" if self.valid else "DIFFERS",
            **{name: self.report[name] for name in shown},
            "differ": sum(table["different"] for table in self.report["tables"].values()),
        }

    def whole(self) -> dict[str, Any]:
        """Everything."""
        return {"made_at": self.made_at, "valid": self.valid, **self.report}


def keep(connection: Connection[Any], build: Build, report: Report) -> None:
    """Keeps a report, to be looked at later."""
    values = (*build.key, report.valid, msgspec.json.encode(report.kept()).decode())
    connection.execute(statement("verify", "keep"), values)


def newest(connection: Connection[Any], names: Sequence[str], limit: int) -> list[Kept]:
    """The last reports on these read models, the newest first."""
    with connection.cursor(row_factory=class_row(Kept)) as cursor:
        return cursor.execute(statement("verify", "reports"), (list(names), limit)).fetchall()
