"""When schedules are due: cron expressions in a time zone, as Debian's cron reads them across clock changes.

A fixed hour that a clock change skips fires right after the change, one that it repeats fires once; `*` and `*/n`
hours follow the real time. Six fields mean that the first one is seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from mlplatform.errors import UnknownName, UsageError, nearest
from mlplatform.ports.state import Schedule

_HINT = "Write minute, hour, day of month, month, day of week: `0 3 * * MON` is every Monday at 3:00."


def check_cron(cron: str, timezone: str) -> None:
    """Raises UsageError, or UnknownName for the time zone, when the two never name a time."""
    zone = _zone(timezone)
    if next(_firings(cron, datetime(2026, 1, 1, tzinfo=UTC), zone), None) is None:
        raise UsageError(_HINT, what=f"the schedule {cron!r} is never due")


def next_due(schedule: Schedule, after: datetime) -> datetime:
    """The first time after `after`, in UTC."""
    zone = _zone(schedule.timezone)
    return next(due for due in _firings(schedule.cron, after, zone) if due > after)


def newest_due(schedule: Schedule, after: datetime, until: datetime) -> datetime | None:
    """The last time in (after, until], in UTC: of several missed firings only the newest one counts."""
    backwards = _firings(schedule.cron, until + timedelta(seconds=1), _zone(schedule.timezone), reverse=True)
    newest = next((due for due in backwards if due <= until), None)
    if newest is None:
        return None
    # Within a repeated hour the way back overlooks the hour's first pass; from there the way forward is exact.
    while (later := next_due(schedule, newest)) <= until:
        newest = later
    return newest if newest > after else None


def _firings(cron: str, start: datetime, zone: ZoneInfo, reverse: bool = False) -> Iterator[datetime]:
    try:
        times = CronSim(cron, start.astimezone(zone), reverse=reverse)
    except CronSimError as error:
        raise UsageError(_HINT, what=f"{cron!r} is not a schedule: {str(error).lower()}") from error
    return (time.astimezone(UTC) for time in times)


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of the database is an OSError
        raise UnknownName("time zone", name, available_timezones(), hint=_nearest_zone(name)) from None


def _nearest_zone(name: str) -> str:
    close = nearest(name, available_timezones())
    return close if close.startswith("Did") else "Write for example UTC or Europe/Berlin."
