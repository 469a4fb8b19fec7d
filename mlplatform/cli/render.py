"""Results as text for people: tables, findings, timelines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from mlplatform.cli import render_labels

if TYPE_CHECKING:
    from mlplatform.control import EndpointState, Loop
    from mlplatform.domain.approval import Tally
    from mlplatform.domain.history import Spell
    from mlplatform.domain.ladder import Change, Standings
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
    if item.frozen and item.status != "refused":
        told = f"  FROZEN       {item.stage} is {item.frozen}; the glass is broken"
        click.echo(click.style(told, fg="yellow"))
    findings(item.findings)
    if item.tally:
        approvals(item.tally)
        if item.status == "waiting" and not item.tally.settles:
            click.echo(
                f"  next         mlplatform approve {item.version.ref} --for {item.stage} --reason ..."
            )
    if item.status == "rolling_out" and not item.dry_run:
        click.echo(
            f"  next         mlplatform monitor {item.version.model} looks again, and so does `mlplatform up`"
        )
    for change in item.changes if item.status == "done" else ():
        click.echo(f"  version {change.version}: {change.origin} -> {change.target}")


def approvals(item: Tally, name: str = "approvals", indent: str = "  ") -> None:
    """Who said yes, and whose word is void and why."""
    if not (item.wanted or item.counting or item.void):
        return
    click.echo(f"{indent}{name:<12} {len(item.counting)} of {item.wanted}")
    for approval in item.counting:
        roles = f" ({', '.join(approval.roles)})" if approval.roles else ""
        sure = "" if approval.verified else " (unverified)"
        click.echo(
            f"{indent}{'':<12} {approval.actor}{roles}{sure} at {when(approval.at)}: {approval.reason}"
        )
    for approval, why in item.void:
        click.echo(f"{indent}{'':<12} void: {approval.actor} at {when(approval.at)}: {why}")


def entry(item: Entry) -> None:
    click.echo(_entry_line(item))


def history(entries: Sequence[Entry]) -> None:
    from mlplatform.domain.history import wishes

    if not entries:
        click.echo("nothing happened yet")
        return
    rows = []
    for item, wish in zip(entries, wishes(entries), strict=True):
        draft = item.draft
        moves = ", ".join(f"{c.version}: {c.origin or 'new'} -> {c.target}" for c in draft.changes)
        rows.append(
            (
                item.seq,
                when(item.at),
                said(draft.kind.value),
                draft.version,
                moves,
                _who(item),
                _why(item, wish),
            )
        )
    table(("#", "time (UTC)", "what", "version", "moves", "who", "why"), rows)


def tenures(items: Sequence[Spell], entries: Sequence[Entry]) -> None:
    """Who answered for a stage, from when to when; then all that concerns it."""
    rows = [
        (
            s.stage,
            s.version,
            f"{100 * s.share:g} %",
            when(s.since),
            when(s.until) if s.until else "now",
            _who(s.wish),
            _why(s.wish, s.wish),
        )
        for s in items
    ]
    if rows:
        table(("stage", "version", "share", "from (UTC)", "until", "who", "why"), rows)
        click.echo()
    history(entries)


def _why(item: Entry, wish: Entry) -> str:
    """The entry's reason, marked when what it rests on was let in by breaking the glass."""
    from mlplatform.domain.history import is_glass_broken

    reason = item.draft.reason
    return fitting(f"BREAK-GLASS {reason.removeprefix('break-glass: ')}" if is_glass_broken(wish) else reason)


def _who(item: Entry) -> str:
    actor = item.draft.actor
    return actor.name + ("" if actor.verified else " (unverified)")


def serving(item: EndpointState) -> None:
    """Where an endpoint answers."""
    if item.server.running:
        click.echo(f"  {' '.join(item.serving)} answers at {item.server.url}{item.path}")


def endpoints(items: Sequence[EndpointState]) -> None:
    rows = [
        (
            e.name,
            f"{e.model} {e.stage}",
            (e.server.url if e.server.running else "stopped")
            + (f" ({e.target})" if e.target != "local" else ""),
            " ".join(e.serving) or "-",
            e.generation,
            _rolling(e),
        )
        for e in items
    ]
    table(("endpoint", "stage", "server", "serving", "generation", "rollout"), rows)


