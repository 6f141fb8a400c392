"""How the verbs of `bichat audit` reach the log: as an auditor of one tenant, whose readings are recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import click

from bichat.cli import database

if TYPE_CHECKING:
    from bichat.audit.auditor import Auditor
    from bichat.projections.processes import Database
    from bichat.projections.reads import Reads

T = TypeVar("T")


class Moment(click.ParamType):  # type: ignore[type-arg]  # not generic in every click
    """A point in time."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """RFC 3339, with its offset."""
        try:
            moment = datetime.fromisoformat(str(value))
            if moment.tzinfo is None:
                raise ValueError(value)
            return moment.astimezone(UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is not a time with an offset, as in 2026-11-22T12:00:00Z", param, ctx)


def read(
    work: Callable[[Auditor], Awaitable[T]], *, tenant: UUID | None = None, dialogue_id: UUID | None = None
) -> T:
    """What `work` finds as auditor of a tenant: the given one, else the dialogue's, else the only one.

    Raises `NotFound` for a dialogue that is nowhere, `Interrupted` on Ctrl-C.
    """
    from bichat import wiring
    from bichat.audit import log

    stopped = database.interruptible("reading", "what was asked for stays recorded")
    with database.opened() as db, stopped:
        with database.connected(db) as connection:
            if dialogue_id and not tenant:
                tenant = log.tenant_of(connection, dialogue_id, "dialogue")
            elif not tenant:
                tenant = log.only_tenant(connection)
        if tenant is None:
            raise click.UsageError("Say whose: --tenant or --dialogue.")
        with wiring.writer(db) as executor:
            return asyncio.run(_done(work, executor, db, tenant))


async def _done(work: Callable[[Auditor], Awaitable[T]], executor: Any, db: Database, tenant: UUID) -> T:
    async with _auditor(executor, db, tenant) as auditor:
        return await work(auditor)


@asynccontextmanager
async def _auditor(executor: Any, db: Database, tenant: UUID) -> AsyncIterator[Auditor]:
    """The same that answers HTTP, on the same role of the database."""
    from bichat.audit.auditor import Auditor
    from bichat.events.envelope import Actor

    async with pooled(db) as reads:
        yield Auditor(executor, reads, tenant, Actor("system", "operator"))


@asynccontextmanager
async def pooled(db: Database) -> AsyncIterator[Reads]:
    """What sees one tenant at a time."""
    from bichat.projections.reads import Reads

    reads = Reads(db.url, size=2)
    await reads.open()
    try:
        yield reads
    finally:
        await reads.close()
