"""Commands from a run to a stage: train, register, compress, check, promote, reject, rollback, retire;
and the history."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mlplatform.cli import render
from mlplatform.cli.common import (
    Moment,
    dry_run_option,
    emit,
    json_option,
    leave,
    only_model,
    platform,
    progress,
    reason_option,
)

if TYPE_CHECKING:
    from mlplatform.control import Platform
    from mlplatform.domain.ladder import Change
    from mlplatform.domain.ledger import Entry


@click.command()
@click.argument("model", required=False)
@click.option(
    "-P", "parameters", multiple=True, metavar="KEY=VALUE", help="Parameter of the project; repeatable."
)
@click.option(
    "--project",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Another MLflow Project.",
)
@click.option("--register/--no-register", default=True, help="Register what the run logged, too.")
@json_option
def train(
    model: str | None, parameters: tuple[str, ...], project: Path | None, register: bool, as_json: bool
) -> None:
    """Run the model's MLflow Project and register what it logs.

    \b
    mlplatform train churn -P max_depth=6
    """
    from mlplatform.errors import UsageError

    if bad := [p for p in parameters if "=" not in p]:
        raise UsageError(what=f"-P {bad[0]} is not KEY=VALUE", hint="Write for example -P max_depth=6.")
    name, p = only_model(model), platform()
    run_id = p.train(name, dict(item.split("=", 1) for item in parameters), project)
    if not register:
        emit({"run_id": run_id}, as_json, lambda r: click.echo(f"run {run_id}"))
        return
    emit(p.register(name, run_id), as_json, render.version)


@click.command()
@click.argument("model")
@click.option(
    "--run",
    "run_id",
    required=True,
    help="The MLflow run that logged the candidate: its id, or the first 8 characters.",
)
@dry_run_option
@json_option
def register(model: str, run_id: str, dry_run: bool, as_json: bool) -> None:
    """Freeze what a run logged and enter it as a candidate. A run that was registered keeps its version.

    \b
    mlplatform register churn --run 6f1c0d0a7d0b4c1e9a51c1f6f5d3c1aa
    """
    p = platform()
    if dry_run:
        from mlplatform.flows import plan

        emit(plan.registration(p.world, p.policy(model), run_id), as_json, render.planned_version)
        return
    emit(p.register(model, run_id), as_json, render.version)


@click.command()
@click.argument("ref")
@click.option("--steps", default="", help="Techniques, comma-separated; default: [compress] of the policy.")
@dry_run_option
@json_option
def compress(ref: str, steps: str, dry_run: bool, as_json: bool) -> None:
    """Make a smaller or faster child of a version. With --dry-run it is made, measured and thrown away.

    \b
    mlplatform compress churn@7 --steps onnx,dynamic_int8
    """
    names = [s.strip() for s in steps.split(",") if s.strip()]
    p = platform()
    if dry_run:
        from mlplatform.flows import plan
        from mlplatform.flows.register import techniques

        parent = p.version(ref)
        uses = techniques(p.policy(parent.model), names)
        emit(plan.compression(p.world, parent, uses), as_json, render.planned_version)
        return
    emit(p.compress(ref, names), as_json, render.version)


@click.command()
@click.argument("ref")
@click.argument("stage")
@json_option
def check(ref: str, stage: str, as_json: bool) -> None:
    """What `promote` would say, with the exit code that it would end with; changes nothing.

    \b
    mlplatform check churn@7 production
    """
    outcome = platform().check(ref, stage)
    emit(outcome, as_json, render.outcome)
    leave(outcome.exit_code)


@click.command()
@click.argument("ref")
@click.argument("stage")
@reason_option()
@click.option("--break-glass", is_flag=True, help="Skip gates and approvals; recorded and shown.")
@dry_run_option
@json_option
def promote(ref: str, stage: str, reason: str, break_glass: bool, dry_run: bool, as_json: bool) -> None:
    """Put a version into a stage if its gates and approvals allow it.

    \b
    mlplatform promote churn@7 staging --reason "weekly"
    """
    p = platform()
    try:
        outcome = p.promote(ref, stage, reason, break_glass, dry_run)
    except KeyboardInterrupt:
        if not dry_run:
            _tell_standing(p, ref, stage)
        raise
    emit(outcome, as_json, render.outcome)
    if outcome.rollout and outcome.status == "done" and not as_json:
        render.serving(p.endpoint(f"{outcome.rollout.endpoint}/{outcome.rollout.model}"))
    leave(outcome.exit_code)


def _tell_standing(p: Platform, ref: str, stage: str) -> None:
    """What a person who pressed Ctrl-C wants to know."""
    from mlplatform.flows.interrupted import standing

    version = p.version(ref)
    progress(standing(p.world, p.policy(version.model), version, stage))


@click.command()
@click.argument("model")
@click.option("--stage", help="Default: the highest stage with an endpoint.")
@click.option("--to", type=int, help="Version to bring back; default: the last good one.")
@reason_option()
@dry_run_option
@json_option
def rollback(
    model: str, stage: str | None, to: int | None, reason: str, dry_run: bool, as_json: bool
) -> None:
    """Take a stage's version out and put the last good one back: traffic first.

    \b
    mlplatform rollback churn --reason "refunds doubled"
    """
    p = platform()
    if dry_run:
        version, changes = p.plan_rollback(model, stage, to)
        result = {"model": model, "version": version, "changes": changes, "dry_run": True}
        emit(result, as_json, lambda _: render.planned_moves(f"would bring back {model}@{version}", changes))
        return
    emit(p.rollback(model, stage, reason, to), as_json, render.entry)


@click.command()
@click.argument("ref")
@reason_option()
@dry_run_option
@json_option
def reject(ref: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Take a version out for good that never went live. For a live one there is `rollback`.

    \b
    mlplatform reject churn@7 --reason "trained on the wrong months"
    """
    p = platform()
    if dry_run:
        _planned(ref, "reject", p.plan_rejection(ref), as_json)
    else:
        emit(p.reject(ref, reason), as_json, render.entry)


