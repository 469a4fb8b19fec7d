"""Commands of the loop: monitor, report, label, retrain."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from mlplatform.cli import render, render_labels
from mlplatform.cli.common import (
    Moment,
    dry_run_option,
    emit,
    json_option,
    leave,
    only_model,
    platform,
    read_table,
)


@click.command()
@click.argument("model", required=False)
@click.option(
    "--until", type=Moment(), help="Close windows up to this time; default: the newest captured row."
)
@dry_run_option
@json_option
def monitor(model: str | None, until: datetime | None, dry_run: bool, as_json: bool) -> None:
    """Read the windows that are over and do what they ask for: alert, retrain, roll back.

    A window is over once a row after its end was captured, or when --until names a time after its end. With --dry-run
    windows are read and decisions shown; nothing is retrained or moved.

    \b
    mlplatform monitor churn
    mlplatform monitor churn --until 2026-03-01T12:00
    """
    loop = platform().monitor(only_model(model), until, act=not dry_run)
    emit(loop, as_json, render.loop)


@click.command()
@click.argument("model", required=False)
@click.option("--out", type=click.Path(path_type=Path), help="Default: .mlplatform/reports/MODEL.html")
@json_option
def report(model: str | None, out: Path | None, as_json: bool) -> None:
    """Write the HTML report: quality and drift by window, and what was decided.

    \b
    mlplatform report churn --out churn.html
    """
    name, p = only_model(model), platform()
    path = p.report(name, out or p.settings.home / "reports" / f"{name}.html")
    emit({"path": str(path)}, as_json, lambda _: click.echo(str(path)))


@click.command()
@click.argument("endpoint")
@click.argument("labels", type=click.Path(path_type=Path))
@click.option("--id", "id_column", default="id", show_default=True, help="Column with the prediction ids.")
@click.option("--column", default="label", show_default=True, help="Column with what came true.")
@click.option("--replace", is_flag=True, help="Replace other labels of the rows; the ledger says who did so.")
@json_option
def label(endpoint: str, labels: Path, id_column: str, column: str, replace: bool, as_json: bool) -> None:
    """Join what came true to what was predicted, from a Parquet or CSV file. Repeating it is harmless.

    Labels that cannot be true of their row are refused, each told, and the others are taken. Exit code 3: some were
    refused. 5: rows have another label already, which stays unless --replace is given.

    \b
    mlplatform label churn outcomes.csv --id id --column churned
    """
    from mlplatform.errors import CONFLICT, REFUSED, UnknownName

    table = read_table(labels)
    for name in (id_column, column):
        if name not in table:
            raise UnknownName(f"column of {labels}", name, table)
    result = platform().label(endpoint, table[id_column], table[column], replace)
    emit(result, as_json, render_labels.labelled)
    leave(CONFLICT if result.conflicting else REFUSED if result.refused + result.unknown_class else 0)


@click.command()
@click.argument("model", required=False)
@click.option("--cause", default="manual", show_default=True)
@click.option("--governed", is_flag=True, help="Let the governor refuse it, as it may refuse a trigger.")
@dry_run_option
@json_option
def retrain(model: str | None, cause: str, governed: bool, dry_run: bool, as_json: bool) -> None:
    """Train a challenger with captured, labelled rows and let it climb as far as the policy's `auto` says.

    \b
    mlplatform retrain churn --cause "new price list"
    """
    name, p = only_model(model), platform()
    if dry_run:
        from mlplatform.flows import plan

        planned = plan.retraining(p.world, p.policy(name), forced=not governed)
        emit(planned, as_json, render.planned_retraining)
        leave(0 if planned.permit.allowed else 3)
        return
    retrained, outcome = p.retrain(name, cause, forced=not governed)
    emit(
        {"retrained": retrained, "outcome": outcome}, as_json, lambda _: click.echo(retrained.record.outcome)
    )
    if outcome and not as_json:
        render.outcome(outcome)
    leave(0 if retrained.permit.allowed else 3)
