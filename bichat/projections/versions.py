"""Which read models this code knows, which builds of them there are, and which build serves."""

from __future__ import annotations

import re
import time
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.errors import DeadlockDetected, LockNotAvailable, UndefinedTable

from bichat.errors.unusable import BuildUnfit, ReadModelsMissing, SwitchTimedOut
from bichat.projections import dialogues, prompts, replies, search, transcripts, usage
from bichat.projections.read_model import Build, ReadModel
from bichat.projections.sql import filled, statement

MODELS: tuple[ReadModel, ...] = (
    transcripts.MODEL, replies.MODEL, dialogues.MODEL, usage.MODEL, prompts.MODEL, search.MODEL,
)  # fmt: skip
_FIRST_WAIT = 0.02
PATIENCE = 30.0
"""Seconds that a switch is tried again for, when readers or events are in its way."""


def ensure(connection: Connection[Any]) -> list[Build]:
    """Before the first event, makes and serves a build of each shape of this code; returns what it made.

    Later, a new shape has to be filled by a rebuild before it can serve. Several at once do no harm.
    """
    with connection.transaction():
        connection.execute(statement("versions", "lock"))
        started = connection.execute("select from bichat.stored_events limit 1").fetchone()
        builds = [Build(model, 1) for model in missing(connection)] if started is None else []
        for build in builds:
            create(connection, build, "live")
            connection.execute(build.sql("indexes"))
            guard(connection, build)
            show(connection, build)
        for model in MODELS:  # those over views that an older bichat made
            if model.has("functions") and serving(connection, model):
                connection.execute(model.sql("functions"))
    return builds


def missing(connection: Connection[Any]) -> list[ReadModel]:
    """The read models of this code without a build that serves."""
    return [model for model in MODELS if serving(connection, model) is None]


def check(connection: Connection[Any]) -> None:
    """Raises `ReadModelsMissing` unless every shape of this code has a build that serves."""
    try:
        absent = missing(connection)
        names = ", ".join(f"{m.name}_v{m.shape}" for m in absent)
    except UndefinedTable:
        absent, names = list(MODELS), "read models"
    if absent:
        raise ReadModelsMissing(names=names, models=" ".join(m.name for m in absent))


def serving(connection: Connection[Any], model: ReadModel) -> Build | None:
    """The build that the views of this shape show."""
    row = connection.execute(statement("versions", "serving"), (model.name, model.shape)).fetchone()
    return Build(model, row[0]) if row else None


def followed(connection: Connection[Any]) -> list[Build]:
    """The builds of this code's shapes that it keeps up to date with the log: none of newer code."""
    return [
        Build(model, build)
        for model in MODELS
        for (build,) in connection.execute(
            statement("versions", "followed"), (model.name, model.shape, model.fold)
        )
    ]


def create(connection: Connection[Any], build: Build, state: str) -> None:
    """Makes the empty tables of a build, and its checkpoint."""
    connection.execute(build.sql("tables"))
    connection.execute(statement("versions", "begin"), (*build.key, build.model.fold, state))


def guard(connection: Connection[Any], build: Build) -> None:
    """Hides the tables' rows from readers of other tenants."""
    for table in build.tables:
        connection.execute(filled("versions", "guard", table=table))


def show(connection: Connection[Any], build: Build) -> None:
    """Lets the views show this build, which has the shape of the one they showed; it is done then."""
    for view, table in zip(build.model.views, build.tables, strict=True):
        connection.execute(filled("versions", "show", view=view, table=table))
    if build.model.has("functions"):
        connection.execute(build.model.sql("functions"))
    connection.execute(statement("versions", "serve"), build.key)
    connection.execute(statement("versions", "done"), build.key)


