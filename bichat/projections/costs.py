"""What calls to the model cost: what the read model `usage` counted, at the prices that are configured."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace
from psycopg import AsyncConnection

from bichat.config.spending import Prices
from bichat.projections import usage
from bichat.projections.usage import Split, Used


class Cost(Struct, frozen=True):
    """Of tokens whose model has a price (None: there are none), beside those whose model has none."""

    amount: Decimal | None
    unpriced_tokens: int = 0

    def __add__(self, other: Cost) -> Cost:
        amounts = [one for one in (self.amount, other.amount) if one is not None]
        amount = sum(amounts, Decimal()) if amounts else None
        return Cost(amount, self.unpriced_tokens + other.unpriced_tokens)


FREE = Cost(None)
"""Of no tokens at all."""


class Spent(Struct, frozen=True):
    """Tokens of some calls, and what they cost."""

    used: Used
    cost: Cost


async def spent(
    connection: AsyncConnection[Any], tenant_id: UUID, user_id: str | None, prices: Prices | None,
    *, since: date, until: date, by: Collection[Split] = (),
) -> list[Spent]:  # fmt: skip
    """What was spent on days in [since, until) UTC, by the user or (None) the whole tenant."""
    # Prices are of models, so those are told apart here, whatever was asked for.
    found = await usage.usage(connection, tenant_id, user_id, since=since, until=until, by={*by, "model"})
    return costed(found, prices, by)


def costed(found: Iterable[Used], prices: Prices | None, by: Collection[Split]) -> list[Spent]:
    """What was counted by model and more, added up so that it is split by `by` and no further."""
    sums: dict[tuple[object, ...], Spent] = {}
    for one in found:
        used = one if "model" in by else replace(one, model=None)
        key = (used.tenant_id, used.day, used.model, used.user_id)
        before = sums.get(key)
        cost = _cost(one, prices)
        sums[key] = Spent(before.used + used, before.cost + cost) if before else Spent(used, cost)
    return list(sums.values())


def total(found: Sequence[Spent]) -> Cost:
    """Of all of them."""
    return sum((one.cost for one in found), FREE)


def _cost(used: Used, prices: Prices | None) -> Cost:
    amount = None
    if prices:
        amount = prices.cost(used.model or "", used.prompt_tokens, used.completion_tokens)
    return Cost(None, used.prompt_tokens + used.completion_tokens) if amount is None else Cost(amount)
