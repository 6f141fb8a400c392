"""Tokens spent: one's own, or with the role `ops` the whole tenant's."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from litestar import Router, get
from litestar.params import QueryParameter
from msgspec import Struct

from bichat.api import reading
from bichat.api.call import Call
from bichat.api.parameters import MinPosition, day
from bichat.projections import usage

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
    """Tokens of some calls to the model; `day`, `model` and `user_id` when split by them."""

    calls: int
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    day: date | None = None
    model: str | None = None
    user_id: str | None = None


class Spending(Struct, frozen=True, kw_only=True):
    """What was spent; `cost` is null where no prices are known."""

    data: list[Used]
    cost: float | None = None


@get("/", opt={"roles": ("user", "ops")})
async def show(
    request: Call, since: Time = None, until: Time = None, by: By = "", min_position: MinPosition = None
) -> Spending:
    """Tokens spent from `since` on and before `until`; failed and cancelled calls count too."""
    first, end = day("since", since, date.min), day("until", until, date.max, up=True)
    await reading.reached(request, "usage", min_position)
    who = request.user
    user_id = None if "ops" in who.roles else who.id
    split = [name for name in ("day", "model", "user") if name in by.split(",")]
    async with request.parts.reads.tenant(who.tenant_id) as connection:
        found = await usage.usage(connection, who.tenant_id, user_id, since=first, until=end, by=split)
    return Spending(
        data=[Used(**{name: getattr(used, name) for name in Used.__struct_fields__}) for used in found]
    )


router = Router("/usage", route_handlers=[show], tags=["usage"])
