"""Tensors and bytes over real HTTP into a server's blocks and back: what was sent, and can be answered again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton

from mlplatform.data.observations import FolderObservations
from mlplatform.domain.bundle import Column
from mlplatform.domain.routes import CaptureRule
from mlplatform.evaluation.evaluator import ChildEvaluator
from mlplatform.ports.data import Observed
from mlplatform.ports.extensions import ServerState
from mlplatform.store.documents import FolderDocuments
from tests import served_models
from tests.served_models import served

# MLflow warns of its own code when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")
SECONDS = 60.0
RNG = np.random.default_rng(7)
CODE = """
class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["raw"].map(len).astype(float).to_numpy()
"""
RAW = np.array([b"\x89PNG\x00\xff", b"", bytes(range(256)) * 40, b"x" * 1_000_001], object)


def until(condition: Callable[[], Any]) -> Any:
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.02)
    return found


def sent(server: ServerState, columns: dict[str, np.ndarray], types: dict[str, str]) -> np.ndarray:
    """Two requests of binary tensors; the ids of the rows."""
    rows = len(next(iter(columns.values())))
    ids: list[str] = []
    with triton.InferenceServerClient(f"{server.host}:{server.port}", network_timeout=SECONDS) as client:
        for start, stop in ((0, rows // 2), (rows // 2, rows)):
            tensors = []
            for name, values in columns.items():
                made = triton.InferInput(name, list(values[start:stop].shape), types[name])
                made.set_data_from_numpy(values[start:stop])
                tensors.append(made)
            answer = client.infer("m", tensors)
            ids += [f"{answer.get_response()['id']}/{row}" for row in range(stop - start)]
    return np.array(ids, object)


def window(root: Path, ids: np.ndarray) -> Observed:
    """The labelled rows of these requests, once they have come to the control plane."""
    observations = FolderObservations(FolderDocuments(root).folder)

    def there() -> bool:
        observations.ingest("e")
        return set(observations.read("e").ids.tolist()) >= set(ids.tolist())

    until(there)
    assert observations.label("e", ids, np.arange(len(ids), dtype=float)).matched == len(ids)
    seen = observations.read("e", labelled=True)
    order = {name: row for row, name in enumerate(seen.ids.tolist())}
    return seen.take(np.array([order[name] for name in ids.tolist()]))


def test_pictures_of_bytes_come_back_and_are_answered_again(tmp_path: Path) -> None:
    manifest = served_models.pixels(tmp_path / "pixels")
    columns = {
        "image": RNG.integers(0, 256, (40, 2, 3, 3)).astype(np.uint8),
        "factor": RNG.normal(size=40).astype(np.float32),
    }
    with served(tmp_path, tmp_path / "pixels", manifest) as server:
        until(lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 200)
        seen = window(tmp_path, sent(server, columns, {"image": "UINT8", "factor": "FP32"}))
    np.testing.assert_array_equal(seen.columns["image"], columns["image"])
    assert seen.columns["image"].dtype == np.uint8
    np.testing.assert_array_equal(seen.columns["factor"], columns["factor"])
    again = ChildEvaluator().answer(tmp_path / "pixels", seen.columns)
    np.testing.assert_allclose(again.predictions, seen.predictions, rtol=1e-6)
    assert seen.truth.tolist() == list(range(40))


def test_single_precision_tensors_come_back_and_are_answered_again(tmp_path: Path) -> None:
    manifest = served_models.pair(tmp_path / "pair")
    columns = {
        "left": RNG.normal(size=(30, 2, 3)).astype(np.float32),
        "right": RNG.normal(size=(30, 3)),
    }
    with served(tmp_path, tmp_path / "pair", manifest) as server:
        until(lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 200)
        seen = window(tmp_path, sent(server, columns, {"left": "FP32", "right": "FP64"}))
    for name, values in columns.items():
        np.testing.assert_array_equal(seen.columns[name], values)
        assert seen.columns[name].dtype == values.dtype
    again = ChildEvaluator().answer(tmp_path / "pair", seen.columns)
    np.testing.assert_allclose(again.predictions, seen.predictions, rtol=1e-5, atol=1e-6)


def test_bytes_come_back_but_for_one_that_is_too_large_which_is_counted(tmp_path: Path) -> None:
    columns = (Column("raw", "binary"), Column("mail", "binary", required=False))
    sample = {"raw": ["aGVsbG8=", "aGk="], "mail": ["YQ==", "YQ=="]}
    manifest = served_models.saved(tmp_path / "code", CODE, columns, sample)
    rule = CaptureRule(drop_columns=("mail",))
    given = {"raw": RAW, "mail": np.array([b"someone@example.org"] * 4, object)}
    with served(tmp_path, tmp_path / "code", manifest, runs_code=True, capture=rule) as server:
        until(lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 200)
        seen = window(tmp_path, sent(server, given, {"raw": "BYTES", "mail": "BYTES"}))
        counted = httpx.get(f"{server.url}/metrics").text
    assert seen.columns["raw"].tolist() == [*RAW[:3].tolist(), None]
    assert list(seen.columns) == ["raw"]
    assert seen.predictions.tolist() == [float(len(raw)) for raw in RAW]
    assert 'mlplatform_dropped_values_total{reason="large"} 1' in counted
    assert 'mlplatform_dropped_rows_total{reason="error"} 0' in counted
    for path in (path for path in (tmp_path / "e").rglob("*") if path.is_file()):
        assert b"someone@example.org" not in path.read_bytes()
