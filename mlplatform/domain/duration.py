"""Durations as people write them in a policy: `30s`, `10m`, `24h`, `14d`, `4w`."""

from __future__ import annotations

import re
from datetime import timedelta

LONGEST = timedelta(days=36525)
"""A moment less a duration stays in the calendar."""
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}


def duration(text: str) -> timedelta:
    """Parse a duration; ValueError says what would be right.

    >>> duration("90m")
    datetime.timedelta(seconds=5400)
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)", text)
    if not match:
        raise ValueError(f"{text!r} is not a duration; write for example 30s, 10m, 24h, 14d")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{text!r} is longer than 100 years")
    return timedelta(seconds=seconds)


def rough(span: timedelta) -> str:
    """A duration for people, to the two largest units.

    >>> rough(timedelta(seconds=85499.7))
    '23h 45m'
    >>> rough(timedelta(seconds=12))
    '12s'
    """
    minutes = round(span.total_seconds() / 60)
    if minutes < 1:
        return f"{round(span.total_seconds())}s"
    days, hours = minutes // 1440, minutes // 60 % 24
    parts = [(days, "d"), (hours, "h"), (minutes % 60 if not days else 0, "m")]
    return " ".join(f"{count}{unit}" for count, unit in parts if count)
