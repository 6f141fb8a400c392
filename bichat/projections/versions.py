"""Which read models this code knows, which builds of them there are, and which build serves."""

from __future__ import annotations

from typing import Any

from psycopg import Connection
from psycopg.errors import UndefinedTable

from bichat.errors import ReadModelsMissing
from bichat.projections import dialogues, replies, transcripts, usage
from bichat.projections.read_model import Build, ReadModel
from bichat.projections.sql import blocks, statement

MODELS: tuple[ReadModel, ...] = (transcripts.MODEL, replies.MODEL, dialogues.MODEL, usage.MODEL)


def ensure(connection: Connection[Any]) -> list[Build]:
    """Makes a first build of each shape of this code that has none, and returns what it made.

    Several at once do no harm.
    """
    with connection.transaction():
        connection.execute(statement("versions", "lock"))
        missing = [model for model in MODELS if _serving(connection, model) is None]
        builds = [Build(model, 1) for model in missing]
        for build in builds:
            create(connection, build)
            serve(connection, build)
    return builds


def check(connection: Connection[Any]) -> None:
    """Raises `ReadModelsMissing` unless every shape of this code has a build that serves."""
    try:
        missing = [f"{m.name}_v{m.shape}" for m in MODELS if _serving(connection, m) is None]
    except UndefinedTable:
        missing = ["read models"]
    if missing:
        raise ReadModelsMissing(names=", ".join(missing))


def create(connection: Connection[Any], build: Build) -> None:
    """Makes the empty tables of a build, and its checkpoint."""
    connection.execute(build.sql("tables"))
    connection.execute(build.sql("indexes"))
    for table in build.tables:
        connection.execute(_filled("guard", table=table))
    connection.execute(statement("versions", "begin"), _key(build))


def serve(connection: Connection[Any], build: Build) -> None:
    """Lets the views show this build."""
    for view, table in zip(build.model.views, build.tables, strict=True):
        connection.execute(_filled("show", view=view, table=table))
    connection.execute(statement("versions", "serve"), _key(build))


def followed(connection: Connection[Any]) -> list[Build]:
    """The builds of this code's shapes that are kept up to date with the log."""
    return [
        Build(model, build)
        for model in MODELS
        for (build,) in connection.execute(statement("versions", "followed"), (model.name, model.shape))
    ]


def _serving(connection: Connection[Any], model: ReadModel) -> int | None:
    row = connection.execute(statement("versions", "serving"), (model.name, model.shape)).fetchone()
    return row[0] if row else None


def _key(build: Build) -> tuple[str, int, int]:
    return build.model.name, build.model.shape, build.number


def _filled(block: str, **names: str) -> bytes:
    return blocks("versions")[block].format(**names).encode()
