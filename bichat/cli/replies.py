"""`bichat replies`: the questions without an answer, of all tenants, and asking failed ones again."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from bichat.cli import database
from bichat.cli.output import as_json, table

if TYPE_CHECKING:
    from bichat.projections.unanswered import Unanswered

LONGEST = 100
"""Characters of an error in the table."""


@click.group()
def replies() -> None:
    """The questions without an answer: what waits, runs or failed, and queueing again what failed."""


@replies.command("list")
@click.option("--state", type=click.Choice(["waiting", "running", "failed"]), help="Only these.")
@click.option("--tenant", type=click.UUID, help="Only this tenant's.")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@as_json
def show(state: Any, tenant: UUID | None, limit: int, as_json: bool) -> None:
    """List them, longest asked first: how old, how often tried, why that failed, and who is at it.

    parked: since then the events of its dialogue wait before the queue (`bichat projections retry replies`
    after a fix), and the rest of the line is how it stood before.
    """
    from bichat.projections import unanswered, versions

    states = (state,) if state else unanswered.STATES
    with database.opened() as db, database.connected(db) as connection:
        versions.check(connection)
        found = unanswered.everywhere(connection, tenant, states, limit + 1)
    now = datetime.now(UTC)
    rows = [_whole(one) if as_json else _line(one, now) for one in found[:limit]]
    table(rows, as_json=as_json)
    if len(found) > limit:
        click.echo(f"There are more than {limit}: --limit shows more.", err=True)


def _whole(one: Unanswered) -> dict[str, Any]:
    told = {name: getattr(one, name) for name in one.__struct_fields__ if name != "position"}
    return told | {"detail": one.plain_detail}


def _line(one: Unanswered, now: datetime) -> dict[str, Any]:
    return {
        "question": one.message_id,
        "tenant": one.tenant_id,
        "user": one.user_id,
        "state": one.state,
        "age": _age(now - one.asked_at),
        "schedule": "off_peak" if one.off_peak else "now",
        "attempts": one.attempts,
        "last error": _error(one),
        "worker": one.holder,
        "parked": one.parked_at and f"{_age(now - one.parked_at)} ago",
    }


def _age(since: timedelta) -> timedelta:
    return timedelta(seconds=max(0, int(since.total_seconds())))


def _error(one: Unanswered) -> str:
    """In one line, as a model's server that we do not know may have worded it."""
    from bichat.terminal import printable

    text = " ".join(printable(": ".join(filter(None, (one.code, one.plain_detail)))).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


@replies.command()
@click.argument("message_id", metavar="ID", type=click.UUID)
def retry(message_id: UUID) -> None:
    """Queue the failed question ID again, whosever it is; the log says that an operator did."""
    from uuid_utils.compat import uuid7

    from bichat import wiring
    from bichat.commands.dialogue import RetryFailedReply
    from bichat.errors import NotFound
    from bichat.events.envelope import Actor, Metadata
    from bichat.projections import unanswered, versions

    with database.opened() as db:
        with database.connected(db) as connection:
            versions.check(connection)
            found = unanswered.find_anywhere(connection, message_id)
        if found is None:
            raise NotFound(what="unanswered question")
        command = RetryFailedReply(dialogue_id=found.dialogue_id, message_id=message_id)
        by = Metadata(tenant_id=found.tenant_id, actor=Actor("system", "operator"), command_id=uuid7())
        with wiring.writer(db) as executor:
            asyncio.run(executor.execute(command, by))
    click.echo(f"{message_id} waits again")
