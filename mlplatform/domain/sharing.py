"""Endpoints that several models share: each is asked by a path of its own there, for a request that names no model
might be answered by the wrong one. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from mlplatform.domain.policy import Policy


def invocations(model: str) -> str:
    """Where a model is asked in MLflow's protocol, whoever else answers at its endpoint."""
    return f"/models/{model}/invocations"


def shared(policies: Iterable[Policy]) -> dict[str, list[str]]:
    """Models by endpoint, of those endpoints that several of the policies name."""
    found: dict[str, dict[str, None]] = {}
    for policy in policies:
        for stage in policy.stages.values():
            if stage.endpoint:
                found.setdefault(stage.endpoint.name, {})[policy.model] = None
    return {name: list(models) for name, models in found.items() if len(models) > 1}


def sharing(endpoint: str, models: Sequence[str]) -> str:
    """What the policies of an endpoint's models bring about."""
    return f"endpoint {endpoint} is shared by {', '.join(models)}: {_ask(models)}"


def joining(endpoint: str, alone: str, newcomer: str) -> str:
    """What becomes of a model's requests once another one answers beside it."""
    return f"endpoint {endpoint} answers for {alone} alone so far; with {newcomer} beside it: {_ask((alone, newcomer))}"


def _ask(models: Sequence[str]) -> str:
    return f"ask {' and '.join(map(invocations, models))}, for /invocations, which names no model, is refused"