@click.command()
@click.argument("ref")
@reason_option()
@dry_run_option
@json_option
def retire(ref: str, reason: str, dry_run: bool, as_json: bool) -> None:
    """Take a version out that nobody needs: from a stage without an endpoint, a candidate, or one kept warm.

    \b
    mlplatform retire churn@3 --reason "the price list is gone"
    """
    p = platform()
    if dry_run:
        _planned(ref, "retire", p.plan_retirement(ref), as_json)
    else:
        emit(p.retire(ref, reason), as_json, render.entry)


def _planned(ref: str, word: str, changes: list[Change], as_json: bool) -> None:
    result = {"ref": ref, "changes": changes, "dry_run": True}
    emit(result, as_json, lambda _: render.planned_moves(f"would {word} {ref}", changes))


@click.command()
@click.argument("model", required=False)
@click.option(
    "--at",
    type=Moment(),
    help="Where every version stood and what it answered then: 2026-11-20T10:00+01:00; UTC without a zone.",
)
@click.option("--stage", help="Only what concerns this stage, and who held it from when to when.")
@json_option
def history(model: str | None, at: datetime | None, stage: str | None, as_json: bool) -> None:
    """What was live when, who put it there, and why.

    \b
    mlplatform history churn --stage production
    mlplatform history churn --at 2026-11-20T10:00+01:00
    """
    name, p = only_model(model), platform()
    entries = p.history(name, at, stage)
    if at is not None:
        _history_at(p, name, at, stage, entries, as_json)
    elif stage is None:
        emit(entries, as_json, render.history)
    else:
        held = p.spells(name, stage=stage)
        emit({"held": held, "entries": entries}, as_json, lambda _: render.tenures(held, entries))


def _history_at(
    p: Platform, model: str, at: datetime, stage: str | None, entries: list[Entry], as_json: bool
) -> None:
    live = p.answering(model, at, stage)
    answering = {spell.version for spell in live}
    standings = p.standings_at(model, at)
    places = {v: place for v, place in standings.places.items() if stage in (None, place) or v in answering}
    standings = replace(standings, places=places)
    result = {"at": at, "standings": standings, "live": live, "entries": entries}
    now = p.world.clock.now()
    emit(result, as_json, lambda _: render.moment(at, now, standings, live, entries))
