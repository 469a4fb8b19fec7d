"""Probation: what live traffic says of a version that has just gone live, by tests that may be read at any time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mlplatform.domain.bundle import Task
from mlplatform.domain.counts import Counts
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Next, ProbationFacts, Rollout, next_in_probation
from mlplatform.domain.rollout_plan import Probation
from mlplatform.domain.truth import said_of
from mlplatform.domain.version import Version
from mlplatform.flows.counted import Seen, incumbent_before, shifts, since
from mlplatform.flows.world import World
from mlplatform.ports.data import Observed
from mlplatform.stats.batch import Array
from mlplatform.stats.labels import to_labels
from mlplatform.stats.sequential import count_exceeds, worse_exceeds
from mlplatform.stats.typed import rows_with_values


def next_step(world: World, policy: Policy, rollout: Rollout) -> Next:
    """Close probation, take the version back, or wait for more."""
    facts = live_facts(world, policy, rollout)
    return next_in_probation(rollout, policy.stage(rollout.stage).probation, facts, world.clock.now())


TESTS = 3
"""Of failures, refusals and quality: each may spend so large a part of alpha."""


def counted_facts(world: World, policy: Policy, rollout: Rollout) -> ProbationFacts:
    """Failed and refused requests, as the server's counters have them: cheap enough to look every few seconds."""
    limits = policy.stage(rollout.stage).probation
    made = shifts(world, rollout)
    seen = since(world, rollout, made[-1]) if made else Seen()
    before = incumbent_before(made[-1]) if made else Counts()
    why = _failing(seen, limits) or _refusing(seen.counts, before, limits)
    unknown = "" if before.asked else "refusals are not judged: the version before was asked nothing"
    return ProbationFacts(seen.requests, seen.failed, 0, why, unknown)


def live_facts(world: World, policy: Policy, rollout: Rollout) -> ProbationFacts:
    """The same, and labelled rows on which the version before answers as well: the same rows, paired."""
    counted = counted_facts(world, policy, rollout)
    if counted.breach:
        return counted
    unknown = [counted.not_judged] if counted.not_judged else []
    observed = world.observations.read(
        rollout.endpoint, time=policy.data.time, labelled=True, model=rollout.model
    )
    mine = observed.take(observed.versions == rollout.version)
    why = _paired_breach(world, policy, rollout, mine) if mine.rows else ""
    if left_out := said_of(observed.refused.get(rollout.version, 0)):
        unknown.append(left_out)
    return replace(counted, labelled=mine.rows, breach=why, not_judged="; ".join(unknown))


def _failing(seen: Seen, limits: Probation) -> str:
    """Why it fails too many requests; empty while that is not sure."""
    if not count_exceeds(seen.failed, seen.requests, limits.error_rate, limits.alpha / TESTS).breached:
        return ""
    died = f", {seen.restarts} of them by the death of a worker" if seen.restarts else ""
    return f"{seen.failed} of {seen.requests} requests failed{died}, {limits.error_rate:.1%} allowed"


def _refusing(now: Counts, before: Counts, limits: Probation) -> str:
    """Why it refuses too many requests; empty while that is not sure. Nobody else is asked any more, so that it is
    compared with what the version before had refused, at most: one half of alpha is for that bound."""
    alpha = limits.alpha / TESTS / 2
    accepted = count_exceeds(
        before.requests, before.asked, 0.5, alpha
    ).low  # the bound, whatever the baseline
    allowed = 1 - accepted + limits.refusals
    if allowed >= 1 or not now.asked or not count_exceeds(now.refused, now.asked, allowed, alpha).breached:
        return ""
    return (
        f"{now.refused} of {now.asked} requests refused, {before.refused} of {before.asked} by the version before;"
        f" {limits.refusals:.1%} more allowed"
    )


def _paired_breach(world: World, policy: Policy, rollout: Rollout, mine: Observed) -> str:
    limits = policy.stage(rollout.stage).probation
    before = version_of(world, rollout.model, rollout.previous)
    version = version_of(world, rollout.model, rollout.version)
    if before is None or version is None:
        return ""
    mine = mine.take(rows_with_values(mine.columns, world.bundles.manifest(before.digest).inputs))
    outputs = world.evaluator.answer(world.bundles.path(before.digest), mine.columns)
    task = world.bundles.manifest(version.digest).task
    new = losses(task, mine.predictions, mine.truth)
    old = losses(world.bundles.manifest(before.digest).task, outputs.predictions, mine.truth)
    test = worse_exceeds(new, old, limits.quality_drop, limits.alpha / TESTS)
    if not test.breached:
        return ""
    measure = "error rate" if task.kind == "classification" else "mean absolute error"
    return (
        f"{measure} on {mine.rows} labelled rows: {version.ref} {new.mean():.3g}, {before.ref} would have had"
        f" {old.mean():.3g} (paired sequential test, alpha {limits.alpha / TESTS:.3g})"
    )


def losses(task: Task, predictions: Array, truth: Array) -> Array:
    """0 or 1 a row for classes, the absolute error for values."""
    answers = to_labels(predictions, task.output, task.classes or None)
    if task.kind == "regression":
        return np.asarray(np.abs(answers - truth.astype(float)))
    return np.asarray(answers.astype(str) != truth.astype(str), dtype=float)


def version_of(world: World, model: str, number: int | None) -> Version | None:
    return next((v for v in world.ledger.versions(model) if v.number == number), None)