def _rolling(item: EndpointState) -> str:
    """`2: 5 %, step 2 of 4`, or the rollout's phase."""
    if item.rollout is None:
        return "-"
    if item.baking is None:
        return item.rollout.phase.value
    return f"{item.rollout.version}: {item.baking}"


def loop(item: Loop) -> None:
    from mlplatform.domain.history import step_said

    seen = item.watched.ingested
    aside = item.watched.refused_labels
    click.echo(
        f"ingested {seen.rows} rows of {seen.blocks} blocks, {item.watched.pending_labels} labels pending"
        + (f", {aside.labels} refused" if aside.labels else "")
    )
    render_labels.kept_aside(aside)
    if not item.watched.windows:
        click.echo("no window is over that was not read before")
    for window, decision in item.watched.windows:
        click.echo(
            f"{when(window.start)} .. {when(window.end)}  version {window.version}  {window.rows} rows,"
            f" {window.labelled} labelled  {click.style(decision.action.value, bold=True)}: {decision.because}"
        )
    for step in item.steps:
        click.echo(f"{step.draft.model}@{step.draft.version} to {step.draft.stage}: {step_said(step)}")
    if item.rolled_back:
        entry(item.rolled_back)
    for rollout in item.rollouts:
        if rollout.phase == "shifted":
            click.echo(f"{rollout.model}@{rollout.version} to {rollout.stage}: {rollout.because}")
    if item.retrained:
        click.echo(f"retraining: {item.retrained.record.outcome}")
    if item.promoted:
        outcome(item.promoted)
    for sentence in item.then:
        click.echo(sentence)


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
            f"  {technique}: " + ", ".join(f"{said(name)} {short(value)}" for name, value in notes.items())
        )


def planned_deployment(item: PlannedDeployment) -> None:
    server = f"its server runs on {item.target}"
    if item.moves_from:
        server = f"its server would move from {item.moves_from} to {item.target}"
    elif not item.running:
        server = f"its server would be started on {item.target}"
    click.echo(f"endpoint {item.endpoint} would serve {item.version}; {server}")
    for change in item.changes:
        click.echo(f"  {change}")


def planned_retraining(item: PlannedRetraining) -> None:
    word = "would be trained" if item.permit.allowed else "would be refused"
    click.echo(f"a challenger {word} ({item.permit.because}), with {item.rows} captured, labelled rows")
    climbs = f"would enter {', '.join(item.climbs)}" if item.climbs else "would stay a candidate"
    click.echo(f"  if it passes, it {climbs}")


def planned_moves(headline: str, changes: Iterable[Change]) -> None:
    click.echo(headline)
    for change in changes:
        click.echo(f"  version {change.version}: {change.origin} -> {change.target}")


def said(name: str) -> str:
    """A name of the code as words."""
    return name.replace("_", " ")


def fitting(text: str, width: int = 90) -> str:
    """A line that leaves the table readable; `--json` has all of it."""
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 3] + "..."


def short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _entry_line(item: Entry) -> str:
    from mlplatform.domain.history import step_said

    return f"{item.draft.model}: {step_said(item)}"


def moment(
    at: datetime, now: datetime, standings: Standings, live: Sequence[Spell], entries: Sequence[Entry]
) -> None:
    """Where every version stood at a time, what it answered at which endpoint, and the entry that put it there."""
    if not entries:
        click.echo(f"nothing of {standings.model} was there at {when(at)} UTC")
        return
    future = ", which is to come: as it is now" if at > now else ""
    click.echo(f"{standings.model} at {when(at)} UTC{future}")
    rows = []
    for number, place in sorted(standings.places.items()):
        spells = [s for s in live if s.version == number]
        traffic = ", ".join(f"{100 * s.share:g} % of {s.stage} at {s.endpoint}" for s in spells) or "-"
        if spells:
            since, wish = spells[-1].since, spells[-1].wish
        else:
            wish = next(e for e in reversed(entries) if any(c.version == number for c in e.draft.changes))
            since = wish.at
        rows.append((number, place, traffic, when(since), _who(wish), _why(wish, wish)))
    table(("version", "place", "answers", "since", "who", "why"), rows)
