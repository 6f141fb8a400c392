"""Rebuilds that operators asked for over HTTP: projectors start them, and go on with what was cut short."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from msgspec import Struct
from psycopg import AsyncConnection, Connection

from bichat.errors.unusable import RebuildOutdated, RebuildRuns
from bichat.projections.read_model import ReadModel
from bichat.projections.sql import statement
from bichat.projections.versions import MODELS


class Requested(Struct, frozen=True):
    """A rebuild that is asked for or under way; `held`: somebody works on it just now."""

    build: int
    phase: str
    held: bool
    runner: str
    started_at: datetime


async def request(connection: AsyncConnection[Any], model: ReadModel) -> Requested:
    """Files a rebuild, or finds the one that is not finished; on a reader's connection.

    Raises `RebuildOutdated` when newer code has a build of it, `RebuildRuns` when one is just begun.
    """
    async with connection.transaction(), connection.cursor() as cursor:
        await cursor.execute(statement("requested", "allow"))
        values = (model.name, model.shape, model.fold)
        found = await (await cursor.execute(statement("requested", "request"), values)).fetchone()
    if found is None:  # somebody has the lock and has not begun yet
        raise RebuildRuns(build=model.name, since="just now", runner="another process", phase="beginning")
    newest_fold, *rest = found
    if newest_fold > model.fold:
        raise RebuildOutdated(name=model.name, fold=newest_fold, ours=model.fold)
    return Requested(*rest)


def waiting(connection: Connection[Any]) -> list[str]:
    """The read models to rebuild that nobody is rebuilding, in the shapes of this code, oldest first."""
    known = [m.name for m in MODELS], [m.shape for m in MODELS], [m.fold for m in MODELS]
    return [name for (name,) in connection.execute(statement("requested", "waiting"), known)]
