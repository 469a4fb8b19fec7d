"""Commands of the clock: schedule add, list, remove, run."""

from __future__ import annotations

from typing import Any

import click

from mlplatform.cli import render
from mlplatform.cli.common import emit, json_option, only_model, platform

VERBS = ("monitor", "retrain", "reconcile")


@click.group()
def schedule() -> None:
    """Cron jobs in a time zone: each fires once, over any number of runners."""


@schedule.command()
@click.argument("verb", type=click.Choice(VERBS))
@click.argument("model", required=False)
@click.option("--cron", required=True, help='Five fields, for example "0 3 * * MON".')
@click.option("--timezone", default="UTC", show_default=True)
@click.option("--name", help="Default: MODEL-VERB.")
@json_option
def add(verb: str, model: str | None, cron: str, timezone: str, name: str | None, as_json: bool) -> None:
    """Fire a job on a schedule; adding a name again replaces it.

    \b
    mlplatform schedule add retrain churn --cron "0 3 * * MON" --timezone Europe/Berlin
    """
    from mlplatform.calendar import check_cron
    from mlplatform.ports.state import Schedule

    check_cron(cron, timezone)
    p, chosen = platform(), only_model(model)
    p.policy(chosen)
    item = Schedule(name or f"{chosen}-{verb}", verb, chosen, cron, timezone, p.world.clock.now())
    p.schedules.save(item)
    emit(item, as_json, lambda s: click.echo(f"{s.name}: {s.verb} {s.model} at {s.cron} ({s.timezone})"))


@schedule.command("list")
@json_option
def list_schedules(as_json: bool) -> None:
    """Schedules, when they fire next, and what their last firing did.

    \b
    mlplatform schedule list
    """
    from mlplatform.calendar import next_due

    p = platform()
    rows: list[dict[str, Any]] = []
    for item in p.schedules.all():
        fired = p.schedules.firings(item.name)
        last = max(fired, key=lambda f: f.due_at, default=None)
        rows.append({"schedule": item, "next": next_due(item, p.world.clock.now()), "last": last})
    emit(rows, as_json, _table)


@schedule.command()
@click.argument("name")
@json_option
def remove(name: str, as_json: bool) -> None:
    """Fire a job no more.

    \b
    mlplatform schedule remove churn-monitor
    """
    from mlplatform.errors import UnknownName

    p = platform()
    known = [s.name for s in p.schedules.all()]
    if name not in known:
        raise UnknownName("schedule", name, known)
    p.schedules.remove(name)
    emit({"removed": name}, as_json, lambda _: click.echo(f"removed {name}"))


@schedule.command()
@click.option("--once", is_flag=True, help="Fire what is due now and end.")
def run(once: bool) -> None:
    """Fire what is due until Ctrl-C; any number of runners may run. `mlplatform up` has one.

    \b
    mlplatform schedule run --once
    """
    from mlplatform.jobs.runner import Runner, stopping_on_signals

    p = platform()
    lines: list[str] = []

    def tell(line: str) -> None:
        lines.append(line)
        click.echo(line)

    runner = Runner(p, p.schedules, p.world.leases, p.world.clock, p.owner, tell)
    if once:
        runner.tick()
        if not lines:
            click.echo("nothing is due")
        return
    click.echo(f"{len(p.schedules.all())} schedules; Ctrl-C stops")
    with stopping_on_signals() as stop:
        runner.run(stop)


def _table(rows: list[dict[str, Any]]) -> None:
    cells = []
    for row in rows:
        item, last = row["schedule"], row["last"]
        done = f"{render.when(last.due_at)}: {last.outcome or 'running'}" if last else "-"
        cells.append(
            (item.name, item.verb, item.model, item.cron, item.timezone, render.when(row["next"]), done)
        )
    render.table(("name", "verb", "model", "cron", "time zone", "next (UTC)", "last"), cells)
