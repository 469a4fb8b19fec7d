"""Commands around model servers: deploy, endpoints, undeploy, serve, predict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from mlplatform.cli import render
from mlplatform.cli.common import emit, json_option, only_model, platform, read_table


@click.command()
@click.argument("model", required=False)
@click.option("--stage", help="Default: the highest stage with an endpoint.")
@json_option
def deploy(model: str | None, stage: str | None, as_json: bool) -> None:
    """Start a stage's model server with the version that holds the stage."""
    emit([platform().deploy(only_model(model), stage)], as_json, render.endpoints)


@click.command()
@click.argument("model", required=False)
@click.option("--stage", help="Default: the highest stage with an endpoint.")
@json_option
def undeploy(model: str | None, stage: str | None, as_json: bool) -> None:
    """Stop a stage's model server; the stage keeps its version."""
    name = platform().undeploy(only_model(model), stage)
    emit({"endpoint": name, "running": False}, as_json, lambda r: click.echo(f"endpoint {name} stopped"))


@click.command()
@json_option
def endpoints(as_json: bool) -> None:
    """Every endpoint: its server, what it serves, what it waits for."""
    emit(platform().endpoints(), as_json, render.endpoints)


@click.command()
@click.argument("ref")
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=0, help="0 takes any free one.", show_default=True)
@click.option("--workers", default=1, show_default=True)
def serve(ref: str, host: str, port: int, workers: int) -> None:
    """Serve one version in the foreground until Ctrl-C; no stage is touched.

    \b
    mlplatform serve churn@7 --port 5001
    """
    platform().serve(ref, host, port, workers)


@click.command()
@click.argument("target")
@click.argument("rows", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write a Parquet file instead of printing.")
@json_option
def predict(target: str, rows: Path, out: Path | None, as_json: bool) -> None:
    """Ask an endpoint, or a version offline, for the rows of a Parquet or CSV file.

    With an endpoint's name the request goes to its server over HTTP and is captured; the printed ids are what
    `mlplatform label` joins the truth by. With MODEL@VERSION a sandboxed child answers and nothing is captured.

    \b
    mlplatform predict churn new.parquet --out answers.parquet
    mlplatform predict churn@7 new.csv
    """
    answers = platform().ask(target, read_table(rows))
    if out is not None:
        from mlplatform.data.tables import ParquetTables

        ParquetTables().write(out, answers)
        emit(
            {"rows": len(answers["prediction"]), "path": str(out)},
            as_json,
            lambda r: click.echo(f"wrote {out}"),
        )
        return
    emit({name: values.tolist() for name, values in answers.items()}, as_json, lambda _: _print(answers))


def _print(answers: dict[str, Any]) -> None:
    names = list(answers)
    render.table(names, zip(*(answers[n].tolist() for n in names), strict=True))
