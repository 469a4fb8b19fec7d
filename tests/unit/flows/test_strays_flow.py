"""Models that an endpoint still answers for, and that no policy gives it any more."""

from __future__ import annotations

from dataclasses import replace

from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.routes import Route, Routes
from mlplatform.flows.strays import differences, end_if_empty, strays, take_out
from tests.unit.flows.worlds import MODEL, Fakes, policy


def beside(fakes: Fakes) -> None:
    """Another model at the endpoint of the live one."""
    fakes.live(policy(), "run1")
    fakes.documents.publish(Routes(MODEL, 0, (Route("fraud", 7, "d7", "elsewhere"),), memory_mb=70), "fraud")


def test_a_model_without_a_policy_is_told_and_left_to_a_person(fakes: Fakes) -> None:
    beside(fakes)
    given = {MODEL: policy()}
    [found] = strays(fakes.world, given)
    assert (found.name, found.versions) == (f"{MODEL}/fraud", (7,))
    [told] = differences(fakes.world, given, [found])
    assert told.what == f"endpoint {MODEL} still answers for fraud (fraud@7), which has no policy any more"
    assert told.mend is None
    assert f"mlplatform undeploy {MODEL}/fraud" in told.repair


def test_one_whose_policy_may_be_unreadable_is_none(fakes: Fakes) -> None:
    beside(fakes)
    assert strays(fakes.world, {MODEL: policy()}, lambda model: model == "fraud") == []
    assert strays(fakes.world, {}, lambda model: True) == []


def test_it_is_taken_out_and_the_others_and_the_limit_of_memory_stay(fakes: Fakes) -> None:
    beside(fakes)
    given = {MODEL: policy()}
    [found] = strays(fakes.world, given)
    take_out(fakes.world, found)
    routes = fakes.documents.routes(MODEL)
    assert routes
    assert (routes.models, routes.withdrawn, routes.memory_mb) == ((MODEL,), ("fraud",), 70)
    assert strays(fakes.world, given) == []
    assert not end_if_empty(fakes.world, given, MODEL)
    assert fakes.target.status(fakes.documents.folder(MODEL)).running


def test_an_endpoint_without_a_policy_is_ended_once_it_answers_for_nobody(fakes: Fakes) -> None:
    fakes.live(policy(), "run1")
    [found] = strays(fakes.world, {})
    assert not end_if_empty(fakes.world, {}, MODEL)
    take_out(fakes.world, found)
    assert end_if_empty(fakes.world, {}, MODEL)
    assert not fakes.target.status(fakes.documents.folder(MODEL)).running
    assert strays(fakes.world, {}) == []


def test_a_model_leaves_its_endpoint_only_once_the_one_that_its_policy_names_answers(fakes: Fakes) -> None:
    given = policy()
    fakes.live(given, "run1")
    moved = replace(given.stage("production"), endpoint=Endpoint("elsewhere"))
    renamed = {MODEL: replace(given, stages={**given.stages, "production": moved})}
    [told] = differences(fakes.world, renamed, strays(fakes.world, renamed))
    assert told.mend is None
    assert "once endpoint elsewhere answers for it: `mlplatform deploy churn`" in told.repair
    part = fakes.documents.routes(MODEL)
    assert part
    fakes.documents.publish(replace(part, endpoint="elsewhere"), MODEL)
    [told] = differences(fakes.world, renamed, strays(fakes.world, renamed))
    assert told.mend
    told.mend()
    assert strays(fakes.world, renamed) == []


def test_what_was_served_by_hand_is_none(fakes: Fakes) -> None:
    fakes.documents.publish(Routes("serve-churn-3", 0, (Route(MODEL, 3, "d3", "elsewhere"),)))
    assert strays(fakes.world, {MODEL: policy()}) == []
