"""Results as text for people: tables, findings, timelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlplatform.control import EndpointState, Loop
    from mlplatform.domain.card import CardFacts
    from mlplatform.domain.ledger import Entry
    from mlplatform.domain.verdict import Finding
    from mlplatform.domain.version import Version
    from mlplatform.flows.promote import Outcome
    from mlplatform.flows.reconcile import Difference

_COLOURS = {"PASS": "green", "FAIL": "red", "ERROR": "red", "INCONCLUSIVE": "yellow"}
_STATUS = {"done": "green", "rolling_out": "green", "refused": "red", "error": "red", "waiting": "yellow"}


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    from tabulate import tabulate

    click.echo(
        tabulate([[str(c) for c in row] for row in rows], head, tablefmt="plain", disable_numparse=True)
    )


def when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def version(item: Version) -> None:
    click.echo(
        f"{item.ref}  {item.runtime}  {item.size_bytes / 1024:,.1f} KiB  digest {item.digest[:12]}"
        + (f"  {item.technique} of {item.model}@{item.parent}" if item.parent else f"  run {item.run_id[:8]}")
    )


def findings(items: Iterable[Finding]) -> None:
    for finding in items:
        verdict = click.style(f"{finding.verdict.value:<12}", fg=_COLOURS[finding.verdict.value])
        click.echo(f"  {verdict} {finding.gate}: {finding.because}")


def outcome(item: Outcome) -> None:
    word = "would be " + item.status if item.dry_run else item.status
    click.echo(
        f"{item.version.ref} to {item.stage}: {click.style(word.replace('_', ' '), fg=_STATUS[item.status])}"
        f" ({item.because})"
    )
    findings(item.findings)
    if item.tally and item.tally.wanted:
        click.echo(f"  approvals    {len(item.tally.counting)} of {item.tally.wanted}")
        for approval, why in item.tally.void:
            click.echo(f"               void: {approval.actor} at {when(approval.at)}: {why}")
    for change in item.changes if item.status in ("done", "rolling_out") else ():
        click.echo(f"  version {change.version}: {change.origin} -> {change.target}")


def entry(item: Entry) -> None:
    click.echo(_entry_line(item))


def history(entries: Sequence[Entry]) -> None:
    rows = []
    for item in entries:
        draft = item.draft
        moves = ", ".join(f"{c.version}: {c.origin or 'new'} -> {c.target}" for c in draft.changes)
        who = draft.actor.name + ("" if draft.actor.verified else " (unverified)")
        flag = "BREAK-GLASS " if draft.data.get("break_glass") else ""
        rows.append(
            (item.seq, when(item.at), draft.kind.value, draft.version, moves, who, flag + draft.reason)
        )
    table(("#", "time (UTC)", "what", "version", "moves", "who", "why"), rows)


def board(models: dict[str, tuple[Any, list[Version]]], ladders: Mapping[str, Sequence[str]]) -> None:
    rows = []
    for model, (standings, versions) in models.items():
        stages = [f"{s}: {standings.holder(s) or '-'}" for s in ladders.get(model, ())]
        waiting = [str(v.number) for v in versions if standings.places.get(v.number) == "CANDIDATE"]
        rows.append((model, len(versions), "  ".join(stages), " ".join(waiting) or "-"))
    table(("model", "versions", "stages", "candidates"), rows)


def card(item: CardFacts) -> None:
    version(item.version)
    click.echo(f"place     {item.place}")
    click.echo(
        f"author    {item.version.author}, cause {item.version.cause}, {when(item.version.created_at)}"
    )
    if item.evaluation:
        click.echo(f"evaluated {item.evaluation.details.get('source', '')}")
        for measurement in item.evaluation.measurements:
            click.echo(f"          {measurement}")
    if item.findings:
        click.echo(f"findings  for {item.stage}")
        findings(item.findings)
    for technique, notes in item.notes.items():
        click.echo(f"{technique}: {notes}")
    history(item.entries)


def endpoints(items: Sequence[EndpointState]) -> None:
    rows = [
        (
            e.name,
            f"{e.model} {e.stage}",
            e.server.url if e.server.running else "stopped",
            " ".join(e.serving) or "-",
            e.generation,
            e.rollout.phase.value if e.rollout else "-",
        )
        for e in items
    ]
    table(("endpoint", "stage", "server", "serving", "generation", "rollout"), rows)


def loop(item: Loop) -> None:
    seen = item.watched.ingested
    click.echo(
        f"ingested {seen.rows} rows of {seen.blocks} blocks, {item.watched.pending_labels} labels pending"
    )
    for window, decision in item.watched.windows:
        click.echo(
            f"{when(window.start)} .. {when(window.end)}  version {window.version}  {window.rows} rows,"
            f" {window.labelled} labelled  {click.style(decision.action.value, bold=True)}: {decision.because}"
        )
    if item.rolled_back:
        entry(item.rolled_back)
    if item.retrained:
        click.echo(f"retraining: {item.retrained.record.outcome}")
    if item.promoted:
        outcome(item.promoted)


def differences(items: Sequence[Difference]) -> None:
    if not items:
        click.echo("ledger, MLflow, bundles and servers agree")
    for item in items:
        click.echo(f"{item.model}: {item.what}")
        click.echo(click.style(f"  -> {item.repair}", dim=True))


def _entry_line(item: Entry) -> str:
    draft = item.draft
    moves = ", ".join(f"version {c.version}: {c.origin or 'new'} -> {c.target}" for c in draft.changes)
    return f"{draft.model}: {draft.kind.value.replace('_', ' ')} ({draft.reason})" + (
        f"; {moves}" if moves else ""
    )


def moment(at: datetime, standings: Any, entries: Sequence[Entry]) -> None:
    """Where every version stood at a time, and the entry that put it there."""
    rows = []
    for number, place in sorted(standings.places.items()):
        last = next(e for e in reversed(entries) if any(c.version == number for c in e.draft.changes))
        rows.append((number, place, when(last.at), last.draft.actor.name, last.draft.reason))
    click.echo(f"{standings.model} at {when(at)} UTC")
    table(("version", "place", "since", "who", "why"), rows)


def diff(rows: Sequence[Any]) -> None:
    table(("what", "first", "second"), [(d.what, d.first, d.second) for d in rows])
