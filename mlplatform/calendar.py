"""The calendar: when cron expressions fire in a time zone, and which freeze windows are open.

As Debian's cron reads them across clock changes: a fixed hour that a clock change skips fires right after the change,
one that it repeats fires once, the first time; `*` and `*/n` hours follow the real time. Six fields mean that the first
one is seconds. Where clocks change by half an hour (Lord Howe) fixed times are just as exact; `*` hours may miss one
firing in the night of the change.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from cronsim import CronSim, CronSimError

from mlplatform.domain.duration import duration
from mlplatform.domain.freeze import Freeze, Frozen
from mlplatform.errors import UnknownName, UsageError, nearest

_HINT = "Write minute, hour, day of month, month, day of week: `0 3 * * MON` is every Monday at 3:00."
_MOST_WINDOWS = 200
"""So many windows that follow each other without a gap have no end in sight."""


class Recurring(Protocol):
    """A schedule, a freeze."""

    @property
    def cron(self) -> str: ...
    @property
    def timezone(self) -> str: ...


def check_cron(cron: str, timezone: str = "UTC") -> None:
    """Raises UsageError, or UnknownName for the time zone, when the two never name a time."""
    zone = find_zone(timezone)
    if next(_firings(cron, datetime(2026, 1, 1, tzinfo=UTC), zone), None) is None:
        raise UsageError(_HINT, what=f"the schedule {cron!r} is never due")


def find_zone(name: str) -> ZoneInfo:
    """Raises UnknownName with the nearest name."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):  # a folder of the database is an OSError
        raise UnknownName("time zone", name, available_timezones(), hint=_nearest_zone(name)) from None


def next_due(item: Recurring, after: datetime) -> datetime:
    """The first firing after `after`, in UTC."""
    firings = _firings(item.cron, after, find_zone(item.timezone))
    return next(due for due in firings if due > after)


def newest_due(item: Recurring, after: datetime, until: datetime) -> datetime | None:
    """The last firing in (after, until], in UTC: of several missed firings only the newest one counts."""
    start = until + timedelta(seconds=1)
    backwards = _firings(item.cron, start, find_zone(item.timezone), reverse=True)
    newest = next((due for due in backwards if due <= until), None)
    if newest is None:
        return None
    # Within a repeated hour the way back overlooks the hour's first pass; from there the way forward is exact.
    while (later := next_due(item, newest)) <= until:
        newest = later
    return newest if newest > after else None


def window_at(freezes: Sequence[Freeze], now: datetime) -> Frozen | None:
    """The freeze window that is open at this moment; windows that overlap or touch are one."""
    last, end = None, now
    for _ in range(_MOST_WINDOWS):
        ends = ((_end(freeze, end), freeze) for freeze in freezes)
        later = max(
            ((at, freeze) for at, freeze in ends if at > end), key=lambda found: found[0], default=None
        )
        if later is None:
            return Frozen(last, end.astimezone(find_zone(last.timezone))) if last else None
        end, last = later
    return Frozen(last, None) if last else None


def _end(freeze: Freeze, moment: datetime) -> datetime:
    """The end of the freeze's window that is open at the moment; the moment itself when none is."""
    lasts = duration(freeze.for_)
    began = newest_due(freeze, moment - lasts, moment)
    return began + lasts if began else moment


def _firings(cron: str, start: datetime, zone: ZoneInfo, reverse: bool = False) -> Iterator[datetime]:
    try:
        times = CronSim(cron, start.astimezone(zone), reverse=reverse)
    except CronSimError as error:
        raise UsageError(_HINT, what=f"{cron!r} is not a schedule: {str(error).lower()}") from error
    return (time.astimezone(UTC) for time in times)


def _nearest_zone(name: str) -> str:
    close = nearest(name, available_timezones())
    return close if close.startswith("Did") else "Write for example UTC or Europe/Berlin."
