"""`bichat erase` and `bichat holds`: forgetting a person for good, and what forbids it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from bichat.cli import database
from bichat.cli.output import Progress, as_json, table

if TYPE_CHECKING:
    from bichat.commands.execute import Executor
    from bichat.forgetting.erasing import Forgotten
    from bichat.projections.processes import Database

tenant = click.option("--tenant", type=click.UUID, required=True, help="The tenant's id.")


@click.command()
@tenant
@click.option("--user", required=True, help="The user's id.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
def erase(tenant: UUID, user: str, yes: bool, as_json: bool) -> None:
    """Forget a person: their key is destroyed and their text gone everywhere; the log stays whole.

    There is no way back, not from a backup of the log either.
    """
    from bichat import wiring

    if not yes and sys.stdin.isatty():
        click.confirm(f"Forget {user!r} of tenant {tenant} for good?", abort=True)
    work = database.interruptible("erasure", "a projector goes on with it, or the same command")
    with (
        database.opened("redis_url") as db,
        wiring.writer(db) as executor,
        database.watched(),
        work,
        Progress(" dialogues") as progress,
    ):
        told, behind = asyncio.run(_erase(db, executor, tenant, user, progress))
    _say(told, behind, as_json=as_json)


async def _erase(
    db: Database, executor: Executor, tenant: UUID, user: str, progress: Progress
) -> tuple[Forgotten, list[str]]:
    from bichat.deltas import Deltas
    from bichat.events.envelope import Actor
    from bichat.forgetting.erasing import Forgetting
    from bichat.projections.reads import Reads

    deltas = Deltas(db.redis_url) if db.redis_url else None
    reads = Reads(db.url)
    try:
        forgetting = Forgetting(executor, deltas, lambda done, total: progress("erasing", done, total))
        told = await forgetting.forget(tenant, user, Actor("system", "operator"))
        await reads.open()
        return told, await reads.lagging(told.position)
    finally:
        await reads.close()
        if deltas:
            await deltas.close()


def _say(told: Forgotten, behind: list[str], *, as_json: bool) -> None:
    one = told.erasure
    if as_json:
        values = {name: getattr(one, name) for name in one.__struct_fields__}
        table([values | {"position": told.position, "behind": behind}], as_json=True)
    else:
        click.echo(f"Erased: {one.keys} keys destroyed, {one.dialogues} dialogues dropped their text")
    if one.unreadable:
        listed = ", ".join(map(str, one.unreadable))
        click.echo(f"Not readable, so not told, but sealed with the destroyed keys: {listed}", err=True)
    if one.done_at is None:
        click.echo("Redis still has words of the last minutes: a projector takes them away.", err=True)
    if behind:
        click.echo(f"To follow as soon as a projector runs: {', '.join(behind)}", err=True)


@click.group()
def holds() -> None:
    """Legal holds: as long as there is one, its person cannot be forgotten."""


@holds.command()
@tenant
@click.option("--user", help="On everything of this user.")
@click.option("--dialogue", type=click.UUID, help="On this dialogue, which holds its user.")
@click.option("--reason", required=True, help="Why; it goes with the person's text.")
def place(tenant: UUID, user: str | None, dialogue: UUID | None, reason: str) -> None:
    """Place a hold, and print its id."""
    from uuid_utils.compat import uuid7

    from bichat import wiring
    from bichat.commands.person import PlaceHold
    from bichat.forgetting import holding

    if (user is None) == (dialogue is None):
        raise click.UsageError("Give --user or --dialogue.")
    with database.opened() as db, wiring.writer(db) as executor:
        whose, hold_id = holding.whose(executor.ledger, tenant, user, dialogue), uuid7()
        command = PlaceHold(
            tenant_id=tenant, user_id=whose, hold_id=hold_id, dialogue_id=dialogue, reason=reason
        )
        _execute(executor, tenant, command)
    click.echo(hold_id)


@holds.command()
@tenant
@click.argument("hold_id", metavar="ID", type=click.UUID)
def release(tenant: UUID, hold_id: UUID) -> None:
    """End the hold ID."""
    from bichat import wiring
    from bichat.commands.person import ReleaseHold
    from bichat.errors import NotFound
    from bichat.forgetting import finding

    with database.opened() as db, wiring.writer(db) as executor:
        found = finding.holds(executor.ledger, tenant, hold_id=hold_id)
        if not found:
            raise NotFound(what="hold")
        command = ReleaseHold(tenant_id=tenant, user_id=found[0].user_id, hold_id=hold_id)
        _execute(executor, tenant, command)
    click.echo(f"{hold_id} is released")


@holds.command("list")
@tenant
@click.option("--user", help="Only this one's.")
@as_json
def show(tenant: UUID, user: str | None, as_json: bool) -> None:
    """List the holds in force, first placed first."""
    from bichat import wiring
    from bichat.forgetting import finding

    with database.opened() as db, wiring.writer(db) as executor:
        found = finding.holds(executor.ledger, tenant, user_id=user)
    rows = [{name: getattr(one, name) for name in one.__struct_fields__} for one in found]
    for row in rows:
        row["placed_by"] = row["placed_by"].id
    table(rows, as_json=as_json)


def _execute(executor: Executor, tenant: UUID, command: Any) -> None:
    from uuid_utils.compat import uuid7

    from bichat.events.envelope import Actor, Metadata

    by = Metadata(tenant_id=tenant, actor=Actor("system", "operator"), command_id=uuid7())
    asyncio.run(executor.execute(command, by))
