"""The ledger's entry and its hash chain: what was live at any time, who put it there, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from mlplatform.domain.canonical import digest
from mlplatform.domain.ladder import Change, is_stage

GENESIS = "0" * 64


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


@dataclass(frozen=True)
class Actor:
    """Who acts. A person at a terminal is `os:<user>`, unverified; a token's owner is verified."""

    name: str
    verified: bool = False


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


@dataclass(frozen=True)
class Entry:
    """An entry of one model's chain. `hash` covers every other field and the previous hash."""

    seq: int
    """1, 2, 3 ... within the model."""
    at: datetime
    draft: Draft
    prev_hash: str
    hash: str


@dataclass(frozen=True)
class Break:
    """Where a chain does not hold."""

    model: str
    seq: int
    why: str


def seal(draft: Draft, seq: int, at: datetime, prev_hash: str) -> Entry:
    """Chain a draft: SHA-256 over the canonical encoding of all fields and the previous hash."""
    return Entry(seq, at, draft, prev_hash, digest({"seq": seq, "at": at, "draft": draft, "prev": prev_hash}))


def find_breaks(model: str, entries: Sequence[Entry], head: tuple[int, str] | None = None) -> list[Break]:
    """Every place where a row was edited, deleted, inserted or reordered.

    `head`: number and hash of the last entry, as they were recorded beside the chain.
    """
    breaks, seq, prev = list[Break](), 0, GENESIS
    for entry in entries:
        if why := _break(entry, seq, prev):
            breaks.append(Break(model, entry.seq, why))
        seq, prev = entry.seq, entry.hash
    if head and (seq, prev) != head:
        breaks.append(Break(model, seq, f"the chain should end with entry {head[0]}, hash {head[1][:12]}"))
    return breaks


def _break(entry: Entry, seq_before: int, hash_before: str) -> str:
    if entry.seq != seq_before + 1:
        return f"expected entry {seq_before + 1}"
    if entry.prev_hash != hash_before:
        return "does not follow the entry before it"
    sealed = seal(entry.draft, entry.seq, entry.at, hash_before)
    return "" if sealed.hash == entry.hash else "was changed after it was written"


def tenures(entries: Sequence[Entry], stage: str) -> list[int]:
    """Versions in the order in which they took a stage.

    A stage taken by a rolled-back-to version counts again, so the present holder is always last.
    """
    return [c.version for e in entries for c in e.draft.changes if c.target == stage and is_stage(stage)]
