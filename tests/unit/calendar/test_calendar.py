from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.calendar import check_cron, newest_due, next_due
from mlplatform.errors import UnknownName, UsageError
from mlplatform.ports.state import Schedule

SPRING, AUTUMN = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)
"""Days on which Berlin's clocks change, at 1:00 UTC."""


def schedule(cron: str, timezone: str = "Europe/Berlin") -> Schedule:
    return Schedule("nightly", "monitor", "churn", cron, timezone, datetime(2026, 1, 1, tzinfo=UTC))


def due_between(cron: str, start: datetime, end: datetime) -> list[str]:
    found, at = [], start
    while (at := next_due(schedule(cron), at)) <= end:
        found.append(f"{at:%H:%M}")
    return found


def test_a_fixed_hour_keeps_to_the_clock_on_the_wall() -> None:
    assert due_between("0 3 * * *", SPRING - timedelta(days=1), SPRING + timedelta(days=1)) == [
        "02:00",
        "01:00",
    ]


def test_a_skipped_hour_fires_right_after_the_change() -> None:
    assert due_between("30 2 * * *", SPRING, SPRING + timedelta(hours=20)) == ["01:00"]


def test_a_repeated_hour_fires_once() -> None:
    assert due_between("30 2 * * *", AUTUMN, AUTUMN + timedelta(hours=20)) == ["00:30"]


def test_intervals_follow_the_real_time() -> None:
    twice_an_hour = due_between("*/30 * * * *", AUTUMN, AUTUMN + timedelta(hours=3))
    assert twice_an_hour == ["00:30", "01:00", "01:30", "02:00", "02:30", "03:00"]


def test_of_several_missed_firings_the_newest_counts() -> None:
    now = datetime(2026, 6, 1, 12, 20, tzinfo=UTC)
    hourly = schedule("0 * * * *")
    assert newest_due(hourly, now - timedelta(days=3), now) == datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
    assert newest_due(hourly, datetime(2026, 6, 1, 12, 0, tzinfo=UTC), now) is None


@given(
    cron=st.sampled_from(["30 2 * * *", "*/20 * * * *", "0 1,2,3 * * *", "30 1-3 * * *", "0 2 * * SUN"]),
    timezone=st.sampled_from(["Europe/Berlin", "America/New_York", "UTC", "Asia/Kolkata"]),
    day=st.sampled_from(
        [SPRING, AUTUMN, datetime(2026, 3, 8, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)]
    ),
    minutes=st.integers(0, 1200),
)
def test_looking_back_finds_what_looking_forward_found(
    cron: str, timezone: str, day: datetime, minutes: int
) -> None:
    one, start, now = schedule(cron, timezone), day - timedelta(hours=30), day + timedelta(minutes=minutes)
    latest, at = None, start
    while (at := next_due(one, at)) <= now:
        latest = at
    assert newest_due(one, start, now) == latest


@pytest.mark.parametrize("cron", ["61 * * * *", "* * *", "x * * * *", "0 0 30 2 *", ""])
def test_a_bad_expression_is_refused_with_an_example(cron: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_cron(cron, "UTC")
    assert "0 3 * * MON" in caught.value.next_step


def test_an_unknown_time_zone_names_the_nearest() -> None:
    with pytest.raises(UnknownName) as caught:
        check_cron("0 3 * * *", "Europe/Berln")
    assert caught.value.next_step == "Did you mean 'Europe/Berlin'?"


def test_good_schedules_are_accepted() -> None:
    check_cron("0 3 * * MON", "Europe/Berlin")
    check_cron("*/2 * * * * *", "UTC")
