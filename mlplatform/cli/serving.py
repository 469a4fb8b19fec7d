"""Commands around model servers: deploy, endpoints, undeploy, serve, predict."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlplatform.cli import answers as answer_file
from mlplatform.cli import render
from mlplatform.cli.common import (
    dry_run_option,
    emit,
    json_option,
    leave,
    left_out,
    only_model,
    platform,
    progress,
    read_table,
)
from mlplatform.domain.access import is_loopback
from mlplatform.domain.limits import RequestLimits, option
from mlplatform.domain.use import Use
from mlplatform.errors import PortInUse, UsageError

if TYPE_CHECKING:
    from mlplatform.control import Platform


@click.command()
@click.argument("model", required=False)
@click.option("--stage", help="Default: the highest stage with an endpoint.")
@click.option("--target", help="Where the server runs from now on, where the policy leaves that open.")
@click.option(
    "--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the target; may be repeated."
)
@dry_run_option
@json_option
def deploy(
    model: str | None,
    stage: str | None,
    target: str | None,
    options: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Start a stage's model server with the version that holds the stage.

    With --target it runs there from now on, after a promote, a rollback or a restart too: `local`, `docker` or
    `external`. One that runs elsewhere is moved; between `local` and `docker` it keeps its port, and no request is
    refused. A policy that names a target is not overruled.

    \b
    mlplatform deploy churn --stage production
    mlplatform deploy churn --target docker --option memory_mb=1500
    """
    name, p = only_model(model), platform()
    chosen = chosen_target(target, options)
    if dry_run:
        from mlplatform.flows import plan

        planned = plan.deployment(p.world, p.policy(name), stage, chosen)
        emit(planned, as_json, render.planned_deployment)
        return
    emit([p.deploy(name, stage, chosen)], as_json, render.endpoints)


def chosen_target(name: str | None, options: tuple[str, ...]) -> Use | None:
    """What was chosen; the values are written as in a policy, text without quotes too."""
    if name is None:
        if options:
            raise UsageError("Add --target.", what=f"--option {options[0]} belongs to no target")
        return None
    values: dict[str, Any] = {}
    for given in options:
        key, sign, text = given.partition("=")
        if not key or not sign:
            raise UsageError(what=f"--option {given!r}: write KEY=VALUE, for example memory_mb=1500")
        try:
            values[key] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            values[key] = text
    return Use(name, values)


@click.command()
@click.argument("model", required=False)
@click.option("--stage", help="Default: the highest stage with an endpoint.")
@json_option
def undeploy(model: str | None, stage: str | None, as_json: bool) -> None:
    """Stop a stage's model server, or take the model out where others answer there; the stage keeps its version.

    A model whose policy was taken out of the project is named by ENDPOINT/MODEL, all such models of an endpoint by
    ENDPOINT; models that have a policy are left alone then.

    \b
    mlplatform undeploy churn
    mlplatform undeploy shop/fraud
    """
    p, chosen = platform(), only_model(model)
    if taken := p.take_out(chosen):
        told = [{"endpoint": s.endpoint, "model": s.model, "running": not ended} for s, ended in taken]
        emit(told, as_json, lambda _: _taken_out(told))
        return
    name = p.undeploy(chosen.rpartition("/")[2], stage)
    running = p.endpoint(name).server.running
    said = (
        f"endpoint {name} answers for {chosen} no more, and goes on for others"
        if running
        else f"endpoint {name} stopped"
    )
    emit({"endpoint": name, "running": running}, as_json, lambda r: click.echo(said))


def _taken_out(told: list[dict[str, Any]]) -> None:
    for one in told:
        then = "and goes on for others" if one["running"] else "and was stopped: nobody else did"
        click.echo(f"endpoint {one['endpoint']} answers for {one['model']} no more, {then}")


@click.command()
@json_option
def endpoints(as_json: bool) -> None:
    """Every endpoint: its server, what it serves, what it waits for.

    \b
    mlplatform endpoints --json
    """
    p = platform()
    emit(p.endpoints(), as_json, render.endpoints)
    leave(left_out(p))


def _limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """An option for each limit, as the server has them."""
    for limit in reversed(fields(RequestLimits)):
        command = click.option(option(limit.name), default=limit.default, show_default=True)(command)
    return command


@click.command()
@click.argument("ref")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="0 takes any free one.", show_default=True
)
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True)
@_limit_options
def serve(ref: str, host: str, port: int, workers: int, **limits: int) -> None:
    """Serve one version in the foreground until Ctrl-C; no stage is touched.

    \b
    mlplatform serve churn@7 --port 5001
    mlplatform serve churn@7 --deadline-ms 2000 --max-waiting 64
    """
    from mlplatform.serving.parent.listening import listen

    p = platform()
    p.version(ref)
    _demand_own(host)
    try:
        taken_on = RequestLimits(**limits)
    except ValueError as error:
        raise UsageError(what=str(error)) from None
    try:  # told here as every other error; the server itself would only log it
        for probe in listen(host, port, 1):
            probe.close()
    except PortInUse as error:
        raise PortInUse("Choose another with --port, or 0 for any free one.", **error.facts) from None
    p.serve(ref, host, port, workers, taken_on)


def _demand_own(host: str) -> None:
    """What other machines can reach has tokens and TLS, and so an endpoint that says them."""
    try:
        own = is_loopback(host)
    except ValueError as error:
        raise UsageError(what=str(error)) from None
    if not own:
        hint = "Give a stage an endpoint with this `host`, tokens and `tls`, and deploy it; see docs/operations.md."
        raise UsageError(hint, what=f"`serve` answers this machine only, and {host} is reachable from others")


@click.command()
@click.argument("target")
@click.argument("rows", type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write a .csv or .parquet file instead of printing."
)
@json_option
def predict(target: str, rows: Path, out: Path | None, as_json: bool) -> None:
    """Ask an endpoint, or a version offline, for the rows of a Parquet or CSV file.

    With an endpoint's name the request goes to its server over HTTP and is captured; the printed ids are what
    `mlplatform label` joins the truth by. Columns of the file that the policy names as context (`[data] time` and
    `context`) travel beside the features. With MODEL@VERSION a sandboxed child answers and nothing is captured.

    \b
    mlplatform predict churn new.parquet --out answers.parquet
    mlplatform predict churn@7 new.csv
    mlplatform predict shared/churn new.csv    # of several models at one endpoint
    """
    if out is not None:
        answer_file.demand_writable(out)
    p, table = platform(), read_table(rows)
    if "@" not in target:
        _tell_context(p, target, rows, table)
    answers = p.ask(target, table)
    if out is not None:
        answer_file.write(out, answers)
        emit(
            {"rows": len(answers["prediction"]), "path": str(out)},
            as_json,
            lambda r: click.echo(f"wrote {out}"),
        )
        return
    emit({name: values.tolist() for name, values in answers.items()}, as_json, lambda _: _print(answers))


def _tell_context(p: Platform, endpoint: str, rows: Path, table: dict[str, Any]) -> None:
    data = p.policy(p.endpoint(endpoint).model).data
    named = dict.fromkeys([*([data.time] if data.time else []), *data.context])
    if sent := [name for name in named if name in table]:
        progress(f"context beside the features, captured and never shown to the model: {', '.join(sent)}")
    if absent := [name for name in named if name not in table]:
        progress(f"{rows} has no column {', '.join(absent)}, which the policy names as context")


def _print(answers: dict[str, Any]) -> None:
    names = list(answers)
    render.table(names, zip(*(answers[n].tolist() for n in names), strict=True))
