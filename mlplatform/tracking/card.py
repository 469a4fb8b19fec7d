"""The review card: what a person wants to know before saying yes, as Markdown on MLflow's version page. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from mlplatform.domain.approval import Tally
from mlplatform.domain.card import CardFacts
from mlplatform.domain.history import is_glass_broken, wishes
from mlplatform.domain.ledger import Entry, Kind
from mlplatform.domain.lineage import Lineage, Node
from mlplatform.domain.verdict import Finding, worst
from mlplatform.domain.version import Version
from mlplatform.ports.tracking import ANSWER_TAG, Card
from mlplatform.tracking.markdown import cell, moment, short, size, table

MAX_CHARS = 5000
"""Width of MLflow's description column, which PostgreSQL enforces."""
HISTORY_LINES = 12
MOST_NUMBERS, LONGEST_REASON = 6, 300
"""Of a gate; of a sentence: the report beside the run has all of it."""
COST_GATES = ("budget", "latency", "memory", "serving_check")


def render_card(facts: CardFacts) -> Card:
    """Card of one version: where it stands, findings, approvals, lineage, budget, history; and small tags."""
    sections = [
        _head(facts),
        _findings(facts),
        _approvals(facts),
        _budget(facts),
        _notes(facts),
        _lineage(facts),
    ]
    text = "\n\n".join(section for section in sections if section)
    room = MAX_CHARS - len(text) - 2
    history = _history(facts.entries, facts.version.number, room)
    return Card(_cut(f"{text}\n\n{history}" if history else text), _tags(facts))


def _tags(facts: CardFacts) -> dict[str, str]:
    version = facts.version
    tags = {
        "mlplatform.place": facts.place,
        "mlplatform.digest": version.digest,
        "mlplatform.runtime": version.runtime,
        "mlplatform.cause": short(version.cause, 240),
    }
    tags |= {f"{ANSWER_TAG}{stage}": short(answer, 240) for stage, answer in facts.answers.items()}
    if facts.findings:
        tags["mlplatform.verdict"] = str(worst(facts.findings))
    if version.parent is not None:
        tags["mlplatform.parent"] = f"{version.model}@{version.parent}"
        tags["mlplatform.technique"] = version.technique or ""
    return tags


def _head(facts: CardFacts) -> str:
    """Where it stands, and what was drawn of it: addresses within MLflow's own UI, which serves the files."""
    version = facts.version
    author = f"{size(version.size_bytes)}, {version.runtime}, by {cell(version.author)}"
    lines = [f"### {version.ref} · {facts.place}", author]
    if page := facts.links.get("report.html"):
        monitoring = facts.links.get("monitoring.html")
        also = f" · [Monitoring]({monitoring})" if monitoring else ""
        lines.append(f"[Report]({page}){also}")
    if picture := facts.links.get("metrics.svg"):
        against = f" and of {facts.rival.version.ref} on the same rows" if facts.rival else ""
        lines.append(f"![Metrics of {version.ref}{against}]({picture})")
    return "\n\n".join(lines)


def _findings(facts: CardFacts) -> str:
    if not facts.findings:
        return "Not judged yet."
    title = f"**Gates of {facts.stage}: {worst(facts.findings)}**"
    rows = [_finding(f) for f in facts.findings]
    return f"{title}\n\n{_measured(facts)}" + table(("gate", "verdict", "measured", "limit", "why"), rows)


def _measured(facts: CardFacts) -> str:
    if facts.evaluation is None:
        return ""
    numbers = "; ".join(map(str, facts.evaluation.measurements))
    return f"Measured on {cell(facts.evaluation.details.get('source', ''))}: {cell(numbers)}.\n\n"


def _finding(finding: Finding) -> tuple[str, ...]:
    numbers = [str(m) for m in finding.measurements[:MOST_NUMBERS]]
    if more := len(finding.measurements) - len(numbers):
        numbers.append(f"and {more} more")
    because = short(finding.because, LONGEST_REASON)
    return (
        cell(finding.gate),
        f"**{finding.verdict}**",
        cell("; ".join(numbers)),
        cell(finding.limit),
        cell(because),
    )


