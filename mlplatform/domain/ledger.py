"""The ledger's entry: what was live at any time, who put it there, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from mlplatform.domain.canonical import one_line
from mlplatform.domain.ladder import Change, Standings, is_stage, last_good


class Kind(StrEnum):
    """What happened, in the past tense."""

    REGISTERED = "registered"
    APPROVED = "approved"
    REFUSED = "refused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    RETIRED = "retired"
    REJECTED = "rejected"
    ROLLOUT_OPENED = "rollout_opened"
    TRAFFIC_SHIFTED = "traffic_shifted"
    ROLLOUT_FAILED = "rollout_failed"
    PROBATION_PASSED = "probation_passed"
    OUTSIDE_MOVE = "outside_move"
    COLLECTED = "collected"
    """Its bytes were freed."""
    RESTORED = "restored"
    """Its bytes are there again."""
    TARGET_CHOSEN = "target_chosen"
    """Where the server of the stage's endpoint runs; the version is the one that it answers with."""

    LABELS_REPLACED = "labels_replaced"
    """What came true of rows that it answered was corrected; the version is the one that answered most of them."""


_STAY = (Kind.REGISTERED, Kind.APPROVED, Kind.REFUSED, Kind.TARGET_CHOSEN, Kind.LABELS_REPLACED)
MOVES = tuple(kind for kind in Kind if kind not in _STAY)
"""Kinds that may take a version into a stage or out of it."""


@dataclass(frozen=True)
class Actor:
    """Who acts. A person at a terminal is `os:<user>`, unverified; a token's owner is verified."""

    name: str
    verified: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", one_line(self.name))


@dataclass(frozen=True)
class Draft:
    """An entry before the ledger has taken it."""

    model: str
    kind: Kind
    version: int
    actor: Actor
    reason: str
    changes: tuple[Change, ...] = ()
    stage: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)
    """Findings, shares, evaluation ids: the evidence, as JSON."""
    key: str | None = None
    """Idempotency key: a second draft with the same key changes nothing."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", one_line(self.reason))


@dataclass(frozen=True)
class Entry:
    """An entry of one model's chain. `hash` covers every other field and the previous hash."""

    seq: int
    """1, 2, 3 ... within the model."""
    at: datetime
    draft: Draft
    prev_hash: str
    hash: str


def touches(draft: Draft, version: int) -> bool:
    """Whether an entry is about a version or moves it."""
    return draft.version == version or any(c.version == version for c in draft.changes)


def concerns(draft: Draft, stage: str) -> bool:
    """Whether an entry is about a stage, or a version enters or leaves it."""
    return draft.stage == stage or any(stage in (c.origin, c.target) for c in draft.changes)


def set_aside(entries: Iterable[Entry]) -> set[int]:
    """Versions that somebody retired, and that took no stage since; replaced ones are not among them."""
    found = set[int]()
    for entry in entries:
        if entry.draft.kind is Kind.RETIRED:
            found.add(entry.draft.version)
        else:
            found -= {c.version for c in entry.draft.changes if is_stage(c.target)}
    return found


def tenures(entries: Sequence[Entry], stage: str) -> list[int]:
    """Versions in the order in which they took a stage.

    A stage taken by a rolled-back-to version counts again, so the present holder is always last.
    """
    return [c.version for e in entries for c in e.draft.changes if c.target == stage and is_stage(stage)]


def way_back(standings: Standings, entries: Sequence[Entry], stage: str) -> int | None:
    """The version that a rollback of the stage would bring back. `entries`: of `MOVES`, of all stages, oldest first."""
    return last_good(standings, tenures(entries, stage), set_aside(entries))
