"""When *not* to retrain, with the reason kept: cooldown, budget, futility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mlplatform.domain.duration import duration, rough


@dataclass(frozen=True)
class Limits:
    cooldown: str = "24h"
    """Shortest time between two retrainings."""
    per_week: int = 3
    """Retrainings in any seven days."""
    stop_after_losses: int = 3
    """Stop after so many challengers in a row that did not go live."""

    def __post_init__(self) -> None:
        duration(self.cooldown)
        if self.per_week < 1 or self.stop_after_losses < 1:
            raise ValueError("per_week and stop_after_losses must be at least 1")


@dataclass(frozen=True)
class Retraining:
    """An earlier retraining: when, and whether its challenger went live (None: not decided yet)."""

    at: datetime
    went_live: bool | None


@dataclass(frozen=True)
class Permit:
    allowed: bool
    because: str


def may_retrain(history: Sequence[Retraining], limits: Limits, now: datetime, forced: bool = False) -> Permit:
    """Whether a retraining may start now.

    `history`: oldest first. `forced`: a person asked; then only single flight holds, by the lease.
    """
    if forced:
        return Permit(True, "asked for by a person")
    if history and now - history[-1].at < duration(limits.cooldown):
        left = duration(limits.cooldown) - (now - history[-1].at)
        return Permit(False, f"cooldown of {limits.cooldown}: {rough(left)} left")
    week = [r for r in history if now - r.at < timedelta(days=7)]
    if len(week) >= limits.per_week:
        return Permit(False, f"budget: {len(week)} of {limits.per_week} retrainings used in 7 days")
    if (lost := losses_in_a_row(history)) >= limits.stop_after_losses:
        return Permit(False, f"the last {lost} challengers did not go live; retrain by hand to try again")
    return Permit(True, "within cooldown, budget and losses")


def losses_in_a_row(history: Sequence[Retraining]) -> int:
    """Challengers at the end of the history that did not go live.

    >>> from datetime import datetime
    >>> day = datetime(2026, 1, 1)
    >>> losses_in_a_row([Retraining(day, True), Retraining(day, False), Retraining(day, False)])
    2
    """
    count = 0
    for retraining in reversed(history):
        if retraining.went_live is not False:
            break
        count += 1
    return count
