"""Freeze windows: times in which no version enters a stage unless somebody breaks the glass."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from mlplatform.domain.duration import duration


@dataclass(frozen=True)
class Freeze:
    cron: str
    """When a window begins: minute, hour, day of month, month, day of week, on the clock of `timezone`."""
    for_: str
    """How long it lasts, as time that passes: a clock change in between makes it neither longer nor shorter."""
    timezone: str = "UTC"
    """Name in the time zone database."""

    def __post_init__(self) -> None:
        if not timedelta(0) < duration(self.for_) <= timedelta(days=366):
            raise ValueError(f"{self.for_!r} must be longer than nothing and at most 366d")


@dataclass(frozen=True)
class Frozen:
    """A window that is open now."""

    freeze: Freeze
    """The one that ends last, where several overlap."""
    until: datetime | None
    """Its end in the freeze's own zone; None when window follows window without an end in sight."""

    def __str__(self) -> str:
        end = f"until {self.until:%a %Y-%m-%d %H:%M %Z}" if self.until else "with no end in sight"
        return f"frozen {end} ({self.freeze.cron}, {self.freeze.timezone}, for {self.freeze.for_})"
