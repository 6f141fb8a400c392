"""`bichat backup` and `bichat restore`: the log, copied while everything runs, and brought back."""

from __future__ import annotations

from pathlib import Path

import click

from bichat.cli import database
from bichat.cli.output import Progress


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def backup(directory: Path) -> None:
    """Copy the log into DIR, a new or empty directory, while everything runs.

    As of one moment: all events, receipts, seals. Not the read models, which `restore` builds anew, and
    not the keys: without `bichat keys backup`, taken after this and kept elsewhere, nobody can read
    what people said. `sha256sum -c SHA256SUMS` in DIR checks it.

    Who is forgotten later stays readable from both copies together, and only then: so keep them apart,
    and after an erasure take the keys' backup anew and destroy the older ones.
    """
    from bichat.backup.dump import back_up

    stopped = database.interruptible("backup", "nothing of it is kept")
    with database.opened() as db, database.watched(), stopped, Progress() as progress:
        done = back_up(db.url, directory, progress)
    events = done.manifest.tables["stored_events"].rows
    click.echo(
        f"{events:,} events up to position {done.manifest.position}, {done.size / 1e6:,.1f} MB: {directory}"
    )
