"""What servers counted of a rollout's versions since a change of share; its entry keeps what was counted before.

What a worker counts is written about once a second, and a worker follows a new share a moment after it was told: some
requests of a step are counted to the next. They came while the version's share was smaller, never larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from mlplatform.domain.counts import Counts, Split
from mlplatform.domain.ledger import Entry, Kind
from mlplatform.domain.rollout import Rollout
from mlplatform.flows.world import World


@dataclass(frozen=True)
class Seen:
    counts: Counts = Counts()  # noqa: RUF009
    """Of the version, those too that it answered as a shadow."""
    incumbent: Counts = Counts()  # noqa: RUF009
    restarts: int = 0
    """Workers that died."""
    grown_bytes: tuple[int, ...] = ()
    """By how much each worker grew that ran before."""

    @property
    def failed(self) -> int:
        """Of the version's requests; a worker that died counts as one."""
        return self.counts.failed + self.restarts

    @property
    def requests(self) -> int:
        return self.counts.requests + self.restarts


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
        "shadow": asdict(counted.of_shadow(rollout.model, rollout.version)),
        "incumbent": asdict(counted.of(rollout.model, rollout.previous or 0)),
        "memory_bytes": dict(counted.memory_bytes),
        "restarts": counted.restarts,
        "server": counted.server,
    }


def since(world: World, rollout: Rollout, shift: Entry) -> Seen:
    """What came after a change of share."""
    now, before = counted_before(world, rollout), _told(shift)
    known: Mapping[str, int] = before.get("memory_bytes", {})
    return Seen(
        _between(before, now, "counts") + _between(before, now, "shadow"),
        _between(before, now, "incumbent"),
        now["restarts"] if _anew(before, now) else max(0, now["restarts"] - before.get("restarts", 0)),
        tuple(size - known[worker] for worker, size in now["memory_bytes"].items() if worker in known),
    )


def splits(world: World, rollout: Rollout) -> tuple[Split, ...]:
    """Step by step, how the requests since the rollout began were shared and what came of them."""
    made = shifts(world, rollout)
    marks = [*map(_told, made), counted_before(world, rollout)]
    return tuple(
        Split(
            share := share_of(shift),
            _between(begin, end, "counts" if share else "shadow"),
            _between(begin, end, "incumbent"),
        )
        for shift, (begin, end) in zip(made, pairwise(marks), strict=True)
    )


def incumbent_before(shift: Entry) -> Counts:
    """What the incumbent had done since the server started, when the share changed; nothing where the entry is older
    than that refusals are kept."""
    counted = _counts(stored := _told(shift).get("incumbent"))
    return counted if stored and "refused" in stored else Counts()


def _told(shift: Entry) -> Mapping[str, Any]:
    """What `counted_before` saw."""
    counted: Mapping[str, Any] = shift.draft.data.get("counted", {})
    return counted


def _between(begin: Mapping[str, Any], end: Mapping[str, Any], whose: str) -> Counts:
    """All at the end, where the server was started again in between."""
    last = _counts(end.get(whose))
    return last if _anew(begin, end) else last.since(_counts(begin.get(whose)))


def _anew(begin: Mapping[str, Any], end: Mapping[str, Any]) -> bool:
    one, other = begin.get("server"), end.get("server")
    return bool(one and other and one != other)


def _counts(stored: Mapping[str, Any] | None) -> Counts:
    return Counts(**{**stored, "durations": tuple(stored["durations"])}) if stored else Counts()
