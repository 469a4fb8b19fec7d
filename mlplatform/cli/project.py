"""Commands around the project: init, up, doctor, reconcile, policy, db, plugins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from mlplatform.cli import render
from mlplatform.cli.common import emit, json_option, leave, platform


@click.command()
@click.argument("folder", default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--model", default="churn", show_default=True, help="Name of the model.")
def init(folder: Path, model: str) -> None:
    """Write a project that trains: mlplatform.toml, policy.toml, MLproject, train.py.

    \b
    mlplatform init churn && cd churn && mlplatform train
    """
    from mlplatform.config.templates import write_project

    for path in write_project(folder, model):
        click.echo(f"wrote {path}")
    where = "" if folder == Path(".") else f"cd {folder} && "
    click.echo(f"next: {where}mlplatform train {model}")


@click.command()
@click.option("--mlflow-port", default=0, help="0 takes any free one.", show_default=True)
def up(mlflow_port: int) -> None:
    """MLflow's UI, the model servers and the job runner, until Ctrl-C."""
    from mlplatform.jobs.up import up as run

    run(platform(), mlflow_port, click.echo)


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """What is set and from where, what differs from the ledger, and what to do. Changes nothing."""
    p = platform()
    found = [d for model in p.policies for d in p.differences(model)]
    sources = p.settings.sources()
    told = [
        {"model": d.model, "what": d.what, "repair": d.repair, "by_reconcile": d.mend is not None}
        for d in found
    ]
    emit({"settings": sources, "differences": told}, as_json, lambda _: _doctor(sources, found))
    leave(3 if found else 0)


@click.command()
@click.argument("model", required=False)
@json_option
def reconcile(model: str | None, as_json: bool) -> None:
    """Repair what differs between ledger, MLflow, bundles and servers."""
    p = platform()
    found = [d for name in ([model] if model else p.policies) for d in p.reconcile(name)]
    told = [{"model": d.model, "what": d.what, "repair": d.repair} for d in found]
    emit(told, as_json, lambda _: render.differences(found))


@click.group()
def policy() -> None:
    """What a project demands: check a file, or print the schema."""


@policy.command("check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
@json_option
def check_policy(path: Path | None, as_json: bool) -> None:
    """Read a policy and tell every mistake, with line and nearest known name."""
    from mlplatform.config.policy_file import load_policy
    from mlplatform.config.settings import load_settings

    paths = [path] if path else load_settings().policies
    policies = [load_policy(p) for p in paths]
    emit(policies, as_json, lambda _: _policies(paths, policies))


@policy.command()
def schema() -> None:
    """The JSON schema of a policy, for editors."""
    from mlplatform.config.policy_schema import policy_schema

    click.echo(json.dumps(policy_schema(), indent=2))


@click.group()
def db() -> None:
    """Our own database."""


@db.command()
def upgrade() -> None:
    """Bring the database to this release's schema."""
    from mlplatform.config.settings import load_settings
    from mlplatform.state.schema import upgrade as run

    settings = load_settings()
    click.echo(f"schema {run(settings.database_url)}")


@db.command()
@json_option
def status(as_json: bool) -> None:
    """Where the database is, its schema, and whether every model's ledger holds."""
    from mlplatform.config.settings import load_settings, masked
    from mlplatform.state.schema import current_revision

    url = load_settings().database_url
    p = platform()
    breaks = [b for model in p.world.ledger.models() for b in p.world.ledger.breaks(model)]
    facts = {"database": masked(url), "schema": current_revision(url), "breaks": breaks}
    emit(facts, as_json, _status)
    leave(3 if breaks else 0)


@click.command()
@click.argument("kind", required=False)
@json_option
def plugins(kind: str | None, as_json: bool) -> None:
    """Every known extension by kind, with where it comes from."""
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
    emit(rows, as_json, lambda r: render.table(("kind", "name", "from"), r))


def _doctor(sources: Any, found: Any) -> None:
    render.table(("setting", "value", "from"), [(s.name, s.value, s.source) for s in sources])
    click.echo()
    render.differences(found)


def _policies(paths: Any, policies: Any) -> None:
    for path, checked in zip(paths, policies, strict=True):
        stages = " -> ".join(checked.ladder.stages)
        click.echo(f"{path}: {checked.model}, stages {stages}, digest {checked.digest[:12]}")


def _status(facts: dict[str, Any]) -> None:
    click.echo(f"{facts['database']}  schema {facts['schema']}")
    for item in facts["breaks"]:
        click.secho(f"{item.model}: ledger entry {item.seq} {item.why}", fg="red")
    if not facts["breaks"]:
        click.echo("every ledger holds")
