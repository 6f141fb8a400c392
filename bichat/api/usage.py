"""Tokens spent and what they cost: one's own, or with the role `ops` the whole tenant's."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from typing import Annotated

from litestar import Router, get
from litestar.params import QueryParameter
from msgspec import Struct

from bichat.api import reading
from bichat.api.call import Call
from bichat.api.parameters import MinPosition, day
from bichat.projections import costs, usage

Time = Annotated[
    str | None, QueryParameter(max_length=40, description="A date, or a time: days are whole, in UTC.")
]
By = Annotated[
    str,
    QueryParameter(
        pattern=r"^((day|model|user)(,(day|model|user)){0,2})?(?!\n)$", description="As in `day,model`."
    ),
]


class Used(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens of attempts at answering and of labels, which are the `calls`, whatever functions they called.

    `day`, `model` and `user_id` are there when split by them.

    `cost` is that of the tokens whose model has a price, null when none of them has; `unpriced_tokens` are
    those that it leaves out.
    """

    calls: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cost: float | None
    unpriced_tokens: int = 0
    day: date | None = None
    model: str | None = None
    user_id: str | None = None


class Spending(Struct, frozen=True, kw_only=True):
    """What was spent. `unpriced_share`, from 0 to 1, of the tokens is of models without a price."""

    data: list[Used]
    cost: float | None
    unpriced_tokens: int
    unpriced_share: float


@get("/", opt={"roles": ("user", "ops")})
async def show(
    request: Call, since: Time = None, until: Time = None, by: By = "", min_position: MinPosition = None
) -> Spending:
    """Tokens spent from `since` on and before `until`, at today's prices; failed calls count too."""
    first, end = day("since", since, date.min), day("until", until, date.max, up=True)
    await reading.reached(request, "usage", min_position)
    who, prices = request.user, request.parts.config.bichat_prices
    user_id = None if "ops" in who.roles else who.id
    split: set[usage.Split] = {name for name in ("day", "model", "user") if name in by.split(",")}
    async with request.parts.reads.tenant(who.tenant_id) as connection:
        found = await costs.spent(
            connection, who.tenant_id, user_id, prices, since=first, until=end, by=split
        )
    return _told(found)


def _told(found: list[costs.Spent]) -> Spending:
    whole = costs.total(found)
    tokens = sum(one.used.prompt_tokens + one.used.completion_tokens for one in found)
    return Spending(
        data=[
            Used(
                calls=one.used.calls,
                prompt_tokens=one.used.prompt_tokens,
                completion_tokens=one.used.completion_tokens,
                total_tokens=one.used.total_tokens,
                cost=_number(one.cost.amount),
                unpriced_tokens=one.cost.unpriced_tokens,
                day=one.used.day,
                model=one.used.model,
                user_id=one.used.user_id,
            )
            for one in found
        ],
        cost=_number(whole.amount),
        unpriced_tokens=whole.unpriced_tokens,
        unpriced_share=round(whole.unpriced_tokens / tokens, 4) if tokens else 0.0,
    )


def _number(amount: Decimal | None) -> float | None:
    """For JSON: the nearest, which reads the same for 15 digits."""
    return None if amount is None else float(amount)


router = Router("/usage", route_handlers=[show], tags=["usage"])
