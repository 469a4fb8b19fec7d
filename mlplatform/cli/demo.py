"""demo: the whole life of a model on scikit-learn's digits, through the same verbs that everybody uses.

The digits come in the order in which they were written; later writers differ, so accuracy really falls.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mlplatform.cli import render
from mlplatform.cli.demo_place import empty_place, ended

if TYPE_CHECKING:
    from mlplatform.control import Loop, Platform
    from mlplatform.domain.watch import Decision, Window

MODEL = "digits"
FIRST_ROWS = 250
WINDOW_ROWS = 150
"""One digit is scanned a second; the policy's windows last 150 s of that time."""
BEGIN = datetime(2026, 1, 5, 9, 0, tzinfo=UTC)


@dataclass
class Stage:
    """What the acts share."""

    platform: Platform
    started: float = field(default_factory=time.perf_counter)
    position: int = 0
    """Rows sent so far."""
    captured: int = 0
    unlabelled: list[tuple[Any, Any]] = field(default_factory=list)
    """(ids, truth) of requests whose labels have not arrived yet."""
    rows: list[tuple[str, str]] = field(default_factory=list)
    """The closing table: what, measured."""

    def say(self, line: str) -> None:
        click.echo(f"[{time.perf_counter() - self.started:5.1f} s] {line}")

    def note(self, what: str, measured: str) -> None:
        self.rows.append((what, measured))


@click.command()
@click.argument("folder", required=False, type=click.Path(file_okay=False, path_type=Path))
@click.option("--keep", is_flag=True, help="Leave the model server running at the end.")
def demo(folder: Path | None, keep: bool) -> None:
    """The whole life of a model on real data, in about a minute and without a network.

    Train, register, compress, gates, promote, serve, capture, late labels, drift, retrain, a broken version forced in
    and taken back. The project stays in FOLDER to look at, or to go on working in: by default mlplatform-demo, and
    where that is not as an earlier demo left it, the next free name beside it.

    \b
    mlplatform demo my-demo --keep
    """
    from mlplatform.control import Platform

    place = empty_place(folder, click.echo)
    stage = Stage(Platform.open(_project(place)))
    try:
        for act in (_first_version, _compressed, _live, _drift, _better, _broken):
            act(stage)
        _closing(stage, place)
    finally:
        if not keep:
            stage.platform.undeploy(MODEL)
    if not keep:
        ended(place)


# --- acts -----------------------------------------------------------------------------------------------------------


def _first_version(stage: Stage) -> None:
    stage.say(f"train: a small network in PyTorch on the first {FIRST_ROWS} digits, as an MLflow run")
    run_id = stage.platform.train(MODEL)
    version = stage.platform.register(MODEL, run_id)
    stage.say(f"register: {version.ref}, {version.size_bytes / 1024:.0f} KiB, digest {version.digest[:12]}")
    stage.note("trained network, KiB", f"{version.size_bytes / 1024:.1f}")


def _compressed(stage: Stage) -> None:
    child = stage.platform.compress(f"{MODEL}@1")
    stage.say(f"compress: {child.ref} is {child.technique} of {MODEL}@1, {child.size_bytes / 1024:.0f} KiB")
    stage.note("compressed (ONNX, INT8), KiB", f"{child.size_bytes / 1024:.1f}")


def _live(stage: Stage) -> None:
    for place in ("staging", "production"):
        outcome = stage.platform.promote(f"{MODEL}@2", place, "first version")
        stage.say(f"promote: {MODEL}@2 to {place}: {outcome.status}")
        render.findings(outcome.findings)
        if outcome.status != "done":
            raise SystemExit(outcome.exit_code)
    state = stage.platform.endpoint(MODEL)
    stage.say(f"serve: {' '.join(state.serving)} answers at {state.server.url}/invocations")


def _drift(stage: Stage) -> None:
    stage.say("stream: later digits arrive over HTTP, their labels a window late")
    for loop in _stream(stage, windows=6):
        if loop.promoted:
            assert loop.retrained
            stage.say(
                f"retrain: {loop.promoted.version.ref}, trained with {loop.retrained.rows} captured rows, judged on"
                " rows neither version has seen"
            )
            render.findings(loop.promoted.findings)
            stage.say(
                f"promote: {loop.promoted.version.ref} to {loop.promoted.stage}: {loop.promoted.status}"
            )
            return
    raise SystemExit("the monitor saw no lasting fall in six windows: please report this")


def _better(stage: Stage) -> None:
    for _ in _stream(stage, windows=2):
        pass


