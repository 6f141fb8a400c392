"""The quiet hours: over midnight, in any zone, whatever the clock does in spring and autumn."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo, available_timezones

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from bichat.config import Config, environment, load
from bichat.config.off_peak import NIGHT, OffPeak, off_peak
from bichat.errors.unusable import WrongSetting

BERLIN = ZoneInfo("Europe/Berlin")
times = some.builds(time, some.integers(0, 23), some.integers(0, 59))
zones = some.sampled_from(sorted(available_timezones()))
moments = some.datetimes(datetime(2000, 1, 1), datetime(2037, 12, 30), timezones=some.just(UTC))


def at(text: str, zone: ZoneInfo = BERLIN) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=zone).astimezone(UTC)


def steady(now: datetime, zone: str) -> bool:
    """Whether no clock of that zone changes within two days of `now`."""
    hours = (now + timedelta(hours=n) for n in range(-48, 49))
    return len({hour.astimezone(ZoneInfo(zone)).utcoffset() for hour in hours}) == 1


@given(times, times, zones, moments)
@settings(max_examples=300, deadline=None)
def test_where_no_clock_changes_the_window_is_what_the_clock_shows(
    begins: time, ends: time, zone: str, now: datetime
) -> None:
    window = OffPeak(begins, ends, zone)
    if not steady(now, zone):
        return
    shown = now.astimezone(ZoneInfo(zone)).time()
    after, before = shown >= begins, shown < ends
    told = begins == ends or (after and before if begins < ends else after or before)
    assert window.open_at(now) == told


@given(times, times, zones, moments)
@settings(max_examples=300, deadline=None)
def test_the_next_opening_is_the_first_moment_that_is_open(
    begins: time, ends: time, zone: str, now: datetime
) -> None:
    window = OffPeak(begins, ends, zone)
    opens = window.next_open(now)
    assert window.open_at(opens)
    assert now <= opens <= now + timedelta(hours=50)
    if opens > now:
        minutes = int((opens - now) / timedelta(minutes=1))
        between = [now + timedelta(minutes=n) for n in range(0, minutes, 7)]
        assert not any(map(window.open_at, [*between, opens - timedelta(microseconds=1)]))


@given(times, times, zones)
def test_what_is_written_is_what_is_read(begins: time, ends: time, zone: str) -> None:
    window = OffPeak(begins, ends, zone)
    assert off_peak("X", str(window)) == window
    assert load(environment(Config(bichat_off_peak=window), {})).bichat_off_peak == window


def test_over_midnight() -> None:
    assert not NIGHT.open_at(at("2026-11-22 21:59:59.999999", ZoneInfo("UTC")))
    assert NIGHT.open_at(at("2026-11-22 22:00", ZoneInfo("UTC")))
    assert NIGHT.open_at(at("2026-11-23 05:59:59", ZoneInfo("UTC")))
    assert not NIGHT.open_at(at("2026-11-23 06:00", ZoneInfo("UTC")))
    assert NIGHT.next_open(at("2026-11-23 06:00", ZoneInfo("UTC"))) == at("2026-11-23 22:00", ZoneInfo("UTC"))


def test_a_night_is_as_long_as_its_clock_makes_it() -> None:
    """The clock skips an hour on 2026-03-29 and shows one twice on 2026-10-25."""
    window = off_peak("X", "22:00-06:00 Europe/Berlin")
    for evening, hours in (("2026-03-27", 8), ("2026-03-28", 7), ("2026-10-24", 9), ("2026-10-25", 8)):
        opens = at(f"{evening} 22:00")
        assert window.next_open(opens - timedelta(hours=3)) == opens
        assert window.open_at(opens + timedelta(hours=hours, microseconds=-1))
        assert not window.open_at(opens + timedelta(hours=hours))


def test_an_hour_that_the_clock_skips_has_no_window_and_one_it_shows_twice_has_one() -> None:
    window = off_peak("X", "02:00-03:00 Europe/Berlin")
    assert window.next_open(at("2026-03-28 12:00")) == at("2026-03-30 02:00")
    assert window.next_open(at("2026-10-24 12:00")) == at("2026-10-25 02:00")
    assert window.open_at(at("2026-10-25 02:00") + timedelta(minutes=119))  # until it shows 3:00
    window = off_peak("X", "01:00-02:30 Europe/Berlin")
    assert not window.open_at(at("2026-10-25 02:00") + timedelta(minutes=60))  # 2:00 again, but 2:30 was


def test_equal_ends_are_always() -> None:
    window = off_peak("X", "00:00-00:00")
    assert window.open_at(at("2026-11-22 12:00"))
    assert window.next_open(at("2026-11-22 12:00")) == at("2026-11-22 12:00")


@pytest.mark.parametrize("text", ["night", "22:00", "24:00-06:00", "22:60-06:00", "2:00-6:00", "٢٢:00-06:00",
                                  "22:00-06:00 Europe/Berlin now", "22:00–06:00"])  # fmt: skip  # noqa: RUF001
def test_what_is_no_window_is_refused_by_name(text: str) -> None:
    with pytest.raises(WrongSetting, match=r"^BICHAT_OFF_PEAK: must be a window as 22:00-06:00 or "):
        load({"BICHAT_OFF_PEAK": text})


@pytest.mark.parametrize("zone", ["Mars/Base", "Europe", "../../etc/passwd", "/etc/passwd", "europe\0"])
def test_an_unknown_zone_is_refused_by_name(zone: str) -> None:
    with pytest.raises(WrongSetting, match=r"^BICHAT_OFF_PEAK: names a time zone that is not known here$"):
        load({"BICHAT_OFF_PEAK": f"22:00-06:00 {zone}"})
