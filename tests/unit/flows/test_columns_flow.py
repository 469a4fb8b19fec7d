"""Columns that a policy misspells are refused before a version answers, and told of one that does already."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlplatform.domain.bundle import Column
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Draft, Kind
from mlplatform.domain.policy import Capture, Policy
from mlplatform.domain.rollout_plan import RolloutPlan
from mlplatform.domain.use import Use
from mlplatform.domain.version import Version
from mlplatform.errors import UnknownColumns
from mlplatform.flows import plan
from mlplatform.flows.columns import asked_of
from mlplatform.flows.promote import Wish, promote
from mlplatform.flows.reconcile import differences
from tests.flawed import write_model
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy


def naming(*dropped: str, key: str = "", **data: object) -> Policy:
    """A policy whose production drops these columns and keeps versions by this key."""
    given = policy(capture=Capture(drop_columns=dropped))
    rolled = RolloutPlan(("10%:10m", "100%"), key, (Use("error_rate"),))
    stage = replace(given.stage("production"), rollout=rolled)
    stages = {**given.stages, "production": stage}
    return replace(given, stages=stages, data=replace(given.data, **data))  # type: ignore[arg-type]


def refusal(fakes: Fakes, given: Policy, **wish: bool) -> UnknownColumns:
    """Of a first version that stands in staging already."""
    version = fakes.version("run1")
    fakes.promote(given, version, "staging")
    with pytest.raises(UnknownColumns) as caught:
        promote(fakes.world, given, Wish(version, "production", ADA, "because", **wish))
    assert fakes.places == {1: "staging"} and not fakes.world.deployments.active(MODEL)
    return caught.value


@pytest.mark.parametrize("wish", [{}, {"dry_run": True}, {"break_glass": True}])
def test_every_misspelt_column_is_told_at_once_with_the_nearest_one(
    fakes: Fakes, wish: dict[str, bool]
) -> None:
    given = naming("emial", "x", "whn", key="custmer", context=("email", "customer"), time="when")
    error = refusal(fakes, given, **wish)
    assert str(error) == (
        "The policy names 3 column(s) that no request to churn@1 has:"
        " stages.production.rollout.key 'custmer' (did you mean 'customer'?);"
        " capture.drop_columns 'emial' (did you mean 'email'?);"
        " capture.drop_columns 'whn' (did you mean 'when'?)"
    )
    assert (error.exit_code, "[data] context" in error.next_step) == (3, True)


def test_features_time_context_and_headers_are_known(fakes: Fakes) -> None:
    for number, key in enumerate(("x", "when", "customer", "header:X-Customer", "")):
        given = naming("x", "when", "customer", key=key, context=("customer",), time="when")
        version = fakes.version(f"run{number}")
        for stage in ("staging", "production"):
            outcome = promote(
                fakes.world, given, Wish(version, stage, ADA, "because", dry_run=stage != "staging")
            )
            assert outcome.status == "done"


def test_a_stage_without_an_endpoint_captures_nothing_and_asks_for_nothing(fakes: Fakes) -> None:
    assert fakes.promote(naming("emial"), fakes.version("run1"), "staging").status == "done"


def test_a_column_that_only_another_version_has_may_stay_dropped(fakes: Fakes) -> None:
    """It may answer again, by a rollback, and its column must not reach the disk then."""
    fakes.live(policy(), "run1")
    given = naming("ssn", "x")
    second = fakes.version("run2")
    fakes.promote(given, second, "staging")
    with pytest.raises(UnknownColumns):
        promote(fakes.world, given, Wish(second, "production", ADA, "because"))
    register_with(fakes, "ssn")
    assert promote(fakes.world, given, Wish(second, "production", ADA, "because")).status == "rolling_out"


def test_a_deployment_looks_at_what_would_reach_the_disk_and_not_at_the_key(fakes: Fakes) -> None:
    fakes.live(policy(), "run1")
    assert plan.deployment(fakes.world, naming(key="custmer"), "production").version == "churn@1"
    with pytest.raises(UnknownColumns, match="'y' "):
        plan.deployment(fakes.world, naming("y"), "production")


def test_a_policy_that_was_misspelt_later_is_told_of(fakes: Fakes) -> None:
    fakes.live(policy(), "run1")
    assert not [d for d in differences(fakes.world, policy()) if "column" in d.what]
    [found] = [d for d in differences(fakes.world, naming("emial", key="xx")) if "column" in d.what]
    assert "2 column(s) that no request to churn@1 has" in found.what
    assert found.mend is None and found.repair.startswith("Correct them in the policy")


def register_with(fakes: Fakes, name: str) -> None:
    """A version that has one feature more."""
    with fakes.bundles.stage() as staged:
        manifest = write_model(staged / "made", cut=0.0)
        frozen = fakes.bundles.freeze(
            staged / "made", replace(manifest, inputs=(*manifest.inputs, Column(name, "string")))
        )
    number = 1 + len(fakes.ledger.versions(MODEL))
    version = Version(MODEL, number, frozen.digest, "flawed", "earlier", fakes.clock.now(), "ada", 100)
    changes = (Change(number, None, CANDIDATE),)
    fakes.ledger.register(version, Draft(MODEL, Kind.REGISTERED, number, ADA, "made", changes))


def test_target_and_an_index_of_pandas_are_left_out_and_told(fakes: Fakes) -> None:
    told: list[str] = []
    world, version = replace(fakes.world, progress=told.append), fakes.version("run1")
    names = ("", "x", "__index_level_0__", "Unnamed: 0", "Unnamed: zero", "outcome", "target", "when")
    given = naming(target="outcome", time="when")
    kept = asked_of(world, given, dict.fromkeys(names, np.zeros(2)), [version.ref])
    assert list(kept) == ["x", "Unnamed: zero", "target", "when"]
    assert told == [
        "left out, as no feature but the target or an index of pandas: '', '__index_level_0__', 'Unnamed: 0', 'outcome'"
    ]


def test_what_an_asked_version_takes_is_never_left_out(fakes: Fakes) -> None:
    version = fakes.version("run1")  # takes x
    columns = {"x": np.zeros(2)}
    assert list(asked_of(fakes.world, naming(target="x"), columns, [version.ref])) == ["x"]
    assert list(asked_of(fakes.world, naming(target="x"), columns, [])) == []
