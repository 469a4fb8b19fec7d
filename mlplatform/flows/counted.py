"""What servers counted of a rollout's versions since a change of share; its entry keeps what was counted before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlplatform.domain.counts import Counts
from mlplatform.domain.ledger import Entry, Kind
from mlplatform.domain.rollout import Rollout
from mlplatform.flows.world import World


@dataclass(frozen=True)
class Seen:
    counts: Counts
    """Of the version."""
    incumbent: Counts
    restarts: int
    """Workers that died."""
    grown_bytes: tuple[int, ...]
    """By how much each worker grew that ran before."""


def shifts(world: World, rollout: Rollout) -> list[Entry]:
    """Entries of the rollout's changes of share, oldest first."""
    entries = world.ledger.entries(
        rollout.model, kinds=(Kind.TRAFFIC_SHIFTED,), version=rollout.version, stage=rollout.stage
    )
    return [entry for entry in entries if entry.draft.data.get("rollout") == rollout.id]


def share_of(shift: Entry) -> float:
    return float(shift.draft.data.get("share", 1.0))


def counted_before(world: World, rollout: Rollout) -> dict[str, Any]:
    """What the servers had counted when the rollout began: kept with its first step, to be taken off later."""
    counted = world.documents.counted(rollout.endpoint)
    return {
        "counts": asdict(counted.of(rollout.model, rollout.version)),
        "incumbent": asdict(counted.of(rollout.model, rollout.previous or 0)),
        "memory_bytes": dict(counted.memory_bytes),
        "restarts": counted.restarts,
    }


def since(world: World, rollout: Rollout, shift: Entry) -> Seen:
    """What came after a change of share."""
    now = world.documents.counted(rollout.endpoint)
    before = shift.draft.data.get("counted", {})
    known: Mapping[str, int] = before.get("memory_bytes", {})
    return Seen(
        now.of(rollout.model, rollout.version).since(_counts(before.get("counts"))),
        now.of(rollout.model, rollout.previous or 0).since(_counts(before.get("incumbent"))),
        max(0, now.restarts - before.get("restarts", 0)),
        tuple(size - known[worker] for worker, size in now.memory_bytes.items() if worker in known),
    )


def _counts(stored: Mapping[str, Any] | None) -> Counts:
    """As `counted_before` keeps them."""
    return Counts(stored["answered"], stored["failed"], tuple(stored["durations"])) if stored else Counts()
