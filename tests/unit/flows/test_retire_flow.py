"""retire: out of a stage without an endpoint, from among the candidates, or no longer kept warm."""

from __future__ import annotations

import pytest

from mlplatform.domain.ladder import RETIRED
from mlplatform.domain.rollout import Phase
from mlplatform.errors import IllegalMove, Refused
from mlplatform.flows.project import project
from mlplatform.flows.promote import Wish, promote
from mlplatform.flows.retire import plan_retirement, retire
from mlplatform.flows.rollback import plan_rollback
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy


def test_a_version_leaves_its_stage_and_mlflow_its_alias(fakes: Fakes) -> None:
    given, version = policy(), fakes.version("run1")
    fakes.promote(given, version, "staging")
    project(fakes.world, given)
    assert fakes.registry.aliases[MODEL] == {"staging": 1}
    entry = retire(fakes.world, given, version, ADA, "price list gone").draft
    assert (entry.kind.value, entry.version, entry.stage, entry.reason) == (
        "retired",
        1,
        "staging",
        "price list gone",
    )
    project(fakes.world, given)
    assert fakes.places == {1: RETIRED}
    assert fakes.registry.aliases[MODEL] == {}


def test_a_candidate_retires(fakes: Fakes) -> None:
    version = fakes.version("run1")
    assert retire(fakes.world, policy(), version, ADA, "not needed").draft.stage is None
    assert fakes.places == {1: RETIRED}


def test_a_version_that_was_kept_warm_is_kept_so_no_longer(fakes: Fakes) -> None:
    given = policy()
    first = fakes.live(given, "run1")
    fakes.live(given, "run2")
    assert (fakes.served, fakes.warm()) == ([2], [1])
    retire(fakes.world, given, first, ADA, "memory")
    assert (fakes.served, fakes.warm()) == ([2], [])
    assert fakes.places == {1: RETIRED, 2: "production"}


def test_the_live_version_stays(fakes: Fakes) -> None:
    given = policy()
    version = fakes.live(given, "run1")
    with pytest.raises(IllegalMove, match="it is live"):
        retire(fakes.world, given, version, ADA, "away")
    assert fakes.places == {1: "production"}
    assert "retired" not in fakes.kinds


def test_a_version_on_its_way_in_stays(fakes: Fakes) -> None:
    given, version = policy(), fakes.version("run1")
    fakes.promote(given, version, "staging")
    rollout = promote(fakes.world, given, Wish(version, "production", ADA, "up")).rollout
    assert rollout is not None
    with pytest.raises(Refused, match="being rolled out into production"):
        retire(fakes.world, given, version, ADA, "away")
    fakes.world.deployments.save(rollout.now_in(Phase.FAILED, "off"))
    assert plan_retirement(fakes.world, given, version)[0].target == RETIRED


def test_planning_changes_nothing(fakes: Fakes) -> None:
    version = fakes.version("run1")
    [change] = plan_retirement(fakes.world, policy(), version)
    assert (change.version, change.origin, change.target) == (1, "CANDIDATE", RETIRED)
    assert fakes.kinds == ["registered"]


def test_what_is_out_stays_out(fakes: Fakes) -> None:
    version = fakes.version("run1")
    retire(fakes.world, policy(), version, ADA, "once")
    with pytest.raises(IllegalMove, match="it is out already"):
        retire(fakes.world, policy(), version, ADA, "twice")
    assert fakes.kinds == ["registered", "retired"]


def test_what_somebody_retired_returns_only_by_name(fakes: Fakes) -> None:
    given = policy()
    for name in ("run1", "run2", "run3"):
        fakes.live(given, name)
    retire(fakes.world, given, fakes.ledger.versions(MODEL)[1], ADA, "unfair to some")
    assert plan_rollback(fakes.world, given, "production")[0] == 1
    assert plan_rollback(fakes.world, given, "production", 2)[0] == 2
