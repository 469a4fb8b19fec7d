"""Capture: every request with its inputs and outputs, on disks that are full or slow too; and what becomes of it.

More of it is shown elsewhere: that a killed server loses at most the open block, and a folder that cannot be written,
in `test_serving`; every type of column in `unit/serving/test_recorder`, tensors and bytes in `test_capture_tensors` and
`unit/serving/test_bulk`; labels that come twice, late or for rows that
nobody knows, and how long rows stay, in `contracts/test_observations` and `unit/data/test_folder_observations`.
"""

from __future__ import annotations

import json
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest

from mlplatform.data.observations import FolderObservations
from mlplatform.data.profiles import KEY, Sliced
from mlplatform.domain.bundle import NUMPY_DTYPES, Column, Manifest, Task
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.data import Profiling
from mlplatform.ports.extensions import ServerSpec
from mlplatform.serving.capture import recorder as recording
from mlplatform.serving.capture.blocks import Block
from mlplatform.serving.capture.recorder import Recorder
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import uuid7
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.predictor import Arm, LoadedBundle
from mlplatform.stats.batch import Array, Batch, Outputs
from mlplatform.stats.profile import make_spec, profile
from mlplatform.stats.spec import ReferenceSpec
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_onnx_bundle

COLUMNS = ("age", "income", "ssn")
SECONDS = 20.0
MOST_US, ROWS = 10.0, 20_000
SECRET = 987654321.125


