"""`bichat usage`: tokens and what they cost, by tenant, user, model and day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from bichat import config
from bichat.cli import database
from bichat.cli.output import as_json, table

if TYPE_CHECKING:
    from bichat.projections.costs import Spent

SPLITS = ("tenant", "user", "model", "day")


class _Day(click.ParamType[date]):
    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> date:
        """A date as in ISO 8601."""
        try:
            return date.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no date, as in 2026-11-22", param, ctx)


@click.command()
@click.option("--tenant", type=click.UUID, help="Only this tenant's.")
@click.option(
    "--by", "split", multiple=True, type=click.Choice(SPLITS),
    help="May be given several times; tenant and model if not given.",
)  # fmt: skip
@click.option("--since", type=_Day(), default=None, help="From this day on, in UTC; this month if not given.")
@click.option("--until", type=_Day(), help="Before this day.")
@as_json
def usage(
    tenant: UUID | None, split: tuple[Any, ...], since: date | None, until: date | None, as_json: bool
) -> None:  # fmt: skip
    """Add up calls (attempts at answering, and labels), their tokens, and what they cost at BICHAT_PRICES.

    unpriced: tokens of models without a price, which the cost leaves out.
    """
    from bichat.projections import costs, versions
    from bichat.projections import usage as counted

    by = split or ("tenant", "model")
    since = since or datetime.now(UTC).date().replace(day=1)
    with database.opened() as db, database.connected(db) as connection:
        versions.check(connection)
        found = counted.everywhere(
            connection, tenant, since=since, until=until or date.max, by={*by, "model"}
        )
    prices = config.load().bichat_prices
    spent = costs.costed(found, prices, by)
    rows = [_row(one, by) for one in spent]
    if len(rows) > 1 and not as_json:
        rows.append(_whole(spent, by))
    table(rows, as_json=as_json)
    if rows and not prices:
        click.echo("Without BICHAT_PRICES there is no cost: set it here as it is for the server.", err=True)


def _row(one: Spent, by: tuple[str, ...]) -> dict[str, Any]:
    of = {
        "tenant": one.used.tenant_id,
        "user": one.used.user_id,
        "model": one.used.model,
        "day": one.used.day,
    }
    return {name: of[name] for name in SPLITS if name in by} | _sums(one)


def _whole(spent: list[Spent], by: tuple[str, ...]) -> dict[str, Any]:
    whole = spent[0]
    for one in spent[1:]:
        whole = type(whole)(whole.used + one.used, whole.cost + one.cost)
    return {name: "all" for name in SPLITS if name in by} | _sums(whole)


def _sums(one: Spent) -> dict[str, Any]:
    cost = one.cost.amount
    return {
        "calls": one.used.calls,
        "prompt tokens": one.used.prompt_tokens,
        "completion tokens": one.used.completion_tokens,
        "cost": None if cost is None else f"{cost.normalize():f}",
        "unpriced": one.cost.unpriced_tokens,
    }
