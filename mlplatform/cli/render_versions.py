"""Versions as text for people: the board, a version's card, differences, trends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from mlplatform.cli import render

if TYPE_CHECKING:
    from mlplatform.domain.card import CardFacts
    from mlplatform.domain.lineage import Lineage, Node
    from mlplatform.domain.trend import Point, Trend
    from mlplatform.domain.verdict import Measurement
    from mlplatform.domain.version import Version
    from mlplatform.flows.board import Cell, Row
    from mlplatform.flows.diff import Diff, Line

_SAID = {"better": "green", "worse": "red"}


# --- the board -------------------------------------------------------------------------------------------------------


def board(rows: Sequence[Row]) -> None:
    """One table a ladder: models of one ladder stand below each other."""
    now = datetime.now(UTC)
    if not rows:
        click.echo("no model yet")
    ladders = dict.fromkeys(tuple(row.stages) for row in rows)
    for i, ladder in enumerate(ladders):
        if i:
            click.echo()
        lines = [
            (
                row.model,
                *(_cell(row.stages[stage], now) for stage in ladder),
                " ".join(map(str, row.candidates)) or "-",
                row.versions,
            )
            for row in rows
            if tuple(row.stages) == ladder
        ]
        render.table(("model", *ladder, "candidates", "versions"), lines)
    for row in rows:
        for line in row.going_on:
            click.echo(f"{row.model}: {line}")


def _cell(cell: Cell | None, now: datetime) -> str:
    if cell is None:
        return "-"
    value = f"  {cell.value.name} {cell.value.value:.4g}" if cell.value else ""
    return f"{cell.version}  {age(now - cell.since)}{value}"


def age(span: Any) -> str:
    """
    >>> from datetime import timedelta
    >>> age(timedelta(hours=50))
    '2 d'
    """
    seconds = max(0, int(span.total_seconds()))
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length} {unit}"
    return f"{seconds} s"


# --- one version -----------------------------------------------------------------------------------------------------


def card(item: CardFacts) -> None:
    render.version(item.version)
    click.echo(f"place     {item.place}")
    for stage, frozen in item.frozen.items():
        click.echo(f"frozen    {stage} is {frozen}")
    made = render.when(item.version.created_at)
    click.echo(f"author    {item.version.author}, cause {item.version.cause}, {made}")
    if item.evaluation:
        click.echo(f"evaluated {item.evaluation.details.get('source', '')}")
        for measurement in item.evaluation.measurements:
            click.echo(f"          {measurement}")
    if item.findings:
        click.echo(f"findings  for {item.stage}")
        render.findings(item.findings)
    for stage, tally in item.approvals.items():
        render.approvals(tally, f"approvals for {stage}", "")
    by_technique: Mapping[str, Any] = item.notes
    for technique, notes in by_technique.items():
        told = ", ".join(f"{render.said(name)} {render.short(value)}" for name, value in notes.items())
        click.echo(f"notes     {technique}: {told}")
    if item.lineage:
        lineage(item.lineage, item.version)
    render.history(item.entries)


def lineage(item: Lineage, here: Version) -> None:
    """The family as a tree, from the run that trained its first member."""
    before = f", while {here.model}@{item.before} was live" if item.before else ""
    click.echo(f"lineage   run {item.first.run_id[:12]}, cause {item.first.cause}{before}")
    for line in _tree(item.root, here, "", True):
        click.echo(f"          {line}")


def _tree(node: Node, here: Version, indent: str, last: bool) -> Iterator[str]:
    v = node.version
    origin = f", {v.technique} of {v.model}@{v.parent}" if v.parent else ""
    name = click.style(v.ref, bold=True) if v.number == here.number else v.ref
    mark = "  <- this" if v.number == here.number else ""
    yield f"{indent}{'└─' if last else '├─'} {name}  {node.place}, {v.runtime}{origin}{mark}"
    below = indent + ("   " if last else "│  ")
    for i, child in enumerate(node.children):
        yield from _tree(child, here, below, i == len(node.children) - 1)


# --- two versions ----------------------------------------------------------------------------------------------------


def diff(item: Diff) -> None:
    for i, section in enumerate(item.sections):
        if i:
            click.echo()
        note = f"  ({section.note})" if section.note else ""
        click.echo(click.style(section.name, bold=True) + note)
        if section.lines:
            _side_by_side(item, section.lines)
    if item.same:
        click.echo(f"\nthe same: {', '.join(item.same)}")


def _side_by_side(item: Diff, lines: Sequence[Line]) -> None:
    rows = []
    for line in lines:
        told = " ".join(text for text in (_difference(line.difference), line.said) if text)
        colour = _SAID.get(line.said)
        rows.append(
            (
                line.name,
                _side(line.first),
                _side(line.second),
                click.style(told, fg=colour) if colour else told,
            )
        )
    head = ("", item.first, item.second, "difference" if any(row[3] for row in rows) else "")
    render.table(head, rows)


def _side(value: Measurement | str | None) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else _number(value)


def _difference(value: Measurement | str | None) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    between = (
        f" [{value.low:+.4g}, {value.high:+.4g}]" if value.low is not None and value.high is not None else ""
    )
    return f"{value.value:+.4g}{between}"


def _number(value: Measurement) -> str:
    return str(value).removeprefix(f"{value.name} ")


# --- a metric over versions ------------------------------------------------------------------------------------------


def trend(item: Trend) -> None:
    better = "higher is better" if item.higher_is_better else "lower is better"
    click.echo(f"{item.metric} of {item.model}, {better}; newest evaluation of each version, 95 % intervals")
    render.table(
        (
            "version",
            "place",
            item.metric,
            "interval",
            "n",
            "rows",
            "less live's, same rows",
            "evaluated",
            "made by",
        ),
        [_point(point) for point in item.points],
    )
    for name, rows in item.rows.items():
        click.echo(f"rows {name}: {rows.count:,}, {rows.source} ({rows.digest[:12]})")
    if len(item.rows) > 1:
        click.echo(
            "Numbers on different rows cannot be compared; `mlplatform diff` looks for rows that two share."
        )


def _point(point: Point) -> tuple[str, ...]:
    version, value = point.version, point.value
    place = f"{point.place} (live)" if point.live else point.place
    made_by = f"{version.technique} of {version.parent}" if version.parent else version.cause
    told = ("-", "-", "-")
    if value is not None:
        known = value.low is not None and value.high is not None
        told = (f"{value.value:.4g}", f"[{value.low:.4g}, {value.high:.4g}]" if known else "-", str(value.n))
    against = f"{_difference(point.against_live)} {point.said}" if point.against_live else "-"
    evaluated = f"{point.at:%Y-%m-%d %H:%M}" if point.at else "not yet"
    return (
        str(version.number),
        place,
        *told,
        point.rows or "-",
        against,
        evaluated,
        render.fitting(made_by, 40),
    )
