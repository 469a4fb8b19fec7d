"""label: what came true joins what was predicted; and what may be true of a row at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.truth import LabelRule
from mlplatform.domain.version import Version
from mlplatform.errors import MlplatformError
from mlplatform.flows.intake import take_in
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.data import Corrected, Correction, Labelled
from mlplatform.ports.state import Ledger
from mlplatform.ports.store import Bundles
from mlplatform.stats.batch import Array

LOOK_BACK = 8
"""Closed windows that are read again when labels came late."""


@dataclass(frozen=True)
class TruthRules:
    """From a model and the number of its version: what may be true of a row that it answered."""

    ledger: Ledger
    bundles: Bundles
    new_classes: Callable[[str], bool] = lambda model: False
    """Whether a model's policy takes classes that its versions do not know."""
    _known: dict[tuple[str, int], LabelRule] = field(default_factory=dict)

    def __call__(self, model: str, version: int) -> LabelRule | None:
        if (model, version) not in self._known and (found := self._find(model, version)) is not None:
            self._known[model, version] = found
        return self._known.get((model, version))

    def _find(self, model: str, number: int) -> LabelRule | None:
        """Of a version whose bytes were freed only the kind of its task, which a model's versions share."""
        versions = sorted(self.ledger.versions(model), key=lambda v: (v.number != number, -v.number))
        for version in versions:
            if (rule := self._of(version)) is not None:
                return rule if version.number == number else replace(rule, classes=())
        return None

    def _of(self, version: Version) -> LabelRule | None:
        try:
            task = self.bundles.manifest(version.digest).task
        except MlplatformError:
            return None
        return LabelRule.of(task, self.new_classes(version.model))


def join(world: World, policy: Policy, endpoint: str, ids: Array, truth: Array) -> Labelled:
    """Labels may come before or after their rows are ingested. Those that do not fit are told and kept aside."""
    take_in(world, policy, endpoint)
    failpoint("label:ingested")
    return world.observations.label(endpoint, ids, truth)


def correct(
    world: World,
    policy: Policy,
    endpoint: str,
    models: Sequence[str],
    ids: Array,
    truth: Array,
    actor: Actor,
) -> Labelled:
    """The same, and other labels of the rows are replaced: windows are read again, the ledger says who did so.

    The caller keeps the models' watches away meanwhile.
    """
    joined = join(world, policy, endpoint, ids, truth)
    if not joined.conflicting:
        return joined
    for model in models:
        _reopen(world, endpoint, model)
    failpoint("label:reopened")
    by = Correction(actor.name, world.clock.now())
    told = world.observations.label(endpoint, ids, truth, by)
    failpoint("label:replaced")
    _record(world, endpoint, told.corrected, actor)
    return replace(joined, conflicting=told.conflicting, replaced=told.replaced, corrected=told.corrected)


# --- helpers ---------------------------------------------------------------------------------------------------------


def _reopen(world: World, endpoint: str, model: str) -> None:
    """A window of which no labels are known is one whose labels came late: the monitor reads it again."""
    windows = [pair for pair in world.windows.recent(model, 10_000) if pair[0].endpoint == endpoint]
    for window, decision in windows[-LOOK_BACK:]:
        if window.labelled:
            world.windows.save(replace(window, labelled=0), decision)


def _record(world: World, endpoint: str, corrected: Sequence[Corrected], actor: Actor) -> None:
    for model in sorted({item.model for item in corrected} & {*world.ledger.models()}):
        versions = Counter({item.version: item.labels for item in corrected if item.model == model})
        count, (most, _) = versions.total(), versions.most_common(1)[0]
        reason = f"{count} {'label' if count == 1 else 'labels'} of {endpoint} replaced"
        data = {"endpoint": endpoint, "labels": {str(v): n for v, n in sorted(versions.items())}}
        world.ledger.append(Draft(model, Kind.LABELS_REPLACED, most, actor, reason, data=data))
