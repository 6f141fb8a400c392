"""`bichat backup` and `bichat restore`: the log, copied while everything runs, and brought back."""

from __future__ import annotations

from pathlib import Path

import click
from tqdm import tqdm

from bichat import config, embedded
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
    size = tqdm.format_sizeof(done.size, "B")
    click.echo(f"{events:,} events up to position {done.manifest.position}, {size}: {directory}")


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
def restore(directory: Path) -> None:
    """Bring the log back from DIR, into a database without events.

    Nothing of bichat may run on it. Every file is checked first. Then the log is loaded, who was forgotten
    since the backup is forgotten again, and the read models are built; until all of that is done,
    nothing else starts. Stopped at any point, the same command goes on.

    The keys come first, where they were lost too: `bichat keys restore FILE`, with the same master key.
    What happened after the backup is lost. To try a backup, use a keys store of its own as well: what is
    settled there is settled for the log that it belongs to.
    """
    from bichat import wiring

    given = config.load()
    if given.brings_postgres:
        embedded.refuse_if_owned(given)
    needed = ("database_url", "redis_url") if given.brings_postgres else ("database_url",)
    servers = embedded.attached_or_owned(given, *needed)
    stopped = database.interruptible("restore", "nothing else starts before `bichat restore DIR` has ended")
    with servers as settings, database.watched(), stopped, Progress() as progress:
        done = wiring.restore(settings, directory, progress)
    manifest, at = done.manifest, done.manifest.made_at.isoformat(" ", "seconds")
    events = manifest.tables["stored_events"].rows
    click.echo(f"{events:,} events up to position {manifest.position}, as of {at}")
    if done.forgotten:
        click.echo(f"Forgotten again: {done.forgotten}")
    if done.unsaid:
        listed = ", ".join(map(str, done.unsaid))
        click.echo(
            f"Forgotten again, too, but the log cannot say so ({listed}): what it has of these persons cannot"
            " be read. `bichat audit verify` shows why; a projector tries it again.",
            err=True,
        )
    if done.lost_seal:
        click.echo(f"Lost: what was sealed after seal {manifest.seal}, up to seal {done.lost_seal}")