def _broken(stage: Stage) -> None:
    stage.say("accident: a version trained on shuffled labels is forced in with --break-glass")
    run_id = stage.platform.train(MODEL, {"shuffle_labels": "true"})
    child = stage.platform.compress(stage.platform.register(MODEL, run_id).ref)
    check = stage.platform.check(child.ref, "staging")
    stage.say(f"check: the gates would have said {check.status}")
    render.findings(check.findings)
    for place in ("staging", "production"):
        stage.platform.promote(child.ref, place, "the boss insists", break_glass=True)
    stage.say(f"promote: {child.ref} is live")
    before = stage.position
    for loop in _stream(stage, windows=3):
        if loop.rolled_back:
            entry = loop.rolled_back.draft
            stage.say(f"rollback: {MODEL}@{entry.version} is live again: {entry.reason}")
            stage.note(f"rows answered by broken {child.ref}", str(stage.position - before))
            return
    raise SystemExit("the broken version was not taken back: please report this")


def _closing(stage: Stage, folder: Path) -> None:
    click.echo()
    render.history(stage.platform.history(MODEL))
    click.echo()
    for window, _ in stage.platform.windows(MODEL):
        for signal in window.signals:
            if signal.metric == "quality" and signal.measurements:
                stage.note(f"{MODEL}@{window.version} {window.start:%H:%M:%S}", str(signal.measurements[0]))
    stage.note("seconds in all", f"{time.perf_counter() - stage.started:.0f}")
    render.table(("measured", ""), stage.rows)
    report = stage.platform.report(MODEL, stage.platform.settings.home / "reports" / f"{MODEL}.html")
    click.echo(
        f"\nreport   {report}\nlook on  cd {folder} && mlplatform history {MODEL}    (or: mlplatform up)"
    )


# --- the stream -----------------------------------------------------------------------------------------------------


def _stream(stage: Stage, windows: int) -> Iterator[Loop]:
    """Send windows of digits through the endpoint; the labels of a window arrive when the next one has been sent."""
    features, truth = _digits(stage)
    for _ in range(windows):
        first, last = stage.position, min(stage.position + WINDOW_ROWS, len(truth))
        if last <= first:
            return
        columns = {name: values[first:last] for name, values in features.items()}
        answers = stage.platform.ask(MODEL, columns)
        _until_captured(stage, last)
        late = stage.unlabelled
        stage.unlabelled = [(answers["id"], truth[first:last])]
        stage.position = last
        for ids, values in late:
            stage.platform.label(MODEL, ids, values)
        loop = stage.platform.monitor(MODEL, until=BEGIN + timedelta(seconds=last))
        for window, decision in loop.watched.windows:
            if window.labelled:  # a window is read once more when its labels come
                _tell(stage, window, decision)
        yield loop


def _tell(stage: Stage, window: Window, decision: Decision) -> None:
    quality = next((m for s in window.signals if s.metric == "quality" for m in s.measurements), "")
    drifted = next((s.because for s in window.signals if s.metric == "drift"), "")
    stage.say(
        f"monitor: {window.start:%H:%M:%S} {MODEL}@{window.version} {decision.action}: {quality};"
        f" {drifted.partition(':')[0]}"
    )


def _until_captured(stage: Stage, rows: int) -> None:
    """The server hands captured rows over about once a second."""
    give_up = time.monotonic() + 30
    while stage.captured < rows and time.monotonic() < give_up:
        stage.captured += stage.platform.monitor(MODEL, act=False).watched.ingested.rows
        threading.Event().wait(0.05)


def _digits(stage: Stage) -> tuple[dict[str, Any], Any]:
    """The rows after the first ones, as the project's own script writes them, with the second each was scanned in."""
    import numpy as np

    from mlplatform.cli.common import read_table

    path = stage.platform.settings.root / "rows.parquet"
    if not path.exists():
        script = ["data.py", str(path), "--data-from", str(FIRST_ROWS)]
        subprocess.run([sys.executable, *script], cwd=stage.platform.settings.root, check=True)
    table = read_table(path)
    truth = table.pop("digit")
    seconds = np.arange(len(truth)).astype("timedelta64[s]")
    return {**table, "scanned_at": np.datetime64(BEGIN.replace(tzinfo=None), "us") + seconds}, truth


# --- the project ----------------------------------------------------------------------------------------------------


def _project(folder: Path) -> Path:
    """A fresh copy of `projects/digits`."""
    shutil.copytree(
        projects_folder() / MODEL, folder, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True
    )
    (folder / "mlplatform.toml").write_text('policies = ["policy.toml"]\n')
    return folder


def projects_folder() -> Path:
    """In an installed package `mlplatform/_projects`, in a checkout `projects/` beside the package."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_projects"
    return installed if installed.is_dir() else package.parent / "projects"
