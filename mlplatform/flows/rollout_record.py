"""What ledger and server say of a rollout: the keys of its entries, and what the server was told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlplatform.domain.canonical import finite, plain
from mlplatform.domain.ladder import Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.rollout import Rollout
from mlplatform.domain.routes import Part
from mlplatform.domain.verdict import Finding
from mlplatform.flows.world import World


def part_told(world: World, rollout: Rollout) -> Part | None:
    """What the server was told of the model; None when nothing, or nothing that can be read."""
    try:
        routes = world.documents.routes(rollout.endpoint)
    except ValueError:  # damaged: the next document replaces it
        return None
    return routes.part(rollout.model) if routes else None


def opened_key(rollout: str) -> str:
    """Idempotency key of the entry that records a rollout with its evidence."""
    return f"rollout:{rollout}:opened"


def passed_key(rollout: str) -> str:
    return f"rollout:{rollout}:passed"


def failed_key(rollout: str) -> str:
    return f"rollout:{rollout}:failed"


def recorded(world: World, rollout: Rollout, key: str) -> bool:
    return bool(world.ledger.entries(rollout.model, key=key))


def is_opened(world: World, rollout: Rollout) -> bool:
    """Whether the ledger let this version into this stage, with the evidence: the rollout's own row is no proof."""
    opened = world.ledger.entries(rollout.model, key=opened_key(rollout.id))
    return any((e.draft.version, e.draft.stage) == (rollout.version, rollout.stage) for e in opened)


def note(
    world: World,
    rollout: Rollout,
    kind: Kind,
    reason: str,
    data: Mapping[str, Any],
    step: str,
    changes: tuple[Change, ...] = (),
) -> None:
    """An entry for a step of the rollout, once. Raises StageConflict where `changes` no longer hold."""
    world.ledger.append(
        Draft(
            rollout.model,
            kind,
            rollout.version,
            _actor(world, rollout),
            reason,
            changes=changes,
            stage=rollout.stage,
            data={"rollout": rollout.id, **data},
            key=f"rollout:{rollout.id}:{step}",
        )
    )


def plain_findings(found: Sequence[Finding]) -> Any:
    return finite(plain(list(found)))


def _actor(world: World, rollout: Rollout) -> Actor:
    """Who wished for it, verified or not: the entry that opened it knows."""
    opened = world.ledger.entries(rollout.model, key=opened_key(rollout.id))
    return opened[0].draft.actor if opened else Actor(rollout.actor)