def _approvals(facts: CardFacts) -> str:
    return "\n\n".join(_tally(stage, tally) for stage, tally in facts.approvals.items())


def _tally(stage: str, tally: Tally) -> str:
    lines = [f"**Approvals for {stage}: {len(tally.counting)} of {tally.wanted}**", ""]
    for approval in tally.counting:
        sure = "" if approval.verified else ", unverified"
        roles = f" ({cell(', '.join(approval.roles))})" if approval.roles else ""
        who = f"{cell(approval.actor)}{roles}{sure}"
        lines.append(f"- {who}, {moment(approval.at)}: {cell(approval.reason)}")
    for approval, why in tally.void:
        lines.append(f"- void: {cell(approval.actor)}, {moment(approval.at)}, because {cell(why)}")
    return "\n".join(lines)


def _budget(facts: CardFacts) -> str:
    """Size, time, memory, as far as they were measured, beside the size of the rival."""
    version, rival = facts.version, facts.rival.version if facts.rival else None
    than = (
        f", {version.size_bytes / rival.size_bytes - 1:+.0%} against {rival.ref}"
        if rival and rival.size_bytes
        else ""
    )
    costs = [m for f in facts.findings if f.gate in COST_GATES for m in f.measurements]
    lines = [f"- size {size(version.size_bytes)}{than}", *(f"- {cell(m)}" for m in costs)]
    return "**Budget**\n\n" + "\n".join(lines) if costs or than else ""


def _notes(facts: CardFacts) -> str:
    if not facts.notes:
        return ""
    rows = [(cell(step), cell(_note(value))) for step, value in facts.notes.items()]
    return "**Compressed**\n\n" + table(("technique", "measured"), rows)


def _note(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())


def _lineage(facts: CardFacts) -> str:
    """A tree as nested lists: MLflow's Markdown knows no diagrams."""
    version = facts.version
    family = facts.lineage or Lineage(Node(version, facts.place))
    before = f"; {version.model}@{family.before} was live then" if family.before else ""
    lines = [
        f"- bytes `{version.digest}`",
        f"- run `{family.first.run_id}`, cause {cell(family.first.cause)}{before}",
        *_branch(family.root, version, 1),
    ]
    return "**Where it comes from**\n\n" + "\n".join(lines)


def _branch(node: Node, here: Version, depth: int) -> list[str]:
    version = node.version
    name = f"**{version.ref}**" if version.number == here.number else version.ref
    origin = f", {cell(version.technique)} of {version.model}@{version.parent}" if version.parent else ""
    line = f"{' ' * 4 * depth}- {name} {node.place}, {version.runtime}{origin}"
    return [line, *(below for child in node.children for below in _branch(child, here, depth + 1))]


def _history(entries: Sequence[Entry], number: int, room: int) -> str:
    """The newest entries that fit."""
    head = "**History** (`mlplatform history` has all of it)\n"
    lines: list[str] = []
    room -= len(head)
    newest = list(zip(entries, wishes(entries), strict=True))[-HISTORY_LINES:]
    for entry, wish in reversed(newest):
        reason = cell(short(entry.draft.reason, LONGEST_REASON))
        line = f"- {moment(entry.at)} {_event(entry, wish, number)}, {cell(entry.draft.actor.name)}: {reason}"
        room -= len(line) + 1
        if room < 0:
            break
        lines.append(line)
    return "\n".join([head, *lines]) if lines else ""


def _event(entry: Entry, wish: Entry, number: int) -> str:
    """What happened; of a move that another version made, which one that was."""
    moved = [c.target for c in entry.draft.changes if c.version == entry.draft.version]
    done = entry.draft.kind.value.replace("_", " ")
    if moved and entry.draft.kind is not Kind.REGISTERED:
        done += f" to {moved[-1]}"
        if entry.draft.version != number:
            done += f" (version {entry.draft.version})"
    return f"{done} by **break-glass**" if is_glass_broken(wish) else done


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 4] + "\n..."
