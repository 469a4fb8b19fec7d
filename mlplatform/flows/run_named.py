"""The run that a person means: by its id, or by as much of it as we print."""

from __future__ import annotations

from mlplatform.domain import run_id
from mlplatform.flows.world import World


def run_named(world: World, model: str, text: str) -> str:
    """A run that the ledger knows needs no MLflow. Raises UnknownName; UsageError for what cannot be an id, and for
    the beginning of several."""
    run_id.demand_possible(text)
    known = any(version.run_id == text for version in world.ledger.versions(model))
    return text if known or run_id.is_whole(text) else world.runs.named(text)
