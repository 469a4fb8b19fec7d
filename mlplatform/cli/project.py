"""Commands around the project: init, up, doctor, reconcile, policy, db, plugins."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlplatform.cli import render, render_labels
from mlplatform.cli.common import dry_run_option, emit, json_option, leave, left_out, platform

if TYPE_CHECKING:
    from mlplatform.control import Platform
    from mlplatform.errors import MlplatformError
    from mlplatform.flows.reconcile import Difference
    from mlplatform.ports.data import KeptAside


@click.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", help="Name of the model; default: the folder's.")
@json_option
def init(folder: Path, model: str | None, as_json: bool) -> None:
    """Write a project that trains: mlplatform.toml, policy.toml, MLproject, train.py.

    \b
    mlplatform init churn && cd churn && mlplatform train
    """
    from mlplatform.config.templates import write_project

    name = model or folder.resolve().name
    written = write_project(folder, name)
    where = "" if folder == Path(".") else f"cd {folder} && "
    next_step = f"{where}mlplatform train {name}"
    emit({"model": name, "written": written, "next": next_step}, as_json, _written)


@click.command()
@click.option("--mlflow-port", default=0, help="0 takes any free one.", show_default=True)
def up(mlflow_port: int) -> None:
    """MLflow's UI, the model servers and the job runner, until Ctrl-C.

    \b
    mlplatform up --mlflow-port 5000
    """
    from mlplatform.jobs.up import up as run

    p = platform()
    run(p, mlflow_port, click.echo)
    leave(left_out(p))


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """What is set and from where, what differs from the ledger, and what to do. Changes nothing.

    \b
    mlplatform doctor
    """
    p = platform()
    sources = p.settings.sources()
    found, refused, failed = _examined(p)
    told = [
        {"model": d.model, "what": d.what, "repair": d.repair, "by_reconcile": d.mend is not None}
        for d in found
    ]
    result = {"settings": sources, "differences": told, "refused_labels": refused}
    result["failed"] = [e.to_dict() for e in failed]
    emit(result, as_json, lambda _: _doctor(sources, found, refused, failed))
    leave(failed[0].exit_code if failed else 3 if found else 0)


def _examined(p: Platform) -> tuple[list[Difference], dict[str, KeptAside], list[MlplatformError]]:
    """What differs, labels that were refused, and what kept us from looking: settings must be shown all the more when
    something fails."""
    from mlplatform.errors import MlplatformError

    refused: dict[str, KeptAside] = {}
    found: list[Difference] = []
    failed: dict[str, MlplatformError] = {str(error): error for error in p.broken}
    try:
        for model in p.policies:
            try:
                found += p.differences(model)
            except MlplatformError as error:
                failed[str(error)] = error
        found += p.without_policy()
        refused = p.refused_labels()
        if not p.world.ledger.models() and p.settings.artifact_root is None:
            p.world.registry.outside(
                ""
            )  # nothing was compared, so that nobody has asked whether MLflow answers
    except MlplatformError as error:
        failed[str(error)] = error
    return found, refused, list(failed.values())


@click.command()
@click.argument("model", required=False)
@dry_run_option
@json_option
def reconcile(model: str | None, dry_run: bool, as_json: bool) -> None:
    """Repair what differs between ledger, MLflow, bundles and servers. Exit code 3: something is left for a person.

    \b
    mlplatform reconcile churn
    """
    p = platform()
    verb = p.differences if dry_run else p.reconcile
    found = [d for name in ([model] if model else p.policies) for d in verb(name)]
    found += [] if model else p.without_policy()
    told = [{"model": d.model, "what": d.what, "repair": d.repair} for d in found]
    emit(told, as_json, lambda _: render.differences(found))
    leave((0 if model else left_out(p)) or (3 if any(d.mend is None for d in found) else 0))


@click.group()
def policy() -> None:
    """What a project demands: check a file, or print the schema."""


@policy.command("check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@json_option
def check_policy(path: Path | None, as_json: bool) -> None:
    """Read a policy and tell every mistake, with line and nearest known name.

    \b
    mlplatform policy check
    mlplatform policy check other/policy.toml
    """
    from mlplatform.config.project_policies import read_policies
    from mlplatform.config.settings import load_settings

    found = read_policies([path] if path else load_settings().policies)
    found.demand_all()
    paths, policies = list(found.paths.values()), list(found.good.values())
    emit(policies, as_json, lambda _: _policies(paths, policies))


@policy.command()
def schema() -> None:
    """The JSON schema of a policy, for editors.

    \b
    mlplatform policy schema > policy.schema.json
    """
    from mlplatform.config.policy_schema import policy_schema

    click.echo(json.dumps(policy_schema(), indent=2))


@click.group()
def db() -> None:
    """Our own database."""


@db.command()
@json_option
def upgrade(as_json: bool) -> None:
    """Bring the database to this release's schema.

    \b
    mlplatform db upgrade
    """
    from mlplatform.config.settings import load_settings
    from mlplatform.state.schema import upgrade as run

    revision = run(load_settings().database_url)
    emit({"schema": revision}, as_json, lambda _: click.echo(f"schema {revision}"))


@db.command()
@json_option
def status(as_json: bool) -> None:
    """Where the database is, its schema, and whether every model's ledger holds.

    \b
    mlplatform db status
    """
    from mlplatform.config.settings import load_settings, masked
    from mlplatform.state.schema import current_revision

    url = load_settings().database_url
    p = platform()
    breaks = p.world.ledger.verify().breaks
    facts = {"database": masked(url), "schema": current_revision(url), "breaks": breaks}
    emit(facts, as_json, _status)
    leave(3 if breaks else 0)


@click.command()
@click.argument("kind", required=False)
@json_option
def plugins(kind: str | None, as_json: bool) -> None:
    """Every known extension by kind, with where it comes from.

    \b
    mlplatform plugins gate
    """
    from mlplatform import catalog
    from mlplatform.errors import UnknownName

    if kind and kind not in catalog.kinds():
        raise UnknownName("kind of extension", kind, catalog.kinds())
    rows = [
        (k, name, place)
        for k in catalog.kinds()
        if kind in (None, k)
        for name, place in catalog.names(k).items()
    ]
    told = [{"kind": k, "name": name, "from": place} for k, name, place in rows]
    emit(told, as_json, lambda _: render.table(("kind", "name", "from"), rows))


def _written(result: dict[str, Any]) -> None:
    for path in result["written"]:
        click.echo(f"wrote {path}")
    click.echo(f"next: {result['next']}")


def _doctor(
    sources: Any,
    found: Sequence[Difference],
    refused: Mapping[str, KeptAside],
    failed: Sequence[MlplatformError],
) -> None:
    render.table(("setting", "value", "from"), [(s.name, s.value, s.source) for s in sources])
    click.echo()
    for error in failed:
        click.secho(str(error), fg="red")
        click.echo(click.style(f"  -> {error.next_step}", dim=True))
    if found or not failed:
        render.differences(found)
    for endpoint, aside in refused.items():
        word = "label" if aside.labels == 1 else "labels"
        click.echo(f"{endpoint}: {aside.labels} {word} refused: not what the version can answer")
        render_labels.kept_aside(aside)
        click.echo(click.style(f"  -> Correct them: mlplatform label {endpoint} FILE", dim=True))


def _policies(paths: Any, policies: Any) -> None:
    from mlplatform.domain.sharing import shared, sharing

    for path, checked in zip(paths, policies, strict=True):
        stages = " -> ".join(checked.ladder.stages)
        click.echo(f"{path}: {checked.model}, stages {stages}, digest {checked.digest[:12]}")
    for endpoint, models in shared(policies).items():
        click.echo(sharing(endpoint, models))


def _status(facts: dict[str, Any]) -> None:
    click.echo(f"{facts['database']}  schema {facts['schema']}")
    for item in facts["breaks"]:
        click.secho(f"{item.model}: ledger entry {item.seq} {item.why}", fg="red")
    if not facts["breaks"]:
        click.echo("every ledger holds")
