"""The time, and telling a person how far a verb has come."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

Progress = Callable[[str], None]
"""Called with a line for a person; never part of a result."""


class Clock(Protocol):
    def now(self) -> datetime:
        """The time, in UTC."""
