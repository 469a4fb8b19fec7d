"""Bringing a version into service and taking it back: phases, and the next step as a pure function."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mlplatform.domain.duration import duration
from mlplatform.domain.policy import Probation


class Phase(StrEnum):
    """As an operator would say them, in the order in which they happen."""

    OPENED = "opened"
    """Intended; the server has been told to load the version, no request reaches it."""
    SHIFTED = "shifted"
    """Requests reach it; the stage has not changed yet."""
    PROBATION = "probation"
    """It holds the stage; the version before is kept warm."""
    DONE = "done"
    FAILED = "failed"
    """It never took traffic, or was taken back."""


ACTIVE = (Phase.OPENED, Phase.SHIFTED, Phase.PROBATION)


@dataclass(frozen=True)
class Rollout:
    """One version's way into one endpoint. `fence` grows with every saved step."""

    id: str
    model: str
    version: int
    stage: str
    endpoint: str
    previous: int | None
    phase: Phase
    opened_at: datetime
    actor: str
    reason: str
    fence: int = 0
    probation_since: datetime | None = None
    because: str = ""

    def now_in(self, phase: Phase, because: str = "") -> Rollout:
        return replace(self, phase=phase, because=because or self.because)


@dataclass(frozen=True)
class LiveFacts:
    """What is known of a version on probation."""

    requests: int = 0
    failed: int = 0
    labelled: int = 0
    breach: str = ""
    """Why a sequential test says that a limit is broken; empty while none does."""


class Step(StrEnum):
    WAIT = "wait"
    CLOSE = "close"
    TAKE_BACK = "take_back"


@dataclass(frozen=True)
class Next:
    step: Step
    because: str


def next_in_probation(rollout: Rollout, limits: Probation, facts: LiveFacts, now: datetime) -> Next:
    """Close probation, take the version back, or wait for more."""
    if facts.breach:
        return Next(Step.TAKE_BACK, facts.breach)
    if facts.labelled >= limits.or_labels:
        return Next(Step.CLOSE, f"{facts.labelled} labelled rows within the limits")
    since = rollout.probation_since or rollout.opened_at
    if now - since >= duration(limits.lasts):
        return Next(Step.CLOSE, f"{limits.lasts} within the limits, {facts.labelled} labelled rows")
    return Next(
        Step.WAIT, f"{facts.labelled} of {limits.or_labels} labelled rows, until {limits.lasts} have passed"
    )
