"""Runs bundles in sandboxed child processes: answers, the serving check, CPU costs measured in turns, latency."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.errors import ChildFailed, Refused, UsageError
from mlplatform.evaluation import latency, wire
from mlplatform.evaluation.process import Child
from mlplatform.evaluation.serving_check import problems
from mlplatform.ports.evaluation import Cost, Latency, ServingReport
from mlplatform.ports.store import Stage
from mlplatform.sandbox import Limits
from mlplatform.stats.batch import Array, Batch, Columns, Outputs
from mlplatform.stats.typed import of_one_shape, recombined, typed_batch

CHECKED_ROWS = 64
"""Rows of the serving check: the sample, then rows put together from its values."""
SINGLE_ROWS = 32
ROUNDS = 15


@dataclass(frozen=True)
class ChildEvaluator:
    """One child a bundle and call. A call holds `limits.seconds` for each of its steps."""

    limits: Limits = field(default_factory=Limits)
    stage: Stage = TemporaryDirectory

    def answer(self, bundle: Path, columns: Columns) -> Outputs:
        """Raises ChildFailed when the bundle does not answer, Refused when it needs other library versions,
        UsageError when the table does not have its columns."""
        manifest = _manifest(bundle)
        _check_versions(manifest)
        groups = of_one_shape(columns, manifest.inputs)
        try:
            batches = [typed_batch(_picked(columns, rows, groups), manifest.inputs) for rows in groups]
        except ValueError as error:
            raise UsageError(what=f"the table does not fit the model's signature: {error}") from error
        if sum(batch.rows for batch in batches) == 0:
            return Outputs(np.empty(0))
        with self._child(bundle, "answers a table") as child:
            for i, batch in enumerate(
                batches
            ):  # before the model's code may run, which could leave links here
                wire.save_batch(child.folder / f"table{i}.npz", batch)
            child.load()
            parts = [_answer(child, i, batch.rows) for i, batch in enumerate(batches)]
        return _in_order(parts, groups)

    def serving_check(self, bundle: Path) -> ServingReport:
        """What a bundle does with its own sample. A bundle that does not load or answer is a problem, not an
        error.
        """
        manifest = _manifest(bundle)
        _check_versions(manifest)
        try:
            batch = _sample(bundle, manifest, CHECKED_ROWS)
            with self._child(bundle, "checks a bundle") as child:
                return _serving_report(child, manifest, batch)
        except ChildFailed as error:
            return ServingReport((f"{error.facts['ending']}: {error.facts['cause']}",), 0.0, 0.0, 0)

    def costs(self, bundles: Sequence[Path]) -> list[Cost]:
        """CPU time of one row, in rounds that take turns, so that a busy machine hits all of them alike."""
        with ExitStack() as stack:
            children = []
            for bundle in bundles:
                manifest = _manifest(bundle)
                _check_versions(manifest)
                child = stack.enter_context(self._child(bundle, "measures the cost of a row"))
                wire.save_batch(child.folder / "table.npz", _sample(bundle, manifest, SINGLE_ROWS))
                children.append(child)
            for child in children:
                child.load()
            rounds = [[_round(child) for child in children] for _ in range(ROUNDS)]
        return [_cost([r[i] for r in rounds]) for i in range(len(children))]

    def latency(self, bundle: Path) -> Latency:
        """The 99th percentile of the time of one row, with what may have disturbed it."""
        manifest = _manifest(bundle)
        _check_versions(manifest)
        sample = _sample(bundle, manifest, SINGLE_ROWS)
        with self._child(bundle, "measures the latency of a row") as child:
            wire.save_batch(child.folder / "table.npz", sample)
            child.load()
            reply = child.ask("latency", table=str(child.folder / "table.npz"))
            try:
                return latency.judged(reply["wall_us"], reply["cpu_us"])
            except (KeyError, TypeError, ValueError) as error:
                child.fail("a reply that is none", str(error))

    def _child(self, bundle: Path, doing: str) -> Child:
        return Child(bundle, self.limits, doing, stage=self.stage)


# --- one step each ------------------------------------------------------------------------------------------


def _picked(columns: Columns, rows: Array, groups: Sequence[Array]) -> Columns:
    return columns if len(groups) == 1 else {name: np.asarray(v)[rows] for name, v in columns.items()}


def _answer(child: Child, number: int, rows: int) -> Outputs:
    table, into = child.folder / f"table{number}.npz", child.folder / "answers.npz"
    child.ask("answer", table=str(table), into=str(into))
    return _checked(_answers(child)["batch"], rows, child)


def _in_order(parts: Sequence[Outputs], groups: Sequence[Array]) -> Outputs:
    """The answers to several groups of rows as the rows stand. ValueError where their shapes differ."""
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate(groups))
    scores = [part.scores for part in parts if part.scores is not None]
    predictions = np.concatenate([part.predictions for part in parts])[order]
    return Outputs(predictions, np.concatenate(scores)[order] if len(scores) == len(parts) else None)


def _serving_report(child: Child, manifest: Manifest, batch: Batch) -> ServingReport:
    wire.save_batch(child.folder / "table.npz", batch)
    given_up = child.load()["given_up"]
    start_ms = (time.perf_counter() - child.started) * 1e3
    files = {"table": str(child.folder / "table.npz"), "into": str(child.folder / "answers.npz")}
    reply = child.ask("check", **files, singles=SINGLE_ROWS)
    answers = _answers(child)
    if not {"batch", "alone"} <= set(answers):
        child.fail("a reply that is none", "its answers are incomplete")
    found = problems(manifest.task, batch.rows, answers["batch"], answers["alone"])
    latency, memory = _number(child, reply, "latency_ms"), int(_number(child, reply, "memory_bytes"))
    return ServingReport(found, start_ms, latency, memory, tuple(map(str, given_up)))


def _cost(rounds: Sequence[tuple[float, int]]) -> Cost:
    cpu_us = tuple(cpu for cpu, _ in rounds)
    return Cost(median(cpu_us), rounds[-1][1], cpu_us)


def _round(child: Child) -> tuple[float, int]:
    reply = child.ask("cost", table=str(child.folder / "table.npz"))
    return _number(child, reply, "cpu_us"), int(_number(child, reply, "memory_bytes"))


def _number(child: Child, reply: Mapping[str, object], name: str) -> float:
    value = reply.get(name)
    if not isinstance(value, int | float) or not 0 <= value < float("inf"):
        child.fail("a reply that is none", f"{name} is {value!r}")
    return float(value)


def _answers(child: Child) -> dict[str, Outputs]:
    try:
        return wire.load_outputs(child.folder / "answers.npz")
    except ValueError as error:
        child.fail("a reply that is none", str(error))


def _checked(outputs: Outputs, rows: int, child: Child) -> Outputs:
    for name, values in (("predictions", outputs.predictions), ("scores", outputs.scores)):
        if values is not None and (values.ndim not in (1, 2) or len(values) != rows):
            child.fail("a wrong answer", f"{rows} rows gave {name} of shape {values.shape}")
    return outputs


def _manifest(bundle: Path) -> Manifest:
    try:
        return Manifest.decode((bundle / "manifest.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ChildFailed(doing="reads a bundle", ending="an error", cause=str(error)) from error


def _sample(bundle: Path, manifest: Manifest, rows: int) -> Batch:
    """The stored sample, filled up to `rows` with rows put together from its values."""
    try:
        sample = json.loads((bundle / "sample.json").read_bytes())
        own = typed_batch(sample, manifest.inputs)
        if own.rows == 0:
            raise ValueError("it has no rows")
        columns = own.columns()
        more = recombined(columns, max(rows - own.rows, 0), seed=0)
        filled = {name: np.concatenate([values, more[name]])[:rows] for name, values in columns.items()}
        return typed_batch(filled, manifest.inputs)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise ChildFailed(doing="reads a bundle's sample", ending="an error", cause=str(error)) from error


def _check_versions(manifest: Manifest) -> None:
    """A native model answers with the library that wrote it, in its minor version; else the fix is named."""
    wrong = {name: wanted for name, wanted in manifest.requirements.items() if not _fits(name, wanted)}
    if wrong:
        listing = ", ".join(
            f"{name} {wanted} (here: {_installed(name) or 'none'})" for name, wanted in wrong.items()
        )
        packages = " ".join(f"{_package(name)}=={wanted.partition('+')[0]}" for name, wanted in wrong.items())
        raise Refused(
            what=f"the {manifest.runtime} model was made with {listing}",
            hint=f"pip install {packages}, or compress it to ONNX where those versions are installed.",
        )


def _fits(name: str, wanted: str) -> bool:
    installed = _installed(name)
    return installed is not None and installed.split(".")[:2] == wanted.split(".")[:2]


def _installed(name: str) -> str | None:
    try:
        return version(_package(name))
    except PackageNotFoundError:
        return None


def _package(name: str) -> str:
    return {"sklearn": "scikit-learn"}.get(name, name)
