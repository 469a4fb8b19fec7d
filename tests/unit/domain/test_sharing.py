"""Which endpoints several policies name, and what is told of the path that names no model."""

from __future__ import annotations

from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.ladder import Ladder
from mlplatform.domain.policy import Policy, Stage
from mlplatform.domain.sharing import joining, shared, sharing


def named(model: str, endpoint: str) -> Policy:
    return Policy(
        model, Ladder(("staging", "production")), {"production": Stage(endpoint=Endpoint(endpoint))}
    )


def test_an_endpoint_is_shared_once_policies_of_two_models_name_it() -> None:
    policies = [named("a", "shop"), named("b", "shop"), named("c", "c")]
    assert shared(policies) == {"shop": ["a", "b"]}
    assert shared(policies[1:]) == {}


def test_the_paths_are_told_in_one_line() -> None:
    ask = "ask /models/a/invocations and /models/b/invocations, for /invocations, which names no model, is refused"
    assert sharing("shop", ["a", "b"]) == f"endpoint shop is shared by a, b: {ask}"
    assert joining("shop", "a", "b") == f"endpoint shop answers for a alone so far; with b beside it: {ask}"
