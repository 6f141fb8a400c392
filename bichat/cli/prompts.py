"""`bichat prompts`: a tenant's prompts, for the installation's operator."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TextIO, TypeVar
from uuid import UUID

import click
import msgspec

from bichat.cli import database
from bichat.cli.output import as_json, json_text, table
from bichat.terminal import printable

if TYPE_CHECKING:
    from psycopg import AsyncConnection

    from bichat.commands.command import PromptCommand
    from bichat.commands.job import Outcome
    from bichat.projections.processes import Database
    from bichat.projections.prompts import Version

T = TypeVar("T")
MANY = 10_000
"""Prompts that are listed at most."""

tenant = click.option("--tenant", type=click.UUID, help="Whose; can be left out where there is only one.")
name = click.argument("name")


@click.group()
def prompts() -> None:
    """What the model is told before every dialogue (`system`), and templates: each with all its versions."""


@prompts.command("list")
@tenant
@as_json
def show_all(tenant: UUID | None, as_json: bool) -> None:
    """List the tenant's own prompts: who wrote the newest version, and when."""
    from bichat.events.prompt import SYSTEM
    from bichat.projections import prompts

    with database.opened() as db:
        whose = _tenant(db, tenant)
        found = _read(db, whose, lambda reader: prompts.page(reader, whose, after=None, limit=MANY))
    if found or as_json:
        table([msgspec.to_builtins(one) if as_json else _row(one) for one in found], as_json=as_json)
    if SYSTEM not in [one.name for one in found]:
        click.echo("system is the built-in one: `bichat prompts show system` prints it.", err=True)


@prompts.command()
@tenant
@click.option("--version", type=click.IntRange(1), help="As it was; else as it is.")
@name
@as_json
def show(tenant: UUID | None, version: int | None, name: str, as_json: bool) -> None:
    """Print the prompt NAME; with --json its versions, too."""
    from bichat.projections import prompts

    with database.opened() as db:
        whose = _tenant(db, tenant)
        found = _read(db, whose, lambda reader: prompts.versions(reader, whose, name, version))
    told = _told(name, found, version)
    if as_json:
        click.echo(json_text(told))
    else:
        click.echo(printable(told["template"]))


def _told(name: str, found: list[Version], at: int | None) -> dict[str, Any]:
    """As the API tells of it."""
    from bichat.errors import NotFound
    from bichat.events.prompt import SYSTEM
    from bichat.prompts import BUILT_IN

    wanted = at or (found[0].version if found else 0)
    text = next((one.template for one in found if one.version == wanted), None)
    if text is None and (name != SYSTEM or wanted > (found[0].version if found else 0)):
        raise NotFound(what="prompt")
    versions = [{n: getattr(one, n) for n in one.__struct_fields__ if n != "template"} for one in found]
    return {
        "name": name, "version": wanted, "template": BUILT_IN.text if text is None else text,
        "built_in": text is None, "versions": versions,
    }  # fmt: skip


@prompts.command("set")
@tenant
@name
@click.argument("file", type=click.File(encoding="utf-8"))
def change(tenant: UUID | None, name: str, file: TextIO) -> None:
    """Give the prompt NAME the text in FILE (- for stdin), as a new version."""
    from bichat import config
    from bichat.api.schemas import REASONS, TEXT
    from bichat.commands.prompt import ChangePrompt
    from bichat.embedded.smollm import CONTEXT_TOKENS
    from bichat.errors import Invalid
    from bichat.prompts import LONGEST, NAME, check

    text = _text(file)
    if not re.search(NAME, name):
        raise Invalid(field="name", reason="must be 1 to 64 of a-z, 0-9, - and _")
    if len(text) > LONGEST:
        raise Invalid(field="template", reason=f"is longer than {LONGEST:,} characters")
    if not re.search(TEXT, text):
        raise Invalid(field="template", reason=REASONS[TEXT])
    given = config.load()
    small = CONTEXT_TOKENS if given.brings_model else None
    check(name, text, given.bichat_context_tokens or small or given.context_tokens)
    with database.opened() as db:
        whose = _tenant(db, tenant)
        done = _execute(db, whose, ChangePrompt(tenant_id=whose, name=name, template=text))
    click.echo(f"{name} is at version {done.version}")


def _text(file: TextIO) -> str:
    from bichat.errors import Invalid

    try:
        return file.read()
    except UnicodeDecodeError:
        raise Invalid(field="template", reason="is not UTF-8") from None


@prompts.command()
@tenant
@name
def remove(tenant: UUID | None, name: str) -> None:
    """Take the prompt NAME away; without `system`, the built-in one is used."""
    from bichat.commands.prompt import RemovePrompt

    with database.opened() as db:
        whose = _tenant(db, tenant)
        done = _execute(db, whose, RemovePrompt(tenant_id=whose, name=name))
    click.echo(f"{name} is gone since version {done.version}")


# --- what they share --------------------------------------------------------------------------------


def _tenant(db: Database, given: UUID | None) -> UUID:
    from bichat.audit import log

    if given:
        return given
    with database.connected(db) as connection:
        only = log.only_tenant(connection)
    if only is None:
        raise click.UsageError("Say whose: --tenant.")
    return only


def _read(db: Database, tenant: UUID, work: Callable[[AsyncConnection[Any]], Awaitable[T]]) -> T:
    """What the read model says, once it is where the log was when we came."""
    from bichat.projections.prompts import MODEL
    from bichat.projections.reads import Reads

    async def read() -> T:
        reads = Reads(db.url)
        await reads.open()
        try:
            await reads.caught_up(MODEL.name, await reads.head())
            async with reads.tenant(tenant) as connection:
                return await work(connection)
        finally:
            await reads.close()

    with database.watched():
        return asyncio.run(read())


def _execute(db: Database, tenant: UUID, command: PromptCommand) -> Outcome:
    from uuid_utils.compat import uuid7

    from bichat import wiring
    from bichat.events.envelope import Actor, Metadata

    by = Metadata(tenant_id=tenant, actor=Actor("system", "operator"), command_id=uuid7())
    with wiring.writer(db) as executor:
        return asyncio.run(executor.execute(command, by))


def _row(one: Any) -> dict[str, Any]:
    changed = one.changed_at.isoformat(sep=" ", timespec="seconds").removesuffix("+00:00")
    return {"name": one.name, "version": one.version, "changed": changed, "author": one.author}
