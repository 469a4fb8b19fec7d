"""Two versions on the same rows: which evaluations can be compared, and by how much one is better than the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mlplatform.domain.bundle import Task
from mlplatform.domain.policy import Policy
from mlplatform.domain.verdict import Evaluation, Measurement
from mlplatform.domain.version import Version
from mlplatform.errors import MlplatformError
from mlplatform.flows.evaluate import load_answers
from mlplatform.flows.world import World
from mlplatform.stats.batch import Array
from mlplatform.stats.compare import paired
from mlplatform.stats.estimate import interval
from mlplatform.stats.labels import Answers, in_class_order
from mlplatform.stats.metrics import METRICS

ONE_SIDED = 0.975
"""Of each bound of a difference, so that both make a 95 % interval, like that of a single value."""


@dataclass(frozen=True)
class Answered:
    """One version's saved answers to the rows of one evaluation."""

    evaluation: Evaluation
    task: Task
    answers: Answers
    truth: Array

    @property
    def seed(self) -> int:
        return int(self.evaluation.data_digest[:8], 16)


@dataclass(frozen=True)
class Gap:
    """First less second, in the metric's own unit, with a 95 % interval."""

    measurement: Measurement
    said: str
    """`better`, `worse`, `cannot tell`."""


def on_same_rows(world: World, first: Version, second: Version) -> tuple[Evaluation, Evaluation] | None:
    """The newest evaluations of two versions on the same rows; None when there are none."""
    others = {e.data_digest: e for e in world.evaluations.history(second.digest)}
    for own in reversed(world.evaluations.history(first.digest)):
        if own.data_digest in others:
            return own, others[own.data_digest]
    return None


def answered(world: World, version: Version, evaluation: Evaluation | None) -> Answered | None:
    """The saved answers; None where there are none any more, they were changed, or the bytes were freed."""
    if evaluation is None:
        return None
    try:
        task = world.bundles.manifest(version.digest).task
        loaded = load_answers(evaluation)
        return Answered(evaluation, task, *loaded) if loaded else None
    except (MlplatformError, OSError, ValueError):
        return None


def metrics_of(policy: Policy | None, evaluations: Sequence[Evaluation | None]) -> list[str]:
    """Metrics that were measured, and those that a gate of the policy names."""
    measured = [m.name for e in evaluations if e for m in e.measurements]
    stages = policy.stages.values() if policy else ()
    asked = [str(gate.options.get("name", "")) for stage in stages for gate in stage.gates]
    return list(dict.fromkeys([*measured, *(name for name in asked if name in METRICS)]))


def fits(metric: str, task: Task) -> bool:
    """Whether a metric has a meaning for the task."""
    return (METRICS[metric].needs == "values") == (task.kind == "regression")


def value_of(evaluation: Evaluation | None, given: Answered | None, metric: str) -> Measurement | None:
    """A metric of an evaluation, from its saved answers where it was not asked for then; None when neither tells."""
    measured = evaluation.measurements if evaluation else ()
    if known := next((m for m in measured if m.name == metric), None):
        return known
    if given is None or not fits(metric, given.task):
        return None
    classes = list(given.task.classes) or None
    try:
        found = interval(metric, given.truth, given.answers, classes=classes, seed=given.seed)
    except (MlplatformError, ValueError, TypeError):  # no probabilities, classes that do not match
        return None
    return _finite(metric, found.value, found.low, found.high, found.n)


def gap(first: Answered | None, second: Answered | None, metric: str) -> Gap | None:
    """The paired difference of a metric over the same rows; None when the saved answers cannot tell."""
    if first is None or second is None or not fits(metric, first.task) or not fits(metric, second.task):
        return None
    if first.evaluation.data_digest != second.evaluation.data_digest:
        return None
    classes = first.task.classes
    other = in_class_order(second.answers, second.task.classes, classes)
    try:
        found = paired(
            metric,
            first.truth,
            other,
            first.answers,
            confidence=ONE_SIDED,
            classes=list(classes) or None,
            seed=first.seed,
        )
    except (MlplatformError, ValueError, TypeError):
        return None
    sign = 1 if METRICS[metric].higher_is_better else -1  # `paired` says how much better
    low, high = sorted((sign * found.low, sign * found.high))
    measurement = _finite(metric, sign * found.estimate, low, high, found.n)
    said = "better" if found.low > 0 else "worse" if found.high < 0 else "cannot tell"
    return Gap(measurement, said) if measurement else None


def _finite(name: str, number: float, low: float, high: float, n: int) -> Measurement | None:
    if not math.isfinite(number):
        return None
    bounds = [float(bound) if math.isfinite(bound) else None for bound in (low, high)]
    return Measurement(name, float(number), bounds[0], bounds[1], int(n))
