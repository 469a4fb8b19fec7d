"""What is seen of a version while it is rolled out, and what its judges find: counters, answers, pairs, truths."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np

from mlplatform.domain.ledger import Entry
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Baking, Phase, Rollout
from mlplatform.domain.steps import Bake
from mlplatform.domain.use import Use
from mlplatform.domain.verdict import Finding, Verdict
from mlplatform.domain.version import Version
from mlplatform.errors import MlplatformError, Refused
from mlplatform.flows.counted import share_of, shifts, since, splits
from mlplatform.flows.intake import take_in
from mlplatform.flows.probation import losses, version_of
from mlplatform.flows.world import World
from mlplatform.ports.data import Observed
from mlplatform.ports.extensions import Evidence, Judge, LiveFacts
from mlplatform.stats.batch import Array
from mlplatform.stats.labels import to_labels
from mlplatform.stats.typed import rows_with_values

MOST_LABELS = 20_000
"""Labelled rows that both versions are asked for; the first ones, so that the tests' streams only grow."""


def baking(world: World, policy: Policy, rollout: Rollout) -> Baking | None:
    """Where a rollout stands among its steps; None before the first and once it has all requests.

    The ledger says which step is in effect; the policy, as it is now, how long it lasts and what is ahead.
    """
    made = shifts(world, rollout) if rollout.phase is Phase.SHIFTED else []
    if not made or share_of(made[-1]) == 1.0:
        return None
    share, planned = share_of(made[-1]), policy.stage(rollout.stage).rollout.bakes
    behind = [step for step in planned if step.share < share]
    here = next((step for step in planned if step.share == share), Bake(share))
    return Baking((*behind, here, *(s for s in planned if s.share > share)), len(behind), made[-1].at)


def running(world: World, policy: Policy, stage: str) -> tuple[Rollout, Baking] | None:
    """The stage's rollout that is between its first and its last step."""
    for rollout in world.deployments.active(policy.model):
        if rollout.stage == stage and (found := baking(world, policy, rollout)):
            return rollout, found
    return None


def demand_settled(world: World, policy: Policy, version: Version, word: str) -> None:
    """Raises Refused while a version is on its way into a stage."""
    for rollout in world.deployments.active(policy.model):
        if rollout.version == version.number and rollout.phase is not Phase.PROBATION:
            raise Refused(
                f"Take it back first: mlplatform rollback {policy.model} --stage {rollout.stage} --reason ...",
                what=f"{version.ref} cannot be {word}: it is being rolled out into {rollout.stage}",
            )


def findings(world: World, policy: Policy, rollout: Rollout, now_at: Baking) -> tuple[Finding, ...]:
    """What every judge of the policy says now; one that could not look is an ERROR."""
    plan = policy.stage(rollout.stage).rollout
    judges: list[tuple[Use, Judge]] = [(use, world.build("judge", use)) for use in plan.judge]
    needs = frozenset[Evidence]().union(*(judge.needs for _, judge in judges))
    try:
        facts = Gathering(world, policy, rollout, now_at).facts(needs, plan.alpha / max(1, len(judges)))
    except MlplatformError as error:
        return tuple(Finding(use.use, Verdict.ERROR, str(error)) for use, _ in judges)
    return tuple(_judged(use, judge, facts) for use, judge in judges)


def _judged(use: Use, judge: Judge, facts: LiveFacts) -> Finding:
    try:
        return judge.judge(facts)
    except (MlplatformError, ValueError) as error:
        return Finding(use.use, Verdict.ERROR, str(error))


