"""`bichat search`: which models make messages findable by their meaning, and how far they have come."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import click

from bichat.cli import database
from bichat.cli.output import as_json, table
from bichat.errors import NotSimilar


@click.group()
def search() -> None:
    """The search in what people said: by its words (`bichat projections`), and by its meaning."""


@search.command()
@as_json
def status(as_json: bool) -> None:
    """Say of every model that makes embeddings how far it has come.

    serving: its embeddings are searched. building: on its way to serve, in the place of the one that does.
    retired: goes away in a minute.
    """
    from bichat.projections import vectors

    with database.opened() as db, database.connected(db) as connection:
        head, why = vectors.head(connection), ""
        try:
            vectors.there(connection)
        except NotSimilar as error:
            why = str(error)
        table([_told(model, head) for model in vectors.models(connection)], as_json=as_json)
    if why:
        click.echo(why, err=True)


def _told(model: Any, head: int) -> dict[str, Any]:
    return {
        "model": model.name,
        "dimensions": model.dimensions,
        "state": model.state,
        "position": model.position,
        "head": head,
        "since": model.updated_at.astimezone(UTC).isoformat(timespec="seconds"),
        "error": model.error,
    }
