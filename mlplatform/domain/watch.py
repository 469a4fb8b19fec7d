"""A slice of live observations, what was seen in it, and what follows: KEEP, ALERT, RETRAIN or ROLLBACK."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from mlplatform.domain.verdict import Measurement


class Action(StrEnum):
    KEEP = "KEEP"
    ALERT = "ALERT"
    RETRAIN = "RETRAIN"
    ROLLBACK = "ROLLBACK"


class State(StrEnum):
    """What a metric says of a window."""

    OK = "OK"
    ALARM = "ALARM"
    UNKNOWN = "UNKNOWN"
    """Not enough data to tell."""


LABELS, REFUSED = "labels", "refused"
"""The signal that labels were left out, and its detail: how many."""


@dataclass(frozen=True)
class Signal:
    """One metric's reading of one window."""

    metric: str
    state: State
    because: str
    retrain: bool = False
    """Whether an alarm of this metric may lead to a retraining: quality may, drift alone does not."""
    measurements: tuple[Measurement, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Window:
    """A closed slice of time of one endpoint, and the signals read from it."""

    model: str
    endpoint: str
    start: datetime
    end: datetime
    version: int
    """The version that answered most of its rows."""
    rows: int
    labelled: int
    signals: tuple[Signal, ...] = ()

    @property
    def refused(self) -> int:
        """Labels of its rows that were left out, because they do not fit."""
        return sum(int(s.details.get(REFUSED, 0)) for s in self.signals if s.metric == LABELS)

    @property
    def alarms(self) -> tuple[Signal, ...]:
        return tuple(s for s in self.signals if s.state is State.ALARM)


@dataclass(frozen=True)
class Decision:
    """What follows from the windows so far, with the reason kept."""

    action: Action
    because: str
    at: datetime


def decide(windows: Sequence[Window], triggered: Sequence[str]) -> Decision:
    """What the newest window asks for. `triggered`: the reasons of the triggers that fired.

    Pure; whether a retraining really starts is the governor's word.
    """
    newest = windows[-1]
    if triggered:
        return Decision(Action.RETRAIN, "; ".join(triggered), newest.end)
    if newest.alarms:
        return Decision(Action.ALERT, "; ".join(s.because for s in newest.alarms), newest.end)
    return Decision(Action.KEEP, _calm(newest), newest.end)


def sustained(windows: Sequence[Window], k: int, of: int) -> str:
    """The reason to retrain when `k` of the last `of` windows alarmed on something that may retrain; else "".

    Only windows of the newest window's version count, and only those of which something is known: a window
    whose labels have not come yet neither alarms nor calms.
    """
    version = windows[-1].version
    known = [w for w in windows if w.version == version and _judged(w)][-of:]
    alarmed = [w for w in known if _alarm(w)]
    if len(alarmed) < k or alarmed[-1] is not known[-1]:
        return ""
    return f"{len(alarmed)} of the last {len(known)} windows alarmed ({_alarm(alarmed[-1])})"


def _judged(window: Window) -> bool:
    return any(s.retrain and s.state is not State.UNKNOWN for s in window.signals)


def _alarm(window: Window) -> str:
    return next((s.because for s in window.alarms if s.retrain), "")


def _calm(window: Window) -> str:
    unknown = [s.because for s in window.signals if s.state is State.UNKNOWN and s.metric != LABELS]
    told = [s.because for s in window.signals if s.metric == LABELS]
    calm = "not enough data: " + "; ".join(unknown) if unknown else "every metric within its limits"
    return "; ".join([calm, *told])