@dataclass(frozen=True)
class Gathering:
    """Reads what the judges need, and no more."""

    world: World
    policy: Policy
    rollout: Rollout
    baking: Baking

    def facts(self, needs: frozenset[Evidence], alpha: float) -> LiveFacts:
        version, incumbent = self._version(self.rollout.version), self._version(self.rollout.previous)
        begun = shifts(self.world, self.rollout)[0]
        kind = self.world.bundles.manifest(version.digest).task.kind
        facts = self._counted(LiveFacts(version, incumbent, self.baking.step, alpha, kind=kind), begun)
        if not needs - {"counts"}:
            return facts
        take_in(self.world, self.policy, self.rollout.endpoint)
        if self.baking.step.is_shadow or needs & {"pairs", "labels"}:
            facts = self._paired(facts, begun.at)
        if "outputs" in needs:
            facts = self._answered(facts)
        return self._labelled(facts, begun.at) if "labels" in needs else facts

    def _version(self, number: int | None) -> Version:
        version = version_of(self.world, self.rollout.model, number)
        assert version is not None
        return version

    def _counted(self, facts: LiveFacts, begun: Entry) -> LiveFacts:
        seen = since(self.world, self.rollout, begun)
        return replace(
            facts,
            counts=seen.counts,
            incumbent_counts=seen.incumbent,
            splits=splits(self.world, self.rollout),
            grown_bytes=max(seen.grown_bytes, default=None),
            restarts=seen.restarts,
        )

    def _read(self, since: datetime, shadow: bool = False) -> Observed:
        return self.world.observations.read(
            self.rollout.endpoint, since, model=self.rollout.model, shadow=shadow
        )

    def _labels(self, version: Version, rows: Observed) -> Array:
        if not rows.rows:
            return np.empty(0)
        task = self.world.bundles.manifest(version.digest).task
        return to_labels(rows.predictions, task.output, task.classes or None)

    def _answered(self, facts: LiveFacts) -> LiveFacts:
        if self.baking.step.is_shadow:
            return replace(facts, outputs=facts.pairs, incumbent_outputs=facts.incumbent_pairs)
        rows = self._read(self.baking.since)
        mine, theirs = (self._labels(v, _of(rows, v)) for v in (facts.version, facts.incumbent))
        return replace(facts, outputs=mine, incumbent_outputs=theirs)

    def _paired(self, facts: LiveFacts, since: datetime) -> LiveFacts:
        new, old = self._both(facts, since)
        return replace(
            facts,
            pairs=self._labels(facts.version, new),
            incumbent_pairs=self._labels(facts.incumbent, old),
        )

    def _both(self, facts: LiveFacts, since: datetime) -> tuple[Observed, Observed]:
        """Rows that both answered, in one order."""
        new, old = _of(self._read(since, shadow=True), facts.version), _of(self._read(since), facts.incumbent)
        _, mine, theirs = np.intersect1d(
            new.ids.astype(str), old.ids.astype(str), assume_unique=True, return_indices=True
        )
        return new.take(mine), old.take(theirs)

    def _labelled(self, facts: LiveFacts, since: datetime) -> LiveFacts:
        """Rows of the shadow, then those that the version answered and the incumbent is asked for now."""
        new, old = self._both(facts, since)
        known = np.flatnonzero(new.labelled)
        parts = [self._losses(facts, new.take(known), old.take(known))] if len(known) else []
        read = self._read(since)
        facts = replace(facts, refused_labels=read.refused.get(facts.version.number, 0))
        rows = _of(read, facts.version)
        inputs = self.world.bundles.manifest(facts.incumbent.digest).inputs
        asked_for = rows.labelled & rows_with_values(rows.columns, inputs)
        rows = rows.take(np.flatnonzero(asked_for)[:MOST_LABELS])
        if rows.rows:
            path = self.world.bundles.path(facts.incumbent.digest)
            asked = self.world.evaluator.answer(path, rows.columns)
            parts.append(self._losses(facts, rows, replace(rows, predictions=asked.predictions)))
        if not parts:
            return facts
        mine, theirs = (np.concatenate(side) for side in zip(*parts, strict=True))
        return replace(facts, losses=mine, incumbent_losses=theirs)

    def _losses(self, facts: LiveFacts, new: Observed, old: Observed) -> tuple[Array, Array]:
        tasks = (self.world.bundles.manifest(v.digest).task for v in (facts.version, facts.incumbent))
        mine, theirs = (
            losses(task, rows.predictions, new.truth) for task, rows in zip(tasks, (new, old), strict=True)
        )
        return mine, theirs


def _of(rows: Observed, version: Version) -> Observed:
    return rows.take(np.flatnonzero(rows.versions == version.number))
