"""Who held a stage or shared its requests, when, and which entry of the ledger says so."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType

from mlplatform.domain.ladder import is_stage
from mlplatform.domain.ledger import Draft, Entry, Kind

STEPS = (Kind.TRAFFIC_SHIFTED, Kind.PROMOTED, Kind.ROLLOUT_FAILED, Kind.PROBATION_PASSED)
_SHIFTS = (Kind.TRAFFIC_SHIFTED, Kind.ROLLOUT_FAILED, Kind.ROLLED_BACK)
Shares = dict[int, float]
"""Versions that answer for a stage, with their shares of its requests."""


@dataclass(frozen=True)
class Spell:
    """A stretch of time over which one version had one share of a stage."""

    stage: str
    version: int
    share: float
    since: datetime
    wish: Entry
    """Who wanted it, and why."""
    until: datetime | None = None
    """None: it is so at the end of the entries."""
    endpoint: str = ""
    """Where it answered the share. Empty: the stage had no endpoint, and whoever held it was not asked."""

    @property
    def break_glass(self) -> bool:
        return is_glass_broken(self.wish)


def spells(entries: Sequence[Entry], endpoints: Mapping[str, str] = MappingProxyType({})) -> list[Spell]:
    """Oldest first. A stage without traffic of its own belongs to its holder altogether.

    endpoints: those of today's policy, by stage, for a stage whose entries tell of no traffic: it was given its
    endpoint after its holder had entered.
    """
    holders, asked = dict[str, int](), dict[str, str]()
    ended, lasting = list[Spell](), defaultdict[str, dict[int, Spell]](dict)
    for entry, wish in zip(entries, wishes(entries), strict=True):
        for stage in _touched(entry.draft):
            shares, running = _after(stage, holders, entry.draft), lasting[stage]
            where = _asked(stage, asked, entry.draft) or endpoints.get(stage, "")
            now = {version: (share, where) for version, share in shares.items()}
            over = [version for version, s in running.items() if now.get(version) != (s.share, s.endpoint)]
            ended += [replace(running.pop(version), until=entry.at) for version in over]
            for version in sorted(shares.keys() - running.keys()):
                running[version] = Spell(stage, version, shares[version], entry.at, wish, endpoint=where)
    last = [spell for running in lasting.values() for spell in running.values()]
    return sorted([*ended, *last], key=lambda spell: (spell.since, spell.wish.seq))


def wishes(entries: Iterable[Entry]) -> list[Entry]:
    """For each entry, the one that says who wanted it and why: for a rollout's steps the one that opened it."""
    opened: dict[tuple[str | None, int], Entry] = {}
    told = []
    for entry in entries:
        draft = entry.draft
        way = (draft.stage, draft.version)
        if draft.kind is Kind.ROLLOUT_OPENED:
            opened[way] = entry
        step = draft.kind in (Kind.TRAFFIC_SHIFTED, Kind.PROMOTED) and "rollout" in draft.data
        told.append(opened.get(way, entry) if step else entry)
    return told


def steps_taken(entries: Iterable[Entry], since: int) -> tuple[Entry, ...]:
    """Entries after number `since` that tell of a rollout's steps, to its end."""
    return tuple(e for e in entries if e.seq > since and e.draft.kind in STEPS and "rollout" in e.draft.data)


def step_said(step: Entry) -> str:
    """`traffic shifted (50 % of churn)`, with what moved."""
    draft = step.draft
    moves = ", ".join(f"version {c.version}: {c.origin or 'new'} -> {c.target}" for c in draft.changes)
    return f"{draft.kind.value.replace('_', ' ')} ({draft.reason})" + (f"; {moves}" if moves else "")


def is_glass_broken(wish: Entry) -> bool:
    """Whether it passed gates, approvals or a freeze window by breaking the glass."""
    return bool(wish.draft.data.get("break_glass"))


def _touched(draft: Draft) -> list[str]:
    """Stages whose traffic an entry may change."""
    moved = [place for c in draft.changes for place in (c.origin, c.target) if place and is_stage(place)]
    shifted = [draft.stage] if draft.stage and draft.kind in _SHIFTS else []
    return list(dict.fromkeys([*moved, *shifted]))


def _asked(stage: str, asked: dict[str, str], draft: Draft) -> str:
    """Where a stage's requests come in after an entry, brought up to date by the way; empty where the ledger knows of
    none: a version enters a stage that has an endpoint by a rollout only."""
    if draft.kind is Kind.TRAFFIC_SHIFTED and draft.stage == stage:
        asked[stage] = str(draft.data.get("endpoint", stage))
    elif draft.kind is Kind.PROMOTED and draft.stage == stage and "rollout" not in draft.data:
        asked.pop(stage, None)
    return asked.get(stage, "")


def _after(stage: str, holders: dict[str, int], draft: Draft) -> Shares:
    """A stage's traffic after an entry; the holder is brought up to date by the way."""
    for change in draft.changes:
        if change.target == stage:
            holders[stage] = change.version
        elif change.origin == stage and holders.get(stage) == change.version:
            del holders[stage]
    holder = holders.get(stage)
    if draft.kind is Kind.TRAFFIC_SHIFTED and draft.stage == stage:
        share = float(draft.data.get("share", 1.0))
        shares = {holder: 1 - share} if holder is not None else {}
        shares[draft.version] = share
        return {version: part for version, part in shares.items() if part > 0}
    return {holder: 1.0} if holder is not None else {}
