"""`bichat keys`: what opens the text of the log, kept apart from it."""

from __future__ import annotations

from pathlib import Path

import click

from bichat import config, embedded
from bichat.cli import database


@click.group()
def keys() -> None:
    """The keys that open what people said: each person's, wrapped by BICHAT_MASTER_KEY."""


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
def backup(file: Path) -> None:
    """Copy the keys, as they are wrapped, and the register of who was forgotten into FILE, a new one.

    Take it after `bichat backup`, so that it has the keys of all that is in there. FILE is worth nothing
    without BICHAT_MASTER_KEY (with bichat's own Postgres: secrets.json in BICHAT_DATA_DIR), which is in no
    backup: keep the three apart.

    FILE knows who was forgotten before it was made, and no more. Where FILE and the log's backup are both
    from before an erasure, they bring that person back, and nothing is left that could know better. So
    after an erasure take FILE anew, and destroy the older ones.
    """
    from bichat.backup.keys import back_up

    stopped = database.interruptible("backup", "nothing of it is kept")
    with database.opened() as db, database.watched(), stopped:
        count = back_up(db.keys_url, file)
    click.echo(f"{count:,} data keys: {file}")


@keys.command()
@click.argument("file", type=click.Path(path_type=Path))
def restore(file: Path) -> None:
    """Bring keys back from FILE, into an empty keys store or into one that is in use.

    What is there stays. A key that was destroyed, here or in FILE, stays destroyed, and so does one whose
    person was forgotten after it was made, as the register here, that in FILE, or the log says. Who was
    forgotten as FILE says, and not yet in this log, is forgotten by the projector that runs next.

    Give the master key that FILE was made with. Where the log is to be restored too: the keys first. Parts
    that run already see what came when they are started again.
    """
    from bichat import wiring

    stopped = database.interruptible("restore", "nothing of it is kept")
    servers = embedded.attached_or_owned(config.load(), "database_url")
    with servers as settings, database.watched(), stopped:
        done = wiring.restore_keys(settings, file)
    click.echo(f"{done.keys:,} data keys that were not here, {done.destroyed:,} of them destroyed")
    if done.reopened:
        click.echo(f"To be forgotten again by the projector: {done.reopened}")
