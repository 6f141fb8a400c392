"""`bichat keys rotate`: new data keys and master keys, without a word of the log rewritten."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import click

from bichat.cli import database
from bichat.cli.output import Progress


@click.command()
@click.option("--tenant", type=click.UUID, help="Only this tenant's people.")
@click.option("--user", help="Only this one, of --tenant.")
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%dT%H:%M:%S.%f%z", "%Y-%m-%dT%H:%M:%S%z"]),
    help="Only older keys.",
)
@click.option("--master", is_flag=True, help="Wrap all keys with another master key instead.")
def rotate(tenant: UUID | None, user: str | None, before: datetime | None, master: bool) -> None:
    """Give people another key to seal with; what was sealed before stays readable.

    With --master, everything is wrapped with BICHAT_MASTER_KEY; the key before is given as
    BICHAT_OLD_MASTER_KEY, to all parts, until this is done. In a data directory, a new master key is
    made and kept; nothing may run there. Broken off, it goes on when it is run again.
    """
    if user and not tenant:
        raise click.UsageError("--user needs --tenant.")
    if master and (tenant or before):
        raise click.UsageError("--master concerns all keys.")
    if master:
        _rewrap()
    else:
        _renew(tenant, user, before)


def _renew(tenant: UUID | None, user: str | None, before: datetime | None) -> None:
    from bichat import wiring
    from bichat.events.keys import rotation

    with database.opened() as db, wiring.key_store(db) as store, database.watched():
        before = before or rotation.now(store)
        then = f"go on with --before {before.isoformat()}"
        with database.interruptible("rotation", then), Progress(" persons") as progress:
            made = rotation.renew(store, before, tenant, user, progress)
    click.echo(f"{made} persons have a new key")


def _rewrap() -> None:
    from bichat import config, embedded, wiring
    from bichat.embedded import secrets
    from bichat.errors.unusable import NothingHere
    from bichat.events.keys import rotation

    given = config.load()
    kept = given.brings_postgres and not given.bichat_master_key
    if kept:
        embedded.refuse_if_owned(given)
        if not (given.bichat_data_dir / "postgres").exists():
            raise NothingHere(path=given.bichat_data_dir)
        secrets.replace_master(given.bichat_data_dir.absolute())
    with database.opened() as db, wiring.key_store(db) as store, database.watched():
        work = database.interruptible("rotation", "both master keys are needed until it is run again")
        with work, Progress(" keys") as progress:
            done = rotation.rewrap(store, progress)
    if kept:
        secrets.drop_old_master(given.bichat_data_dir.absolute())
    where = "the new key in the data directory" if kept else "BICHAT_MASTER_KEY"
    click.echo(f"{done} keys were wrapped again: {where} opens all of them")
