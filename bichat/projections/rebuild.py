"""Makes new builds of read models beside those that serve, proves them right, and lets them serve."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any
from uuid import UUID

import psycopg
from msgspec import Struct
from psycopg import Connection

from bichat.errors.unusable import (
    BuildUnfit,
    ProcessFailed,
    RebuildDiffers,
    RebuildOutdated,
    RebuildParks,
    RebuildRuns,
    RebuildStopped,
    SwitchTimedOut,
)
from bichat.events import slices
from bichat.logs import described
from bichat.projections import following, reports, versions
from bichat.projections.bulk import IndexBuild, LoadSlice
from bichat.projections.processes import Database, Desk, Pool, desk
from bichat.projections.read_model import Build, ReadModel
from bichat.projections.reports import Report
from bichat.projections.sql import statement
from bichat.projections.verify import Progress, verify

log = logging.getLogger(__name__)


class Rebuilt(Struct, frozen=True, kw_only=True):
    """A new build that serves; `pause` is for how many seconds readers had to wait for the switch."""

    build: Build
    report: Report
    pause: float
    seconds: dict[str, float]
    """What each step took; the steps are the phases in `bichat.builds`."""


class _Begun(Struct, frozen=True):
    """How far a build has come, as `bichat.builds` tells."""

    build: Build
    phase: str
    fold: int
    fence: int
    bounds: tuple[UUID, ...]
    loaded: frozenset[int]
    events: int


def rebuild(
    database: Database, models: Sequence[ReadModel], *, jobs: int, progress: Progress,
    with_parked: bool = False,
) -> list[Rebuilt]:  # fmt: skip
    """Builds read models anew, or goes on with what was interrupted; returns once they serve.

    May be interrupted at any moment: what serves is never touched before the switch, and each finished
    slice is kept. Raises `RebuildRuns`, `RebuildDiffers`, `RebuildParks` (but not `with_parked`),
    and `RebuildStopped` when the database goes away, its disk is full, or readers do not let it switch.
    """
    done: list[Rebuilt] = []
    work: _Rebuild | None = None
    try:
        with desk(database) as here, closing(Pool(database, jobs)) as pool:
            for model in models:
                _claim(here.connection, model)
            work = _Rebuild(database, here, pool, progress)
            for one in work.run(models, with_parked):
                done.append(one)
    except (psycopg.Error, ProcessFailed, BuildUnfit, SwitchTimedOut) as error:
        raise RebuildStopped(
            reason=described(error).rstrip("."), served=_served(done, work.switching if work else False)
        ) from error
    return done


def _served(done: Sequence[Rebuilt], switching: bool) -> str:
    if not switching:
        return "Nothing was switched; the same command goes on from here."
    if not done:
        return "What serves says `bichat projections status`."
    names = ", ".join(one.build.id for one in done)
    return f"{names} serve already; go on with the others, by name."


def _claim(connection: Connection[Any], model: ReadModel) -> None:
    """One rebuild of a read model at a time, wherever it runs; the lock goes with its connection."""
    if connection.execute(statement("rebuild", "claim"), (model.name,)).fetchone() != (True,):
        row = connection.execute(statement("rebuild", "unfinished"), (model.name, model.shape)).fetchone()
        number, phase, *_, runner, since = row or (0, "beginning", "another process", "just now")
        raise RebuildRuns(build=Build(model, number).id, phase=phase, runner=runner, since=since)


class _Rebuild:
    def __init__(self, database: Database, here: Desk, pool: Pool, progress: Progress) -> None:
        self._database, self._here, self._pool, self._progress = database, here, pool, progress
        self._connection = here.connection
        self._me = f"{socket.gethostname()}:{os.getpid()}"
        self._seconds: dict[str, float] = {}
        self.switching = False
        """Whether it has come so far."""

    def run(self, models: Sequence[ReadModel], with_parked: bool) -> Iterator[Rebuilt]:
        """The steps, each from where the last run left it; yields what serves, as it does."""
        begun = [self._begin(model) for model in models]
        builds = [one.build for one in begun]
        with self._timed("loading"):
            self._cut([one for one in begun if one.phase == "requested"])
            self._load([one for build in builds if (one := self._look(build)).phase == "loading"])
        with self._timed("indexing"):
            due = [build for build in builds if self._look(build).phase == "indexing"]
            workers = max(0, self._pool.jobs // max(1, len(due)) - 1)  # else idle processors
            for n, _ in enumerate(self._pool.each([IndexBuild(build, workers) for build in due]), 1):
                self._progress("indexing", n, len(due))
        with following.Followers(self._database, self._here, builds) as followers:
            with self._timed("following"):
                following.catch_up(self._connection, builds, self._progress)
            with self._timed("verifying"):
                found = self._verify(builds)
            if not with_parked:
                self._refuse_parked(builds)
            followers.hand_over()
            self.switching = True
            for build, report in zip(builds, found, strict=True):
                yield self._switch(build, report)

    # --- where it stands ------------------------------------------------------------------------------

    def _begin(self, model: ReadModel) -> _Begun:
        row = self._connection.execute(statement("rebuild", "fold"), (model.name, model.shape)).fetchone()
        if row and row[0] > model.fold:
            raise RebuildOutdated(name=model.name, fold=row[0], ours=model.fold)
        found = self._find(model)
        if found and found.fold > model.fold and found.phase != "requested":
            raise RebuildOutdated(name=model.name, fold=found.fold, ours=model.fold)
        if found and (found.phase == "failed" or found.fold != model.fold):
            versions.drop(self._connection, found.build.key)
            found = None
        if not found:
            self._connection.execute(statement("rebuild", "begin"), (model.name, model.shape, model.fold))
            found = self._find(model)
            assert found  # noqa: S101 - just made, under our lock
        return found

    def _find(self, model: ReadModel) -> _Begun | None:
        row = self._connection.execute(
            statement("rebuild", "unfinished"), (model.name, model.shape)
        ).fetchone()
        if row is None:
            return None
        number, phase, fold, fence, bounds, loaded, events, *_ = row
        return _Begun(Build(model, number), phase, fold, fence, tuple(bounds), frozenset(loaded), events)

    def _look(self, build: Build) -> _Begun:
        found = self._find(build.model)
        if not found or found.build.number != build.number:
            raise BuildUnfit(build=build.id, reason="was dropped")
        return found

    def _mark(self, build: Build, phase: str, error: str = "") -> None:
        self._connection.execute(statement("rebuild", "phase"), (phase, error, self._me, *build.key))

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._seconds[step] = round(time.perf_counter() - began, 3)

    # --- the bulk -------------------------------------------------------------------------------------

    def _cut(self, begun: Sequence[_Begun]) -> None:
        """Empty tables, and slices of the log as it is now: the same for all, to be read once."""
        if not begun:
            return
        with self._connection.transaction():
            row = self._connection.execute(statement("reads", "head")).fetchone()
            fence = int(row[0]) if row else 0
            events = slices.count(self._connection, fence)
            bounds = slices.cut(events, self._connection, fence)
            for one in begun:
                self._connection.execute(one.build.sql("tables"))
                values = (fence, bounds, self._me, *one.build.key)
                self._connection.execute(statement("rebuild", "cut"), values)

    def _load(self, begun: Sequence[_Begun]) -> None:
        tasks = []
        for fence, bounds in {(one.fence, one.bounds): None for one in begun}:
            together = [one for one in begun if (one.fence, one.bounds) == (fence, bounds)]
            for part in slices.between(bounds):
                missing = tuple(one.build for one in together if part.number not in one.loaded)
                if missing:
                    tasks.append(LoadSlice(missing, part, fence))
        if begun:
            done = min(one.events for one in begun)
            total = slices.count(self._connection, max(one.fence for one in begun))
            self._progress("loading", done, total)
            for events in self._pool.each(tasks):
                done += events
                self._progress("loading", min(done, total), total)
        for one in begun:
            self._mark(one.build, "indexing")

    # --- the rest -------------------------------------------------------------------------------------

    def _verify(self, builds: Sequence[Build]) -> list[Report]:
        for build in builds:
            self._mark(build, "verifying")
        found = verify(self._database, builds, self._pool, self._progress)
        for build, report in zip(builds, found, strict=True):
            reports.keep(self._connection, build, report)
            if not report.valid:
                self._connection.execute(statement("rebuild", "unfollow"), build.key)
                self._mark(build, "failed", f"differs from the log: {report.finding}")
        for build, report in zip(builds, found, strict=True):
            if not report.valid:
                raise RebuildDiffers(build=build.id, finding=report.finding)
        return found

    def _refuse_parked(self, builds: Sequence[Build]) -> None:
        for build in builds:
            row = self._connection.execute(statement("rebuild", "parks_more"), build.names).fetchone()
            if row and row[0]:
                reason = f"{row[0]} dialogues are parked that can be read today"
                self._connection.execute(statement("rebuild", "refuse"), (reason, *build.key))
                raise RebuildParks(build=build.id, count=row[0])

    def _switch(self, build: Build, report: Report) -> Rebuilt:
        before = versions.serving(self._connection, build.model)
        pause = versions.switch(self._connection, build)
        self._drop_older(build.model, before)
        return Rebuilt(build=build, report=report, pause=pause, seconds=dict(self._seconds))

    def _drop_older(self, model: ReadModel, before: Build | None) -> None:
        """One way back is enough. What cannot be dropped just now is dropped the next time."""
        for old in versions.kept(self._connection, model):
            if before and old.number != before.number:
                try:
                    versions.drop(self._connection, old.key)
                except psycopg.Error as error:
                    log.warning("%s was not dropped: %s", old.id, described(error))
