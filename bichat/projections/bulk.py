"""The bulk of a rebuild, as tasks for processes side by side: loading slices of the log, then indexing."""

from __future__ import annotations

from typing import Any

from msgspec import Struct
from psycopg import Connection

from bichat.errors.unusable import BuildUnfit
from bichat.events import slices
from bichat.events.slices import Slice
from bichat.projections import parking, sql, versions
from bichat.projections.copying import copy
from bichat.projections.load import Target, fill
from bichat.projections.processes import Desk
from bichat.projections.read_model import Build
from bichat.projections.sql import statement


class LoadSlice(Struct, frozen=True):
    """The task of loading one slice into builds; returns how many events were in it."""

    builds: tuple[Build, ...]
    slice: Slice
    fence: int

    def __call__(self, here: Desk) -> int:
        """All in one transaction, with the mark that it is done."""
        connection = here.connection
        with connection.transaction():
            targets = [Target(build=build, upto=self.fence) for build in self.builds]
            loader = fill(
                connection, targets, lambda: slices.read(connection, here.feed, self.slice, self.fence)
            )
            for (t, n), rows in loader.sums().items():
                copy(connection, self.builds[t].tables[n], rows)
            for t, parked in loader.parked:
                parking.park(connection, self.builds[t], [parked])
            for build in self.builds:
                self._mark(connection, build, loader.events)
        return loader.events

    def _mark(self, connection: Connection[Any], build: Build, events: int) -> None:
        values = {**build.names, "slice": self.slice.number, "events": events}
        if connection.execute(statement("rebuild", "loaded"), values).rowcount != 1:
            # A process of an earlier run, which was killed, was still at it.
            raise BuildUnfit(build=build.id, reason=f"has slice {self.slice.number} from an earlier run")


class IndexBuild(Struct, frozen=True):
    """The task of making tables that are loaded into those of a build that can be followed and read."""

    build: Build
    workers: int
    """Processes of Postgres that may help with one index."""

    def __call__(self, here: Desk) -> None:
        """All in one transaction, with the checkpoint where the bulk ends."""
        connection, build = here.connection, self.build
        with connection.transaction():
            connection.execute(statement("rebuild", "index_fast"), (str(self.workers),))
            for block in ("merge", "settle"):
                if build.model.has(block):
                    connection.execute(build.sql(block))
            connection.execute(build.sql("indexes"))
            versions.guard(connection, build)
            connection.execute(statement("rebuild", "follow"), build.key)
        for table in build.tables:
            connection.execute(sql.filled("rebuild", "analyze", table=table))
