"""Query parameters: those that several routes share, and the refusal of unknown ones."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Annotated

from litestar import Request
from litestar.handlers import BaseRouteHandler
from litestar.params import QueryParameter

from bichat.errors import Invalid

BIGGEST = 2**53 - 1
"""The largest whole number that every JSON reader holds exactly."""

Limit = Annotated[int, QueryParameter(ge=1, le=100, description="How many at most.")]
Cursor = Annotated[str | None, QueryParameter(max_length=512, description="`next` of the page before.")]
MinVersion = Annotated[
    int | None,
    QueryParameter(
        ge=1, le=BIGGEST, description="Waits up to 5 s until the dialogue is read at this version."
    ),
]
MinPosition = Annotated[
    int | None,
    QueryParameter(
        ge=0,
        le=BIGGEST,
        schema_extra={"minimum": 0},  # litestar forgets a zero
        description="Waits up to 5 s until what a command did here is read.",
    ),
]


@cache
def query_names(handler: BaseRouteHandler) -> dict[str, str]:
    """The query parameters of a route: from the argument's name to the one that clients know."""
    return {
        name: field.kwarg_definition.name or name
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.kwarg_definition, QueryParameter)
    }


def refuse_unknown(request: Request) -> None:  # type: ignore[type-arg]
    """A mistyped parameter that is silently ignored is worse than a refusal."""
    if request.scope["query_string"]:
        known = query_names(request.route_handler).values()
        for name in request.query_params:
            if name not in known:
                raise Invalid(field=name[:100], reason="is not a parameter here")


def day(field: str, text: str | None, default: date, *, up: bool = False) -> date:
    """A date, or the day in UTC of an RFC 3339 time; `up`: the day after, if that day has begun."""
    if text is None:
        return default
    try:
        if len(text) == 10:
            return date.fromisoformat(text)
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ValueError(text)
        utc = time.replace(tzinfo=None) - (time.utcoffset() or timedelta())
        begun = up and utc.time() != utc.min.time()
        return utc.date() + timedelta(days=begun)
    except (ValueError, OverflowError):
        raise Invalid(field=field, reason="must be a date or an RFC 3339 time with an offset") from None


def instant(field: str, text: str | None) -> datetime | None:
    """An RFC 3339 time, exact, in UTC."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
        if time.tzinfo is None:
            raise ValueError(text)
        return time.astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(field=field, reason="must be an RFC 3339 time with an offset") from None