class Shop:
    """An endpoint with a server on it that captures."""

    def __init__(self, root: Path, bundle: Path, manifest: Manifest, rule: CaptureRule) -> None:
        documents = FolderDocuments(root)
        self.folder = documents.folder("shop")
        route = Route("shop", 1, manifest.digest, str(bundle))
        documents.publish(Routes("shop", 0, (route,), capture=rule))
        self._target = LocalTarget()
        state = self._target.apply(ServerSpec("shop", self.folder))
        documents.wait_in_effect("shop", 1, SECONDS)
        self.worker = documents.workers("shop")[0].pid
        self.client = httpx.Client(base_url=state.url, timeout=SECONDS)
        self.observations = FolderObservations(documents.folder)

    def ask(self, rows: int = 1, **beside: Any) -> str:
        """The id of an answered request."""
        record = {"age": 41.0, "income": 1000.0, "ssn": SECRET, **beside}
        answer = self.client.post("/invocations", json={"dataframe_records": [record] * rows})
        assert answer.status_code == 200, answer.text
        return answer.headers["mlplatform-request-id"]

    def dropped(self, reason: str) -> int:
        lines = self.client.get("/metrics").text.splitlines()
        name = f'mlplatform_dropped_rows_total{{reason="{reason}"}}'
        return next((int(float(line.split()[-1])) for line in lines if line.startswith(name)), 0)

    def ids(self) -> set[str]:
        """Of the rows that came to the control plane."""
        self.observations.ingest("shop")
        return set(self.observations.read("shop").ids.tolist())

    def stop(self) -> None:
        self.client.close()
        self._target.stop(self.folder)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    bundle = tmp_path / "bundle"
    rule = CaptureRule(drop_columns=("ssn", "mail"), context=("mail", "tag"))
    shop = Shop(tmp_path / "servers", bundle, make_onnx_bundle(bundle, COLUMNS), rule)
    yield shop
    shop.stop()


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something to become true; what it was."""
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.01)
    return found


def test_a_request_becomes_a_row_with_its_truth_and_without_what_the_policy_drops(shop: Shop) -> None:
    request = shop.ask(rows=2, mail="someone@example.org", tag="spring")
    labels = [{"id": f"{request}/1", "label": 1}, {"id": f"{uuid7()}/0", "label": 0}]
    for _ in range(2):
        assert shop.client.post("/labels", json={"labels": labels}).json() == {"accepted": 2}
    until(lambda: list((shop.folder / "capture").glob("*.npz")))
    assert shop.observations.ingest("shop").rows == 2
    seen = shop.observations.read("shop")
    assert seen.ids.tolist() == [f"{request}/0", f"{request}/1"]
    assert {name: values.tolist() for name, values in seen.columns.items()} == {
        "age": [41.0, 41.0], "income": [1000.0, 1000.0], "tag": ["spring", "spring"],
    }  # fmt: skip
    assert seen.versions.tolist() == [1, 1]
    assert seen.scores is not None and seen.scores.shape == (2, 2)
    assert seen.truth.tolist() == [None, 1]
    assert shop.observations.pending("shop") == 1
    assert list((shop.folder / "segments").glob("rows-*.parquet"))
    for path in (path for path in shop.folder.rglob("*") if path.is_file()):
        kept = path.read_bytes()
        assert b"example.org" not in kept
        assert np.float64(SECRET).tobytes() not in kept and np.float32(SECRET).tobytes() not in kept


def test_what_is_taken_in_is_profiled_without_what_the_policy_drops(shop: Shop) -> None:
    cells = make_spec({name: np.linspace(0, 1000, 50) for name in COLUMNS})
    for age in (20.0, 30.0, 2000.0):
        shop.ask(rows=2, age=age, mail="someone@example.org")
    by = Profiling(lambda model, version: cells)
    captured = 0
    while captured < 6:
        until(lambda: list((shop.folder / "capture").glob("*.npz")))
        captured += shop.observations.ingest("shop", profiling=by).rows
    (path,) = (shop.folder / "segments").glob("rows-*.parquet")
    kept = Sliced.decode(pq.read_metadata(path).metadata[KEY])
    assert {(s.model, s.version, s.cells) for s in kept.slices} == {("shop", 1, cells.digest)}
    assert {name for s in kept.slices for name in s.profile.columns} == {"age", "income"}
    rows = shop.observations.read("shop").columns
    seen = shop.observations.profile("shop", cells, 1)
    again = profile(
        ReferenceSpec({n: cells.columns[n] for n in seen.columns}), {n: rows[n] for n in seen.columns}
    )
    assert [c.counts.tolist() for c in seen.columns.values()] == [
        c.counts.tolist() for c in again.columns.values()
    ]
    assert seen.columns["age"].to_dict()["above"] == 2


def test_a_disk_that_is_full_drops_and_counts_and_fails_no_request(shop: Shop) -> None:
    shop.ask()
    until(lambda: list((shop.folder / "capture").glob("*.npz")))
    soft, hard = resource.prlimit(shop.worker, resource.RLIMIT_FSIZE)
    # The system refuses to write more, as it does where the disk is full.
    resource.prlimit(shop.worker, resource.RLIMIT_FSIZE, (1000, hard))
    requests = [shop.ask(rows=20) for _ in range(50)]
    until(lambda: shop.dropped("disk") == 1000)
    resource.prlimit(shop.worker, resource.RLIMIT_FSIZE, (soft, hard))
    last = shop.ask()
    until(lambda: f"{last}/0" in shop.ids())
    assert not shop.ids() & {f"{request}/0" for request in requests}
    assert not list((shop.folder / "capture").glob(".*.tmp"))


def arm_of(inputs: tuple[Column, ...], metrics: Metrics) -> Arm:
    manifest = Manifest("onnx", "model/model.onnx", inputs, Task("regression", "value"), {})
    bundle = LoadedBundle(manifest.digest, manifest, model=None)  # type: ignore[arg-type]
    return Arm(Route("m", 1, manifest.digest, "/nowhere"), bundle, CaptureRule(), metrics)


def wide_arm(metrics: Metrics, columns: int = 30) -> Arm:
    return arm_of(tuple(Column(f"c{i}", "double") for i in range(columns)), metrics)


def answered(arm: Arm, rows: int = 1) -> tuple[Rows, Outputs]:
    rng, names = np.random.default_rng(0), arm.rows.names
    if arm.bulk:
        batch = Batch(names, arrays={c.name: _tensor(rng, rows, c) for c in arm.bulk})
    else:
        batch = Batch(names, rng.normal(size=(rows, len(names))))
    return Rows(batch), Outputs(np.zeros(rows, int), np.zeros((rows, 2), "float32"))


def _tensor(rng: np.random.Generator, rows: int, column: Column) -> Array:
    return rng.integers(0, 256, (rows, *column.shape)).astype(NUMPY_DTYPES[column.dtype])


ROWS_OF = {
    "30 numbers": tuple(Column(f"c{i}", "double") for i in range(30)),
    "784 numbers": tuple(Column(f"c{i}", "float") for i in range(784)),
    "a tensor of 28 x 28 floats": (Column("image", "float", shape=(28, 28)),),
    "a picture of 28 x 28 bytes": (Column("image", "uint8", shape=(28, 28)),),
}


@pytest.mark.parametrize("inputs", ROWS_OF.values(), ids=ROWS_OF)
def test_a_row_costs_at_most_ten_microseconds_of_cpu(tmp_path: Path, inputs: tuple[Column, ...]) -> None:
    """Of who records. Numbers cost no more with writing them; a thread writes, while others are answered."""
    metrics = Metrics()
    arm, requests = arm_of(inputs, metrics), [uuid7() for _ in range(ROWS)]
    rows, outputs = answered(arm)
    costs, with_writing = [], []
    for attempt in range(3):
        recorder = Recorder(tmp_path / str(attempt), metrics)
        own, all_threads = time.thread_time(), time.process_time()
        for request in requests:
            recorder.record(arm, request, rows, outputs, 100)
        recorder.flush()
        costs.append((time.thread_time() - own) / ROWS * 1e6)
        recorder.close()
        with_writing.append((time.process_time() - all_threads) / ROWS * 1e6)
    assert metrics.captured_rows + sum(metrics.dropped_rows.values()) == 3 * ROWS
    assert metrics.dropped_rows.keys() <= {"slow"}
    assert min(costs) < MOST_US
    assert min(with_writing) < MOST_US or len(inputs) != 30


class SlowBlock(Block):
    """A block on a disk that hangs."""

    go = threading.Event()

    def arrays(self) -> dict[str, Array]:
        assert self.go.wait(SECONDS)
        return super().arrays()


def test_a_disk_that_hangs_drops_and_counts_and_never_holds_up_who_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "Block", SlowBlock)
    metrics = Metrics()
    arm, recorder = wide_arm(metrics), Recorder(tmp_path / "capture", metrics)
    rows, outputs = answered(arm, rows=8192)
    sent = 3 * recording.QUEUED_BLOCKS
    slowest = 0.0
    for _ in range(sent):
        start = time.perf_counter()
        recorder.record(arm, uuid7(), rows, outputs, 100)
        slowest = max(slowest, time.perf_counter() - start)
    assert metrics.dropped_rows["slow"] >= 8192 * recording.QUEUED_BLOCKS
    assert slowest < 1.0
    SlowBlock.go.set()
    recorder.close()
    assert metrics.captured_rows + metrics.dropped_rows["slow"] == 8192 * sent
    assert metrics.dropped_rows.keys() == {"slow"}


def test_labels_by_http_that_are_none_are_refused_whole(shop: Shop) -> None:
    request = shop.ask()
    body = {"labels": [{"id": f"{request}/0", "label": 1}, {"id": "nonsense", "label": 1}]}
    refused = shop.client.post(
        "/labels", content=json.dumps(body), headers={"content-type": "application/json"}
    )
    assert refused.status_code == 400
    assert "label 1" in refused.json()["message"]
    assert not list((shop.folder / "inbox").glob("*.json"))
