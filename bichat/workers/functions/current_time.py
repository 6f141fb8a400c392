"""What time it is, wherever somebody is."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Meta, Struct

from bichat.errors.functions import BadArguments
from bichat.workers.function import Context, function


class Where(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the time is asked for."""

    time_zone: Annotated[
        str, Meta(max_length=64, description="IANA name of a time zone, such as Europe/Berlin.")
    ] = "UTC"


class Time(Struct, frozen=True):
    """A moment, as clocks and calendars there show it."""

    time: datetime
    time_zone: str
    weekday: str
    week: int
    """ISO 8601's."""


@function()
async def current_time(context: Context, asked: Where) -> Time:
    """Tells the current date and time, with the day of the week and the ISO week, in a time zone."""
    try:
        zone = ZoneInfo(asked.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadArguments(reason=f"there is no time zone {asked.time_zone!r}") from None
    now = context.clock().astimezone(zone).replace(microsecond=0)
    return Time(now, asked.time_zone, now.strftime("%A"), now.isocalendar().week)
