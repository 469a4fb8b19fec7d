"""project: MLflow's aliases, tags and version cards are made to say what the ledger says. Repeating it is harmless."""

from __future__ import annotations

from typing import Any

from mlplatform.domain.card import CardFacts
from mlplatform.domain.ladder import STANDBY, is_stage
from mlplatform.domain.ledger import Entry, Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.verdict import Finding, Measurement, Verdict
from mlplatform.domain.version import Version
from mlplatform.flows.promote import count_approvals
from mlplatform.flows.world import World, failpoint

NEWEST = 10
"""Cards of the versions in this many newest entries are written, besides those that hold a stage."""


def project(world: World, policy: Policy) -> int:
    """Write what is due for one model; the number of cards written."""
    seq = dict(world.outbox.due()).get(policy.model)
    if seq is None:
        return 0
    standings = world.ledger.standings(policy.model)
    entries = world.ledger.entries(policy.model)
    empty: dict[str, int | None] = dict.fromkeys(policy.ladder.stages)
    aliases = empty | {place: v for v, place in standings.places.items() if is_stage(place)}
    held = {v for v, place in standings.places.items() if is_stage(place) or place == STANDBY}
    wanted = held | {c.version for e in entries[-NEWEST:] for c in e.draft.changes}
    wanted |= {e.draft.version for e in entries[-NEWEST:]}
    versions = [v for v in world.ledger.versions(policy.model) if v.number in wanted]
    cards = {
        v.number: world.card(card_facts(world, policy, v, standings.places[v.number], entries))
        for v in versions
    }
    failpoint("project:before")
    world.registry.project(policy.model, aliases, cards)
    failpoint("project:after")
    world.outbox.done(policy.model, seq)
    return len(cards)


def card_facts(world: World, policy: Policy, version: Version, place: str, entries: list[Entry]) -> CardFacts:
    """All that a reviewer of a version wants to see."""
    own = [e for e in entries if e.draft.version == version.number or _touches(e, version.number)]
    judged = next((e for e in reversed(own) if e.draft.data.get("findings")), None)
    stage = judged.draft.stage if judged else None
    evaluation = world.evaluations.latest(version.digest)
    name = evaluation.id if evaluation else ""
    registered = next((e for e in own if e.draft.kind is Kind.REGISTERED), None)
    return CardFacts(
        version=version,
        place=place,
        findings=[finding_of(f) for f in judged.draft.data["findings"]] if judged else (),
        stage=stage,
        tally=count_approvals(world, policy, stage, version, name) if stage else None,
        evaluation=evaluation,
        entries=own,
        notes=registered.draft.data.get("notes", {}) if registered else {},
    )


def finding_of(raw: dict[str, Any]) -> Finding:
    """A finding as the ledger keeps it."""
    measurements = tuple(Measurement(**{**m, "value": float(m["value"])}) for m in raw["measurements"])
    return Finding(raw["gate"], Verdict(raw["verdict"]), raw["because"], measurements, raw["limit"])


def _touches(entry: Entry, version: int) -> bool:
    return any(c.version == version for c in entry.draft.changes)
