"""Bringing a version into service and taking it back: phases, and the next step as a pure function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mlplatform.domain.duration import duration
from mlplatform.domain.rollout_plan import Probation
from mlplatform.domain.steps import Bake
from mlplatform.domain.verdict import Finding, Verdict, worst


class Phase(StrEnum):
    """As an operator would say them, in the order in which they happen."""

    OPENED = "opened"
    """Intended; the server has been told to load the version, no request reaches it."""
    SHIFTED = "shifted"
    """Requests reach it, or it is asked beside the live version (shadow); the stage has not changed yet."""
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
class ProbationFacts:
    """What is known of a version on probation."""

    requests: int = 0
    failed: int = 0
    labelled: int = 0
    breach: str = ""
    """Why a sequential test says that a limit is broken; empty while none does."""
    not_judged: str = ""
    """What is left out, and why."""


class Step(StrEnum):
    WAIT = "wait"
    PAUSE = "pause"
    """The step has baked, and nobody can tell yet."""
    ADVANCE = "advance"
    COMPLETE = "complete"
    """All requests next; the stage changes hands."""
    CLOSE = "close"
    """Probation ends."""
    TAKE_BACK = "take_back"


@dataclass(frozen=True)
class Next:
    step: Step
    because: str


@dataclass(frozen=True)
class Baking:
    """Where a rollout stands among its steps."""

    steps: tuple[Bake, ...]
    at: int
    """The step that is in effect, from 0."""
    since: datetime

    @property
    def step(self) -> Bake:
        return self.steps[self.at]

    @property
    def ahead(self) -> Bake:
        return self.steps[self.at + 1]

    @property
    def until(self) -> datetime:
        return self.since + self.step.lasts

    def __str__(self) -> str:
        return f"{self.step}, step {self.at + 1} of {len(self.steps)}"


def next_step(baking: Baking, findings: Sequence[Finding], now: datetime) -> Next:
    """What a rollout between its first and its last step does now, by what its judges found."""
    verdict = worst(findings)
    said = "; ".join(f"{f.gate}: {f.because}" for f in findings if f.verdict is verdict)
    if verdict is Verdict.FAIL:
        return Next(Step.TAKE_BACK, said)
    if now < baking.until:
        return Next(Step.WAIT, f"{baking.step} until {baking.until:%Y-%m-%d %H:%M:%S}, then {baking.ahead}")
    if verdict is not Verdict.PASS:
        word = "waits" if verdict is Verdict.INCONCLUSIVE else "cannot be judged"
        return Next(Step.PAUSE, f"{baking.step} {word}: {said}")
    return Next(Step.COMPLETE if baking.ahead.is_all else Step.ADVANCE, said)


def next_in_probation(rollout: Rollout, limits: Probation, facts: ProbationFacts, now: datetime) -> Next:
    """Close probation, take the version back, or wait for more."""
    if facts.breach:
        return Next(Step.TAKE_BACK, facts.breach)
    but = f"; {facts.not_judged}" if facts.not_judged else ""
    if facts.labelled >= limits.or_labels:
        return Next(Step.CLOSE, f"{facts.labelled} labelled rows within the limits{but}")
    since = rollout.probation_since or rollout.opened_at
    if now - since >= duration(limits.lasts):
        return Next(Step.CLOSE, f"{limits.lasts} within the limits, {facts.labelled} labelled rows{but}")
    waits = f"{facts.labelled} of {limits.or_labels} labelled rows, until {limits.lasts} have passed"
    return Next(Step.WAIT, f"{waits}{but}")