def switch(connection: Connection[Any], build: Build) -> float:
    """Lets a build serve that is as far as the one that does; returns for how many seconds readers waited.

    One short transaction that gives way to readers who are in the middle of something, and is tried
    again for 30 s. Raises `SwitchTimedOut`; then what serves is as before.
    """
    wait, waited, deadline = _FIRST_WAIT, 0.0, time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        began = None
        try:
            with connection.transaction():
                if _caught_up(connection, build):
                    began = time.perf_counter()
                    connection.execute(statement("versions", "hurry"))
                    show(connection, build)
            if began:
                return waited + time.perf_counter() - began
            reason, wait = "it does not catch up with the build that serves", _FIRST_WAIT
        except (LockNotAvailable, DeadlockDetected):
            reason = "readers hold its views" if began else "a runner or a retry holds its checkpoint"
            waited += time.perf_counter() - began if began else 0.0
        time.sleep(wait)
        wait = min(2 * wait, 1.0)
    raise SwitchTimedOut(build=build.id, reason=reason)


def _caught_up(connection: Connection[Any], build: Build) -> bool:
    """Whether nobody who has seen something will miss it; from here on both checkpoints stand still.

    Raises `BuildUnfit` when the build was dropped.
    """
    connection.execute(statement("versions", "patience"))
    connection.execute(statement("versions", "lock"))  # what serves is changed by one at a time
    now = serving(connection, build.model)
    both = [build.number, now.number if now else 0]
    at = dict(connection.execute(statement("versions", "stop"), (*build.key[:2], both)).fetchall())
    if build.number not in at:
        raise BuildUnfit(build=build.id, reason="was dropped")
    return now is None or at[build.number] >= at.get(now.number, 0)


def kept(connection: Connection[Any], model: ReadModel) -> list[Build]:
    """The builds of this shape that are up to date and do not serve, newest first."""
    rows = connection.execute(statement("versions", "kept"), (model.name, model.shape)).fetchall()
    return [Build(model, number) for (number,) in rows]


def drop(connection: Connection[Any], key: tuple[str, int, int], *, serves: bool = False) -> None:
    """Takes a build away; its follower ends by itself. `serves`: with its views, which nobody reads."""
    name, shape, number = key
    with connection.transaction():
        for block in ("forget_checkpoint", "forget_build", "forget_parked"):
            connection.execute(statement("versions", block), key)
        if serves:
            connection.execute(statement("versions", "forget_serving"), key)
        pattern = rf"^{name}(_[a-z]+)?_v{shape}_g{number}$"
        for (table,) in connection.execute(statement("versions", "tables"), (pattern,)).fetchall():
            connection.execute(filled("versions", "drop_all" if serves else "drop", table=table))


def drop_abandoned(connection: Connection[Any], begun_before: datetime) -> list[str]:
    """Takes away builds begun before then that nobody follows and nobody works on; returns their names."""
    dropped = []
    for name, shape, number in connection.execute(statement("versions", "abandoned"), (begun_before,)):
        with connection.transaction():  # its lock keeps whoever would go on with the build from it
            if connection.execute(statement("versions", "claim"), (name,)).fetchone() == (True,):
                drop(connection, (name, shape, number))
                dropped.append(f"{name}_v{shape}_g{number}")
    return dropped


def drop_named(connection: Connection[Any], name: str, *, serving: bool = False) -> None:
    """Takes away the build called `name`; raises `BuildUnfit` when it is in use.

    `serving`: also one that serves a shape which this code does not know, and nobody follows.
    """
    found = re.fullmatch(r"([a-z]+)_v(\d{1,9})_g(\d{1,9})", name)
    key = (found[1], int(found[2]), int(found[3])) if found else ("", 0, 0)
    row = connection.execute(statement("versions", "named"), key).fetchone()
    if row is None:
        raise BuildUnfit(build=name, reason="is no build: see `bichat projections status`")
    serves, being_built, others = row
    known = any(model.name == key[0] and model.shape == key[1] for model in MODELS)
    if being_built:
        raise BuildUnfit(build=name, reason="is being built: stop that first")
    if serves and (known or others):
        raise BuildUnfit(build=name, reason="serves")
    if serves and not serving:
        raise BuildUnfit(build=name, reason="serves code of another shape; --serving drops it all the same")
    drop(connection, key, serves=serves)
