"""project: MLflow's aliases, tags and version cards are made to say what the ledger says. Repeating it is harmless."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from mlplatform.domain.canonical import digest, finite, plain
from mlplatform.domain.card import CardFacts
from mlplatform.domain.ladder import STANDBY, is_stage
from mlplatform.domain.policy import Policy
from mlplatform.domain.version import Version
from mlplatform.errors import MlflowUnreachable
from mlplatform.flows.aliases import note_moves
from mlplatform.flows.review import card_facts, close_look, evidence_alone
from mlplatform.flows.same_rows import metrics_of
from mlplatform.flows.world import World, failpoint
from mlplatform.ports.tracking import Card

NEWEST = 10
"""Cards of the versions in this many newest entries are written, besides those that hold a stage."""
REPORT_FORMAT = 1
"""Larger when reports look different: the old ones are drawn again then."""


def project(world: World, policy: Policy) -> int:
    """Write what is due for one model; the number of cards written."""
    if policy.model not in dict(world.outbox.due()):
        return 0
    note_moves(world, policy)
    seq = dict(world.outbox.due())[policy.model]
    standings = world.ledger.standings(policy.model)
    newest = world.ledger.entries(policy.model, newest=NEWEST)
    empty: dict[str, int | None] = dict.fromkeys(policy.ladder.stages)
    aliases = empty | {place: v for v, place in standings.places.items() if is_stage(place)}
    wanted = {v for v, place in standings.places.items() if is_stage(place) or place == STANDBY}
    wanted |= {c.version for e in newest for c in e.draft.changes} | {e.draft.version for e in newest}
    versions = [v for v in world.ledger.versions(policy.model) if v.number in wanted]
    cards = {v.number: _card(world, policy, v) for v in versions}
    failpoint("project:before")
    world.registry.project(policy.model, aliases, cards)
    failpoint("project:after")
    world.outbox.done(policy.model, seq)
    return len(cards)


def show_windows(world: World, policy: Policy, draw: Callable[[], str]) -> None:
    """Keep the monitoring report beside the live version's run; drawn when there is something new to see."""
    holder = world.ledger.standings(policy.model).holder(policy.live_stage or policy.ladder.stages[-1])
    live = next((v for v in world.ledger.versions(policy.model) if v.number == holder), None)
    newest = world.windows.recent(policy.model, NEWEST)
    if live is None or not newest:
        return
    facts = digest({"format": REPORT_FORMAT, "windows": finite(plain(newest))})
    try:
        _kept(world, live, f"{policy.model}-monitoring", facts, lambda: {"monitoring.html": draw()})
    except MlflowUnreachable as error:
        world.progress(f"{error}; the monitoring report is not shown there")


def _card(world: World, policy: Policy, version: Version) -> Card:
    facts = card_facts(world, policy, version)
    return world.card(replace(facts, links=_drawn(world, policy, facts)))


def _drawn(world: World, policy: Policy, facts: CardFacts) -> Mapping[str, str]:
    """Addresses of the version's report in MLflow, which is drawn again only when one of its facts changed."""
    draw = world.draw
    if facts.evaluation is None or draw is None:
        return {}
    version, shown = facts.version, evidence_alone(facts)
    metrics = metrics_of(policy, (facts.evaluation,))
    name = digest({"format": REPORT_FORMAT, "facts": finite(plain(shown)), "metrics": metrics})
    folder = f"{version.model}-{version.number}"
    return _kept(world, version, folder, name, lambda: draw(shown, close_look(world, policy, shown)))


def _kept(
    world: World, version: Version, folder: str, facts: str, draw: Callable[[], Mapping[str, str]]
) -> Mapping[str, str]:
    """Addresses of what is kept beside the version's run. Raises MlflowUnreachable, and nothing else: what cannot be
    drawn or stored is no reason to hold back what was decided."""
    try:
        return world.runs.keep(version.run_id, folder, facts, draw)
    except MlflowUnreachable:
        raise
    except Exception as error:
        cause = " ".join(str(error).split())[:200]
        world.progress(f"the report of {version.ref} could not be made: {type(error).__name__}: {cause}")
        return {}
