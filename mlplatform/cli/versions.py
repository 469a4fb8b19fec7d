"""Commands that look at versions: list, show, diff, trend."""

from __future__ import annotations

from pathlib import Path

import click

from mlplatform.cli import render_versions as render
from mlplatform.cli.common import emit, json_option, leave, left_out, only_model, platform

IMAGES = (".png", ".svg", ".pdf")


@click.command("list")
@json_option
def list_models(as_json: bool) -> None:
    """The board: models by stages, who holds them since when and how good, what is going on and what waits.

    \b
    mlplatform list --json
    """
    p = platform()
    emit(p.board(), as_json, render.board)
    leave(left_out(p))


@click.command()
@click.argument("ref")
@json_option
def show(ref: str, as_json: bool) -> None:
    """A version: where it stands, findings, approvals, lineage, history.

    \b
    mlplatform show churn@7
    mlplatform show churn@production
    """
    emit(platform().card(ref), as_json, render.card)


@click.command()
@click.argument("first")
@click.argument("second")
@click.option("--all", "everything", is_flag=True, help="Tell what is equal, too.")
@json_option
def diff(first: str, second: str, everything: bool, as_json: bool) -> None:
    """What differs between two versions: metrics with intervals and, where both answered the same rows, the paired
    difference; slices, size, data, parameters, signature, dependencies, origin.

    \b
    mlplatform diff churn@7 churn@production
    """
    emit(platform().diff(first, second, everything), as_json, render.diff)


@click.command()
@click.argument("model", required=False)
@click.option("--metric", help="Default: the first one that was measured.")
@click.option(
    "--png",
    "image",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw it, too: a .png, .svg or .pdf.",
)
@json_option
def trend(model: str | None, metric: str | None, image: Path | None, as_json: bool) -> None:
    """A metric over the versions of a model, each by its newest evaluation. Numbers on different rows cannot be
    compared: the column "rows" tells which rows each is on.

    \b
    mlplatform trend churn --metric auc --png auc.png
    """
    if image is not None and image.suffix not in IMAGES:
        raise click.BadParameter(f"{image} should end in {', '.join(IMAGES)}", param_hint="--png")
    p = platform()
    found = p.trend(only_model(model), metric)
    if image is not None:
        p.plot_trend(found, image)
    emit(found, as_json, render.trend)
    if image is not None and not as_json:
        click.echo(f"drawn in {image}")
