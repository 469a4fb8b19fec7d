"""Whose bytes must stay: what a stage, a rollout, an approval, a way back or the policy's `[gc]` protects. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from mlplatform.domain.duration import duration
from mlplatform.domain.ladder import REJECTED, RETIRED, ROLLED_BACK, STANDBY, Standings, is_stage
from mlplatform.domain.ledger import Entry, Kind, way_back
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Rollout

OUT_OF_SERVICE = (RETIRED, REJECTED, ROLLED_BACK)
FREED = (Kind.COLLECTED, Kind.RESTORED)
"""Kinds of entries that tell whether a version's bytes were freed."""
Reason = tuple[int, str]


def protected(
    policy: Policy,
    standings: Standings,
    entries: Sequence[Entry],
    active: Sequence[Rollout],
    watched: Collection[int],
    now: datetime,
) -> dict[int, str]:
    """Why a version's bytes must stay, by number; those of a version that is not named may be freed.

    `entries`: all of the model, oldest first. `watched`: versions whose windows may be read again.
    """
    reasons: dict[int, str] = {}
    for number, why in (
        *_standing(standings),
        *_rolling(active),
        *_way_back(policy, standings, entries),
        *_approved(policy, entries, now),
        *((number, "its windows may be read again") for number in watched),
        *_recent(policy, standings, entries, now),
    ):
        reasons.setdefault(number, why)
    return {number: why for number, why in reasons.items() if number in standings.places}


def since(entries: Sequence[Entry]) -> dict[int, datetime]:
    """When every version came to where it stands."""
    return {change.version: entry.at for entry in entries for change in entry.draft.changes}


def is_collected(entries: Sequence[Entry], version: int) -> Entry | None:
    """The entry that says that a version's bytes were freed, unless they were brought back later."""
    told = [e for e in entries if e.draft.version == version and e.draft.kind in FREED]
    return told[-1] if told and told[-1].draft.kind is Kind.COLLECTED else None


def _standing(standings: Standings) -> Iterator[Reason]:
    for number, place in standings.places.items():
        if place not in OUT_OF_SERVICE:
            told = "it is kept warm" if place == STANDBY else f"it is in {place}"
            yield number, told if is_stage(place) or place == STANDBY else f"it is a {place}"


def _rolling(active: Sequence[Rollout]) -> Iterator[Reason]:
    for rollout in active:
        for number in (rollout.version, rollout.previous):
            if number is not None:
                yield number, f"the rollout into {rollout.endpoint} is not over ({rollout.phase})"


def _way_back(policy: Policy, standings: Standings, entries: Sequence[Entry]) -> Iterator[Reason]:
    for stage in policy.ladder.stages:
        target = way_back(standings, entries, stage)
        if target is not None:
            yield target, f"{stage} would be rolled back to it"


def _approved(policy: Policy, entries: Sequence[Entry], now: datetime) -> Iterator[Reason]:
    """Also an approval that is void today: what made it void may be taken back before it expires."""
    for entry in entries:
        draft = entry.draft
        if draft.kind is not Kind.APPROVED or draft.stage not in policy.ladder.stages:
            continue
        if now - entry.at <= duration(policy.stage(draft.stage).approvals.expires):
            yield draft.version, f"its approval for {draft.stage} has not expired"


def _recent(
    policy: Policy, standings: Standings, entries: Sequence[Entry], now: datetime
) -> Iterator[Reason]:
    left: Mapping[int, datetime] = since(entries)
    out = [n for n, place in standings.places.items() if place in OUT_OF_SERVICE]
    out.sort(key=lambda n: (left.get(n, now), n), reverse=True)
    for number in out[: policy.gc.keep_versions]:
        yield number, f"one of the newest {policy.gc.keep_versions} out of service"
    for number in out:
        if now - left.get(number, now) < duration(policy.gc.keep):
            yield number, f"out of service for less than {policy.gc.keep}"
