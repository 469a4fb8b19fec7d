"""What a reviewer wants to see of a version: the facts behind `show`, the card in MLflow's UI, and the HTML report."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.domain.card import CardFacts, Rival
from mlplatform.domain.ledger import MOVES, Entry, Kind
from mlplatform.domain.lineage import Lineage, first_of, holder_after, line_to, lineage
from mlplatform.domain.policy import Policy
from mlplatform.domain.verdict import Evaluation, Finding
from mlplatform.domain.version import Version
from mlplatform.flows.approve import approvals_by_stage, finding_of
from mlplatform.flows.same_rows import Answered, answered, gap, metrics_of, value_of
from mlplatform.flows.tagged import answers
from mlplatform.flows.world import World
from mlplatform.ports.report import Beside, CloseLook
from mlplatform.stats.diagnosis import confusion, reliability, residuals

NEWEST = 100
"""Entries of a version that are looked at: a long history is no reason to be slow."""


def card_facts(world: World, policy: Policy, version: Version) -> CardFacts:
    """All that a reviewer wants to see of a version."""
    entries = world.ledger.entries(policy.model, version=version.number, newest=NEWEST)
    standings = world.ledger.standings(policy.model)
    place = standings.place(version.number)
    judged, registered = newest_judged(entries), _registered(world, version)
    findings = findings_of(judged)
    stage = judged.draft.stage if judged else _next_stage(policy, place)
    evaluation = _evaluation(world, version, judged)
    return CardFacts(
        version=version,
        place=place,
        findings=findings,
        stage=stage,
        approvals=approvals_by_stage(world, policy, version, entries),
        answers=answers(world, policy, version, entries),
        evaluation=evaluation,
        entries=entries,
        notes=registered.draft.data.get("notes", {}) if registered else {},
        lineage=_lineage(world, policy, version),
        rival=_rival(world, version, judged, evaluation),
    )


def newest_judged(entries: Sequence[Entry]) -> Entry | None:
    return next((e for e in reversed(entries) if e.draft.data.get("findings")), None)


def findings_of(entry: Entry | None) -> tuple[Finding, ...]:
    """What an entry rests on."""
    return tuple(finding_of(raw) for raw in entry.draft.data["findings"]) if entry else ()


def newest_findings(world: World, version: Version) -> tuple[Finding, ...]:
    """What gates said of a version last."""
    entries = world.ledger.entries(version.model, version=version.number, newest=NEWEST)
    return findings_of(newest_judged(entries))


def evidence_alone(facts: CardFacts) -> CardFacts:
    """What the judgement rests on, and nothing that changes when the version moves: its report is drawn once."""
    family = line_to(facts.version, facts.lineage) if facts.lineage else None
    return CardFacts(
        facts.version,
        "",
        facts.findings,
        facts.stage if facts.findings else None,
        evaluation=facts.evaluation,
        notes=facts.notes,
        lineage=family,
        rival=facts.rival,
    )


def close_look(world: World, policy: Policy, facts: CardFacts) -> CloseLook:
    """What the saved answers say: metrics beside the rival's, and kinds of errors. Reads files; takes a while."""
    own = answered(world, facts.version, facts.evaluation)
    rival = answered(world, facts.rival.version, facts.rival.evaluation) if facts.rival else None
    names = metrics_of(policy, (facts.evaluation,))
    found = (_beside(name, facts, own, rival) for name in names)
    metrics = tuple(beside for beside in found if beside)
    if own is None:
        return CloseLook(metrics)
    if own.task.kind == "regression":
        return CloseLook(metrics, residuals=residuals(own.truth, own.answers.labels))
    classes = own.task.classes or tuple(sorted({*own.truth.tolist()}, key=str))
    return CloseLook(
        metrics,
        confusion(own.truth, own.answers.labels, classes),
        reliability(own.truth, own.answers, own.task.classes),
    )


# --- helpers ---------------------------------------------------------------------------------------------------------


def _beside(name: str, facts: CardFacts, own: Answered | None, rival: Answered | None) -> Beside | None:
    value = value_of(facts.evaluation, own, name)
    if value is None or facts.rival is None:
        return Beside(value) if value else None
    between = gap(own, rival, name)
    other = value_of(facts.rival.evaluation, rival, name)
    return Beside(value, other, between.measurement, between.said) if between else Beside(value, other)


def _evaluation(world: World, version: Version, judged: Entry | None) -> Evaluation | None:
    """The one that the gates saw; a later one was made where the version was somebody else's rival."""
    seen = world.evaluations.get(str(judged.draft.data.get("evaluation_id", ""))) if judged else None
    return seen or world.evaluations.latest(version.digest)


def _next_stage(policy: Policy, place: str) -> str | None:
    """The stage that a version would enter next; None for one that is at the top or out."""
    stages = policy.ladder.stages
    if place == "CANDIDATE":
        return stages[0]
    if place not in stages:
        return None
    above = stages[stages.index(place) + 1 :]
    return above[0] if above else place


def _registered(world: World, version: Version) -> Entry | None:
    found = world.ledger.entries(version.model, version=version.number, kinds=(Kind.REGISTERED,))
    return found[0] if found else None


def _lineage(world: World, policy: Policy, version: Version) -> Lineage:
    versions = world.ledger.versions(version.model)
    places = world.ledger.standings(version.model).places
    stage, before = policy.live_stage or policy.ladder.stages[-1], None
    if registered := _registered(world, first_of(version, versions)):
        moves = world.ledger.entries(version.model, registered.at, stage=stage, kinds=MOVES, newest=10)
        before = holder_after((e for e in moves if e.seq < registered.seq), stage)
    return lineage(version, versions, places, before)


def _rival(
    world: World, version: Version, judged: Entry | None, evaluation: Evaluation | None
) -> Rival | None:
    """The incumbent of the judgement; None without one, or without its answers to the same rows."""
    if judged is None or judged.draft.stage is None or evaluation is None:
        return None
    stage = judged.draft.stage
    moves = world.ledger.entries(version.model, judged.at, stage=stage, kinds=MOVES, newest=10)
    holder = holder_after((e for e in moves if e.seq < judged.seq), stage)
    other = next(
        (v for v in world.ledger.versions(version.model) if v.number == holder != version.number), None
    )
    answers = world.evaluations.find(other.digest, evaluation.data_digest) if other else None
    return Rival(other, answers) if other and answers else None
