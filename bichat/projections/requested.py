"""Rebuilds that operators asked for over HTTP: projectors start them, and go on with what was cut short."""

from __future__ import annotations

from typing import Any

from psycopg import Connection

from bichat.projections.sql import statement
from bichat.projections.versions import MODELS


def waiting(connection: Connection[Any]) -> list[str]:
    """The read models to rebuild that nobody is rebuilding, in the shapes of this code, oldest first."""
    shapes = [model.name for model in MODELS], [model.shape for model in MODELS]
    return [name for (name,) in connection.execute(statement("requested", "waiting"), shapes)]
