"""The review card: what a person wants to know before saying yes, as Markdown on MLflow's version page. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime

from mlplatform.domain.approval import Tally
from mlplatform.domain.card import CardFacts
from mlplatform.domain.ledger import Entry, Kind
from mlplatform.domain.verdict import Finding, Measurement, worst
from mlplatform.ports.tracking import Card

MAX_CHARS = 5000
"""Width of MLflow's description column, which PostgreSQL enforces."""
HISTORY_LINES = 12


def render_card(facts: CardFacts) -> Card:
    """Card of one version: where it stands, findings, approvals, lineage, size, history; and small tags."""
    sections = [_head(facts), _findings(facts), _approvals(facts.tally), _notes(facts), _lineage(facts)]
    text = "\n\n".join(section for section in sections if section)
    room = MAX_CHARS - len(text) - 2
    history = _history(facts.entries, room)
    return Card(_cut(f"{text}\n\n{history}" if history else text), _tags(facts))


def _tags(facts: CardFacts) -> dict[str, str]:
    version = facts.version
    tags = {
        "mlplatform.place": facts.place,
        "mlplatform.digest": version.digest,
        "mlplatform.runtime": version.runtime,
        "mlplatform.cause": version.cause,
    }
    if facts.findings:
        tags["mlplatform.verdict"] = str(worst(facts.findings))
    if version.parent is not None:
        tags["mlplatform.parent"] = f"{version.model}@{version.parent}"
        tags["mlplatform.technique"] = version.technique or ""
    return tags


def _head(facts: CardFacts) -> str:
    version = facts.version
    return f"### {version.ref} · {facts.place}\n\n{_size(version.size_bytes)}, {version.runtime}, by {version.author}"


def _findings(facts: CardFacts) -> str:
    if not facts.findings:
        return "Not judged yet."
    verdict = worst(facts.findings)
    title = f"**Gates of {facts.stage}: {verdict}**" if facts.stage else f"**Gates: {verdict}**"
    rows = [_finding(f) for f in facts.findings]
    where = facts.evaluation.details.get("source", "") if facts.evaluation else ""
    on = f"\n\nMeasured on {_cell(where)}." if where else ""
    return f"{title}{on}\n\n" + _table(("gate", "verdict", "measured", "limit", "why"), rows)


def _finding(finding: Finding) -> tuple[str, ...]:
    sign = f"**{finding.verdict}**"
    measured = "; ".join(map(str, finding.measurements))
    return (finding.gate, sign, measured, finding.limit, finding.because)


def _approvals(tally: Tally | None) -> str:
    if tally is None or (tally.wanted == 0 and not tally.counting and not tally.void):
        return ""
    lines = [f"**Approvals: {len(tally.counting)} of {tally.wanted}**", ""]
    for approval in tally.counting:
        sure = "" if approval.verified else ", unverified"
        lines.append(f"- {_cell(approval.actor)}{sure}, {_time(approval.at)}: {_cell(approval.reason)}")
    for approval, why in tally.void:
        lines.append(f"- void: {_cell(approval.actor)}, {_time(approval.at)}, because {why}")
    return "\n".join(lines)


def _notes(facts: CardFacts) -> str:
    if not facts.notes:
        return ""
    rows = [(step, _note(value)) for step, value in facts.notes.items()]
    return "**Compressed**\n\n" + _table(("technique", "measured"), rows)


def _note(value: object) -> str:
    if not isinstance(value, dict):
        return str(value)
    return ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in value.items())


def _lineage(facts: CardFacts) -> str:
    version = facts.version
    origin = f"cause {_cell(version.cause)}"
    if version.parent is not None:
        origin = f"{version.technique} of {version.model}@{version.parent}"
    measured = "".join(f"\n- {line}" for line in _measured(facts))
    return (
        f"**Where it comes from**\n\n- {origin}, run `{version.run_id}`\n- bytes `{version.digest}`{measured}"
    )


def _measured(facts: CardFacts) -> Iterable[str]:
    measurements: Sequence[Measurement] = facts.evaluation.measurements if facts.evaluation else ()
    return (str(m) for m in measurements)


def _history(entries: Sequence[Entry], room: int) -> str:
    """The newest entries that fit."""
    head = "**History** (`mlplatform history` has all of it)\n"
    lines: list[str] = []
    room -= len(head)
    for entry in reversed(entries[-HISTORY_LINES:]):
        line = f"- {_time(entry.at)} {_event(entry)}, {_cell(entry.draft.actor.name)}: {_cell(entry.draft.reason)}"
        room -= len(line) + 1
        if room < 0:
            break
        lines.append(line)
    return "\n".join([head, *lines]) if lines else ""


def _event(entry: Entry) -> str:
    moved = [c.target for c in entry.draft.changes if c.version == entry.draft.version]
    done = entry.draft.kind.value.replace("_", " ")
    return f"{done} to {moved[-1]}" if moved and entry.draft.kind is not Kind.REGISTERED else done


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *(tuple(_cell(v) for v in row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(text: str) -> str:
    """One line that cannot leave its cell, nor bring markup of its own: actors and reasons are typed by people."""
    text = " ".join(str(text).split())
    for sign in ("\\", "|", "<", "[", "]", "`", "!"):
        text = text.replace(sign, f"\\{sign}" if sign != "<" else "&lt;")
    return text


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M}"


def _size(size_bytes: int) -> str:
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.3g} {unit}"
    return f"{size_bytes} B"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_CHARS else text[: MAX_CHARS - 4] + "\n..."
