"""Results as text for people: tables, findings, timelines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from mlplatform.control import EndpointState, Loop
    from mlplatform.domain.card import CardFacts
    from mlplatform.domain.ladder import Change
    from mlplatform.domain.ledger import Entry
    from mlplatform.domain.verdict import Finding
    from mlplatform.domain.version import Version
    from mlplatform.flows.plan import PlannedDeployment, PlannedRetraining, PlannedVersion
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
    known = "" if item.dry_run and item.status == "done" else f" ({item.because})"
    click.echo(
        f"{item.version.ref} to {item.stage}: {click.style(word.replace('_', ' '), fg=_STATUS[item.status])}{known}"
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
    if not entries:
        click.echo("nothing happened yet")
        return
    rows = []
    for item in entries:
        draft = item.draft
        moves = ", ".join(f"{c.version}: {c.origin or 'new'} -> {c.target}" for c in draft.changes)
        who = draft.actor.name + ("" if draft.actor.verified else " (unverified)")
        flag = "BREAK-GLASS " if draft.data.get("break_glass") else ""
        rows.append(
            (
                item.seq,
                when(item.at),
                _said(draft.kind.value),
                draft.version,
                moves,
                who,
                _fitting(flag + draft.reason),
            )
        )
    table(("#", "time (UTC)", "what", "version", "moves", "who", "why"), rows)


def board(models: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for item in models:
        stages = [f"{stage}: {holder or '-'}" for stage, holder in item["stages"].items()]
        waiting = [str(number) for number, place in item["places"].items() if place == "CANDIDATE"]
        rows.append((item["model"], len(item["versions"]), "  ".join(stages), " ".join(waiting) or "-"))
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
    by_technique: Mapping[str, Any] = item.notes
    for technique, notes in by_technique.items():
        told = ", ".join(f"{_said(name)} {_short(value)}" for name, value in notes.items())
        click.echo(f"notes     {technique}: {told}")
    history(item.entries)


def serving(item: EndpointState) -> None:
    """Where an endpoint answers."""
    if item.server.running:
        click.echo(f"  {' '.join(item.serving)} answers at {item.server.url}/invocations")


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
    if not item.watched.windows:
        click.echo("no window is over that was not read before")
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


def planned_version(item: PlannedVersion) -> None:
    known = f"; it is {item.model}@{item.exists_as} already" if item.exists_as else ""
    click.echo(
        f"would be a version of {item.model}: {item.runtime}, {item.size_bytes / 1024:,.1f} KiB, {item.source}{known}"
    )
    for technique, notes in item.notes.items():
        click.echo(
            f"  {technique}: " + ", ".join(f"{_said(name)} {_short(value)}" for name, value in notes.items())
        )


def planned_deployment(item: PlannedDeployment) -> None:
    server = "its server runs" if item.running else "its server would be started"
    click.echo(f"endpoint {item.endpoint} would serve {item.version}; {server}")


def planned_retraining(item: PlannedRetraining) -> None:
    word = "would be trained" if item.permit.allowed else "would be refused"
    click.echo(f"a challenger {word} ({item.permit.because}), with {item.rows} captured, labelled rows")
    climbs = f"would enter {', '.join(item.climbs)}" if item.climbs else "would stay a candidate"
    click.echo(f"  if it passes, it {climbs}")


def planned_moves(headline: str, changes: Iterable[Change]) -> None:
    click.echo(headline)
    for change in changes:
        click.echo(f"  version {change.version}: {change.origin} -> {change.target}")


def _said(name: str) -> str:
    """A name of the code as words."""
    return name.replace("_", " ")


def _fitting(text: str, width: int = 90) -> str:
    """A line that leaves the table readable; `show` and `--json` have all of it."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _entry_line(item: Entry) -> str:
    draft = item.draft
    moves = ", ".join(f"version {c.version}: {c.origin or 'new'} -> {c.target}" for c in draft.changes)
    return f"{draft.model}: {draft.kind.value.replace('_', ' ')} ({draft.reason})" + (
        f"; {moves}" if moves else ""
    )


def moment(at: datetime, standings: Any, entries: Sequence[Entry]) -> None:
    """Where every version stood at a time, and the entry that put it there."""
    if not standings.places:
        click.echo(f"nothing of {standings.model} was there at {when(at)} UTC")
        return
    rows = []
    for number, place in sorted(standings.places.items()):
        last = next(e for e in reversed(entries) if any(c.version == number for c in e.draft.changes))
        rows.append((number, place, when(last.at), last.draft.actor.name, last.draft.reason))
    click.echo(f"{standings.model} at {when(at)} UTC")
    table(("version", "place", "since", "who", "why"), rows)


def diff(rows: Sequence[Any]) -> None:
    table(("what", "first", "second"), [(d.what, d.first, d.second) for d in rows])
