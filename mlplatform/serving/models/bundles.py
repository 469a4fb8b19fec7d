"""Load a bundle: every byte against its manifest, the model through its runtime, its own sample as
warm-up."""

from __future__ import annotations

import hashlib
import json
import stat
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mlplatform import catalog
from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import Route
from mlplatform.errors import ChangedBytes, CodeNotAllowed
from mlplatform.serving.decode import RowDecoder, Rows
from mlplatform.serving.models.batching import answers_alike, part
from mlplatform.serving.models.predictor import LoadedBundle, answer
from mlplatform.serving.problems import Problem
from mlplatform.serving.protocols.tensors import Described, datatype_of
from mlplatform.stats.batch import Batch, Outputs

if TYPE_CHECKING:  # loading the protocols of all extensions takes a worker a tenth of its start
    from mlplatform.ports.extensions import Predictor

WARM_ROUNDS, WARM_US = 5, 5_000.0
"""A model is asked at least so often when it is warmed, and for that long."""
ALIKE_ROWS = 8


def load_bundle(route: Route) -> LoadedBundle:
    """Verify, load, warm. Raises ChangedBytes, naming the file; CodeNotAllowed; whatever the runtime raises; Problem or
    ModelFailed when the sample is not answered."""
    folder, name = Path(route.bundle), f"{route.model}@{route.version}"
    manifest = verify(folder, route.digest, name)
    runtime = catalog.find("runtime", manifest.runtime)()
    if not runtime.safe and not route.runs_code:
        raise CodeNotAllowed(what=name, runtime=manifest.runtime)
    model: Predictor = runtime.load(folder, manifest)
    sample, one = _sample(folder, manifest)
    described = _described(answer(name, model, one))
    base_us, row_us = _warm(name, model, sample, one)
    alike = _alike(name, model, sample)
    return LoadedBundle(route.digest, manifest, model, base_us, row_us, described, alike=alike)


def verify(folder: Path, digest: str, name: str) -> Manifest:
    """The manifest of a bundle whose bytes are all as registered; ChangedBytes names the file that is not."""
    try:
        raw = (folder / "manifest.json").read_bytes()
    except OSError:
        raise ChangedBytes(what=name, path="manifest.json", change="is missing") from None
    if hashlib.sha256(raw).hexdigest() != digest:
        raise ChangedBytes(what=name, path="manifest.json", change="has changed")
    manifest = Manifest.decode(raw)
    for path, entry in manifest.files.items():
        _check_file(folder / path, path, entry.sha256, name)
    for found in sorted(folder.rglob("*")):
        path = found.relative_to(folder).as_posix()
        is_folder = stat.S_ISDIR(found.lstat().st_mode)  # a link to one is none
        if not is_folder and path not in manifest.files and path != "manifest.json":
            raise ChangedBytes(what=name, path=path, change="was added")
    return manifest


def _check_file(file: Path, path: str, sha256: str, name: str) -> None:
    try:
        if not stat.S_ISREG(file.lstat().st_mode):  # a link leads elsewhere tomorrow, a pipe never ends
            raise ChangedBytes(what=name, path=path, change="has changed")
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError:
        raise ChangedBytes(what=name, path=path, change="is missing") from None
    if found != sha256:
        raise ChangedBytes(what=name, path=path, change="has changed")


def _sample(folder: Path, manifest: Manifest) -> tuple[Rows, Rows]:
    """The whole sample, and its first row."""
    saved = json.loads((folder / "sample.json").read_bytes())
    sample = {column: saved[column] for column in manifest.input_names if column in saved}
    decoder = RowDecoder(manifest.inputs)
    first = {column: values[:1] for column, values in sample.items()}
    return _as_asked(decoder, decoder.columns(sample)), _as_asked(decoder, decoder.columns(first))


def _as_asked(decoder: RowDecoder, rows: Rows) -> Rows:
    """In the form in which most requests come, so that their cost is what is measured."""
    if not decoder.numeric or rows.missing:
        return rows
    return Rows(Batch(rows.batch.names, rows.batch.as_matrix("float64")))


def _described(outputs: Outputs) -> tuple[Described, ...]:
    return tuple(Described(name, datatype_of(v), v.shape) for name, v in outputs.named().items())


def _alike(name: str, model: Predictor, sample: Rows) -> bool:
    """Whether the sample's rows get the same answers together as alone; False where that cannot be seen."""
    rows = [part(sample, at, at + 1) for at in range(min(sample.batch.rows, ALIKE_ROWS))]
    try:
        return len(rows) > 1 and answers_alike(partial(answer, name, model), rows)
    except (Problem, ValueError):  # it cannot answer some rows: each request is then asked alone
        return False


def _warm(name: str, model: Predictor, many: Rows, one: Rows) -> tuple[float, float]:
    """Microseconds a request and a row, measured on the sample."""
    many_us, one_us = _fastest_us(name, model, many), _fastest_us(name, model, one)
    if many.batch.rows == 1:
        return 0.0, one_us
    row_us = max(0.0, many_us - one_us) / (many.batch.rows - 1)
    return max(0.0, one_us - row_us), row_us


def _fastest_us(name: str, model: Predictor, rows: Rows) -> float:
    best, spent, rounds = float("inf"), 0.0, 0
    while rounds < WARM_ROUNDS or spent < WARM_US:
        start = time.perf_counter()
        answer(name, model, rows)
        took = (time.perf_counter() - start) * 1e6
        best, spent, rounds = min(best, took), spent + took, rounds + 1
    return best
