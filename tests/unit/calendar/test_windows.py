"""Freeze windows: open from a firing on the wall's clock for a time that passes, across every kind of clock change."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.calendar import next_due, window_at
from mlplatform.domain.freeze import Freeze, Frozen

WEEKEND = Freeze("0 18 * * FRI", "62h", "Europe/Berlin")
BERLIN, LORD_HOWE = "Europe/Berlin", "Australia/Lord_Howe"


def at(text: str, zone: str = BERLIN, fold: int = 0) -> datetime:
    """A time on the wall, in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC)


def end(freezes: list[Freeze], now: datetime) -> str:
    """When the open window ends, on the wall; empty when none is open."""
    frozen = window_at(freezes, now)
    return f"{frozen.until:%a %Y-%m-%d %H:%M %Z}" if frozen and frozen.until else ""


def test_a_window_begins_with_its_firing_and_is_over_at_its_end() -> None:
    begin = at("2026-11-20 18:00")
    assert end([WEEKEND], begin - timedelta(seconds=1)) == ""
    assert end([WEEKEND], begin) == "Mon 2026-11-23 08:00 CET"
    assert (
        end([WEEKEND], begin + timedelta(hours=62) - timedelta(microseconds=1)) == "Mon 2026-11-23 08:00 CET"
    )
    assert end([WEEKEND], begin + timedelta(hours=62)) == ""


@pytest.mark.parametrize(
    ("friday", "until"),
    [
        ("2026-03-27 18:00", "Mon 2026-03-30 09:00 CEST"),  # the clock loses an hour on Sunday
        ("2026-10-23 18:00", "Mon 2026-10-26 07:00 CET"),  # and gains one
        ("2026-06-05 18:00", "Mon 2026-06-08 08:00 CEST"),
    ],
)
def test_a_clock_change_makes_a_window_neither_longer_nor_shorter(friday: str, until: str) -> None:
    begin = at(friday)
    assert end([WEEKEND], begin) == until
    assert end([WEEKEND], begin + timedelta(hours=61, minutes=59)) == until
    assert end([WEEKEND], begin + timedelta(hours=62)) == ""


def test_a_time_that_does_not_exist_begins_right_after_the_change() -> None:
    nightly = Freeze("30 2 * * *", "1h", BERLIN)
    change = datetime(2026, 3, 29, 1, 0, tzinfo=UTC)  # 2:00 becomes 3:00
    assert end([nightly], change - timedelta(seconds=1)) == ""
    assert end([nightly], change) == "Sun 2026-03-29 04:00 CEST"
    assert end([nightly], change + timedelta(hours=1)) == ""


def test_a_time_that_comes_twice_begins_the_first_time_only() -> None:
    nightly = Freeze("30 2 * * *", "20m", BERLIN)
    first, second = at("2026-10-25 02:30"), at("2026-10-25 02:30", fold=1)
    assert second - first == timedelta(hours=1)
    assert end([nightly], first) == "Sun 2026-10-25 02:50 CEST"
    assert end([nightly], second) == ""
    assert (
        end([Freeze("30 2 * * *", "1h", BERLIN)], second - timedelta(seconds=1)) == "Sun 2026-10-25 02:30 CET"
    )


@pytest.mark.parametrize(
    ("cron", "inside", "until"),
    [
        ("15 2 * * *", "2026-10-04 02:30", "Sun 2026-10-04 03:30 +11"),  # 2:00 became 2:30: right after it
        ("45 1 * * *", "2026-04-05 01:45", "Sun 2026-04-05 02:15 +1030"),  # comes twice: the first time
        ("0 18 * * *", "2026-04-05 18:00", "Sun 2026-04-05 19:00 +1030"),
    ],
)
def test_where_clocks_change_by_half_an_hour(cron: str, inside: str, until: str) -> None:
    freeze = Freeze(cron, "1h", LORD_HOWE)
    assert end([freeze], at(inside, LORD_HOWE)) == until
    assert end([freeze], at(inside, LORD_HOWE) - timedelta(seconds=1)) == ""


def test_star_hours_miss_a_firing_where_clocks_change_by_half_an_hour() -> None:
    """What the calendar says of itself: known, and harmless for windows longer than the gap."""
    hourly = Freeze("30 * * * *", "5m", LORD_HOWE)
    change = datetime(2026, 4, 4, 15, 0, tzinfo=UTC)  # 2:00 becomes 1:30
    firings, moment = [], change - timedelta(hours=1)
    while (moment := next_due(hourly, moment)) <= change + timedelta(hours=2):
        firings.append(f"{moment.astimezone(ZoneInfo(LORD_HOWE)):%H:%M %z}")
    assert firings == ["01:30 +1100", "02:30 +1030", "03:30 +1030"]
    longer = Freeze("30 * * * *", "100m", LORD_HOWE)
    assert all(window_at([longer], change + timedelta(minutes=m)) for m in range(0, 180, 10))


def test_windows_that_overlap_or_touch_are_one() -> None:
    month_end = Freeze("0 0 23 * *", "24h", BERLIN)
    touching = Freeze("0 0 24 11 *", "1h", BERLIN)
    now = at("2026-11-21 12:00")
    assert end([WEEKEND], now) == "Mon 2026-11-23 08:00 CET"
    assert end([month_end], now) == ""
    assert end([WEEKEND, month_end], now) == "Tue 2026-11-24 00:00 CET"
    frozen = window_at([WEEKEND, month_end, touching], now)
    assert frozen is not None and frozen.freeze == touching
    assert f"{frozen.until:%d %H:%M}" == "24 01:00"


def test_the_end_is_told_in_the_zone_of_the_freeze_that_ends_last() -> None:
    tokyo = Freeze("0 9 23 11 *", "48h", "Asia/Tokyo")
    assert end([WEEKEND, tokyo], at("2026-11-23 07:00")) == "Wed 2026-11-25 09:00 JST"


def test_windows_without_a_gap_have_no_end_in_sight() -> None:
    always = Freeze("0 0 * * *", "24h", BERLIN)
    frozen = window_at([always], at("2026-11-23 07:00"))
    assert frozen == Frozen(always, None)
    assert str(frozen) == "frozen with no end in sight (0 0 * * *, Europe/Berlin, for 24h)"


def test_no_freeze_is_no_window() -> None:
    assert window_at([], at("2026-11-23 07:00")) is None


@given(
    minutes=st.integers(0, 366 * 24 * 60),
    cron=st.sampled_from(["0 18 * * FRI", "30 2 * * *", "15 2 * * SUN", "0 0 1 * *", "45 1 * * *"]),
    lasts=st.sampled_from(["30m", "1h", "62h", "8d"]),
    zone=st.sampled_from([BERLIN, LORD_HOWE, "America/New_York", "UTC"]),
)
def test_a_window_is_open_exactly_when_a_firing_is_less_than_its_length_ago(
    minutes: int, cron: str, lasts: str, zone: str
) -> None:
    """Against walking forward from long before."""
    freeze, now = Freeze(cron, lasts, zone), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    length = {"30m": 30, "1h": 60, "62h": 3720, "8d": 11520}[lasts]
    due, open_now = now - timedelta(days=9), False
    while (due := next_due(freeze, due)) <= now:
        open_now = open_now or now < due + timedelta(minutes=length)
    assert (window_at([freeze], now) is not None) == open_now
