"""The quiet hours: a window of each day in which questions that can wait are answered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from msgspec import Struct

from bichat.errors.unusable import WrongSetting

_TIME = r"([01]\d|2[0-3]):([0-5]\d)"
_WINDOW = re.compile(rf"{_TIME}\s*-\s*{_TIME}(?:\s+(\S+))?", re.ASCII)
_DAY = timedelta(days=1)


class OffPeak(Struct, frozen=True):
    """Each day from when the clock first shows `begins` until it next first shows `ends`; equal: always.

    A time that the clock skips in spring comes as much later as it skips, as Python has it.
    """

    begins: time
    ends: time
    zone: str = "UTC"

    def __str__(self) -> str:
        return f"{self.begins:%H:%M}-{self.ends:%H:%M} {self.zone}"

    def open_at(self, now: datetime) -> bool:
        """Whether these are the quiet hours."""
        return self.begins == self.ends or any(opens <= now < closes for opens, closes in self._around(now))

    def next_open(self, now: datetime) -> datetime:
        """When they begin, in UTC: `now` if they have, and are not over."""
        if self.open_at(now):
            return now.astimezone(UTC)
        return min(opens for opens, closes in self._around(now) if now < opens < closes)

    def _around(self, now: datetime) -> Iterator[tuple[datetime, datetime]]:
        """The windows of the days from yesterday on; one that a change of the clock swallows is empty."""
        today = now.astimezone(ZoneInfo(self.zone)).date()
        for day in (today + n * _DAY for n in range(-1, 3)):
            yield self._at(day, self.begins), self._at(day + (self.ends <= self.begins) * _DAY, self.ends)

    def _at(self, day: date, shown: time) -> datetime:
        # In UTC, for Python compares times of one zone by what the clock shows.
        return datetime.combine(day, shown, ZoneInfo(self.zone)).astimezone(UTC)


def off_peak(name: str, text: str) -> OffPeak:
    """A window as in `22:00-06:00`, in UTC unless a zone follows."""
    found = _WINDOW.fullmatch(text)
    if not found:
        raise WrongSetting(name=name, reason="must be a window as 22:00-06:00 or 22:00-06:00 Europe/Berlin")
    from_hour, from_minute, to_hour, to_minute, zone = found.groups()
    try:
        ZoneInfo(zone or "UTC")
    except (KeyError, ValueError, OSError):
        raise WrongSetting(name=name, reason="names a time zone that is not known here") from None
    begins, ends = time(int(from_hour), int(from_minute)), time(int(to_hour), int(to_minute))
    return OffPeak(begins, ends, zone or "UTC")


NIGHT = OffPeak(time(22), time(6))
"""Unless another window is set."""
