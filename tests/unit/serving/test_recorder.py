"""Capture blocks: what was asked and answered comes back from disk; nothing ever fails a request."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.data.capture import read_block
from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.domain.routes import CaptureRule, Route
from mlplatform.serving.capture import blocks
from mlplatform.serving.capture.recorder import FolderBudget, Recorder
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import fraction, uuid7
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.predictor import Arm, LoadedBundle
from mlplatform.stats.batch import Batch, Outputs

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
EVERY_TYPE = (
    Column("amount", "double"),
    Column("age", "long"),
    Column("vip", "boolean"),
    Column("city", "string"),
    Column("seen", "datetime"),
    Column("bonus", "integer", required=False),
)


class Nobody:
    def predict(self, batch: Batch) -> Outputs:
        return Outputs(np.zeros(batch.rows))


def arm(
    inputs: tuple[Column, ...],
    metrics: Metrics,
    context: tuple[str, ...] = (),
    rule: CaptureRule | None = None,
) -> Arm:
    manifest = Manifest("onnx", "model/model.onnx", inputs, Task("regression", "value"), {})
    route = Route("m", 3, manifest.digest, "/nowhere", arm="canary")
    rule = rule or CaptureRule(context=context)
    return Arm(route, LoadedBundle(manifest.digest, manifest, Nobody()), rule, metrics)


def numbers(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, "double") for name in names)


def read(folder: Path) -> list[dict[str, Any]]:
    out = []
    for path in sorted(folder.glob("*.npz")):
        assert uuid.UUID(path.stem).version == 7
        out.append(read_block(path))
    return out


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def recorder(tmp_path: Path, metrics: Metrics) -> Recorder:
    return Recorder(tmp_path / "capture", metrics)


def test_a_matrix_comes_back_with_ids_times_and_answers(
    tmp_path: Path, recorder: Recorder, metrics: Metrics
) -> None:
    live = arm(numbers("a", "b"), metrics)
    before = time.time_ns() // 1000
    rows = Rows(Batch(("a", "b"), np.array([[1.0, 2.0], [np.nan, 4.0]])))
    recorder.record(
        live, ID, rows, Outputs(np.array([0, 1]), np.array([[0.9, 0.1], [0.2, 0.8]], "float32")), 250
    )
    recorder.close()
    (block,) = read(tmp_path / "capture")
    assert block["request"].dtype == "S36"
    assert block["request"].tolist() == [ID.encode()] * 2
    assert block["row"].tolist() == [0, 1]
    assert before <= block["time_us"][0] <= time.time_ns() // 1000
    assert block["latency_us"].tolist() == [250, 250]
    assert (block["version"].tolist(), block["model"].tolist()) == ([3, 3], ["m", "m"])
    assert block["arm"].tolist() == ["canary", "canary"]
    assert block["in:b"].tolist() == [2.0, 4.0]
    assert np.isnan(block["in:a"][1])
    assert block["prediction"].tolist() == [0, 1]
    assert block["scores"].shape == (2, 2)
    assert metrics.captured_rows == 2
    assert not [name for name in block if name.startswith("null:")]


def test_every_type_and_missing_values_come_back(
    tmp_path: Path, recorder: Recorder, metrics: Metrics
) -> None:
    live = arm(EVERY_TYPE, metrics, context=("ts", "n", "flag"))
    moment = np.datetime64("2026-01-31T12:00:00.000001")
    for i, city in enumerate(["Wien", None, "Köln " * 5]):
        arrays = {
            "amount": np.array([i + 0.5]),
            "age": np.array([2**60 + i]),
            "vip": np.array([bool(i)]),
            "city": np.array([city], object),
            "seen": np.array([moment if i else np.datetime64("NaT")], "datetime64[ns]"),
            "bonus": np.array([7]) if i else np.array([np.nan]),
        }
        context = {"ts": ["2026"] if i else [None], "n": [i] if i else [None], "flag": [True]}
        rows = Rows(Batch(tuple(c.name for c in EVERY_TYPE), arrays=arrays), context, missing=True)
        recorder.record(live, uuid7(), rows, Outputs(np.array([f"class {i}"], object)), 1)
    recorder.close()
    (block,) = read(tmp_path / "capture")
    assert block["in:age"].tolist() == [2**60, 2**60 + 1, 2**60 + 2]
    assert block["in:vip"].dtype == bool
    assert block["in:city"].tolist() == ["Wien", "", "Köln " * 5]
    assert block["null:city"].tolist() == [False, True, False]
    assert block["in:seen"].dtype == "datetime64[us]"
    assert np.isnat(block["in:seen"][0])
    assert block["in:seen"][1] == moment
    assert (block["in:bonus"].tolist(), block["null:bonus"].tolist()) == ([0, 7, 7], [True, False, False])
    assert (block["ctx:ts"].tolist(), block["null:ts"].tolist()) == (
        ["", "2026", "2026"],
        [True, False, False],
    )
    assert np.isnan(block["ctx:n"][0])
    assert block["ctx:flag"].dtype == bool
    assert block["prediction"].tolist() == ["class 0", "class 1", "class 2"]
    assert not [name for name, values in block.items() if values.dtype == object]


def test_dropped_columns_never_reach_the_disk(tmp_path: Path, recorder: Recorder, metrics: Metrics) -> None:
    rule = CaptureRule(drop_columns=("email", "ssn"), context=("email",))
    live = arm(numbers("a", "ssn", "b"), metrics, rule=rule)
    rows = Rows(Batch(("a", "ssn", "b"), np.array([[1.0, 123456789.0, 2.0]])), {"email": ["x@example.org"]})
    recorder.record(live, ID, rows, Outputs(np.array([1])), 1)
    recorder.close()
    (path,) = (tmp_path / "capture").glob("*.npz")
    (block,) = read(tmp_path / "capture")
    assert sorted(name for name in block if ":" in name) == ["in:a", "in:b"]
    assert (block["in:a"][0], block["in:b"][0]) == (1.0, 2.0)
    assert b"example.org" not in path.read_bytes()
    assert np.array([123456789.0]).tobytes() not in path.read_bytes()


def test_a_model_that_answers_much_is_kept_whole(
    tmp_path: Path, recorder: Recorder, metrics: Metrics
) -> None:
    live = arm(numbers("a"), metrics)
    for i in range(2):
        others = {"kind": np.array([f"k{i}"], object), "n": np.array([i])}
        answers = Outputs(np.full((1, 2, 2), i, "float32"), others=others)
        recorder.record(live, ID, Rows(Batch(("a",), np.zeros((1, 1)))), answers, 1)
    recorder.close()
    (block,) = read(tmp_path / "capture")
    assert block["prediction"].tolist() == [[0.0] * 4, [1.0] * 4]
    assert (block["out:kind"].tolist(), block["out:n"].tolist()) == (["k0", "k1"], [0, 1])


def test_a_full_block_is_followed_by_another_and_no_row_is_lost(
    tmp_path: Path, recorder: Recorder, metrics: Metrics
) -> None:
    live = arm(numbers("a"), metrics)
    count = blocks.MAX_ROWS + 10
    values = np.arange(count, dtype=float).reshape(-1, 1)
    recorder.record(live, ID, Rows(Batch(("a",), values)), Outputs(values[:, 0]), 1)
    recorder.close()
    found = read(tmp_path / "capture")
    assert sorted(len(block["row"]) for block in found) == [10, blocks.MAX_ROWS]
    assert sorted(x for block in found for x in block["in:a"]) == values[:, 0].tolist()
    assert sorted(x for block in found for x in block["row"]) == list(range(count))


def test_one_very_long_text_does_not_blow_up_the_others(
    tmp_path: Path, recorder: Recorder, metrics: Metrics
) -> None:
    live = arm((Column("city", "string"),), metrics)
    texts = ["short"] * 500
    for text in [*texts, "x" * 1_000_000, *texts]:
        recorder.record(
            live,
            ID,
            Rows(Batch(("city",), arrays={"city": np.array([text], object)})),
            Outputs(np.ones(1)),
            1,
        )
    recorder.close()
    found = read(tmp_path / "capture")
    assert sum(len(block["row"]) for block in found) == 1001
    assert max(block["in:city"].nbytes for block in found) <= 4 * blocks.TEXT_CELLS


def test_arms_do_not_share_blocks(tmp_path: Path, recorder: Recorder, metrics: Metrics) -> None:
    for names in (("a",), ("b", "c")):
        rows = Rows(Batch(names, np.zeros((1, len(names)))))
        recorder.record(arm(numbers(*names), metrics), ID, rows, Outputs(np.ones(1)), 1)
    recorder.close()
    assert sorted(sorted(n for n in b if n.startswith("in:")) for b in read(tmp_path / "capture")) == [
        ["in:a"],
        ["in:b", "in:c"],
    ]


def test_a_sample_captures_its_share_of_requests(
    tmp_path: Path, recorder: Recorder, metrics: Metrics
) -> None:
    live = arm(numbers("a"), metrics, rule=CaptureRule(sample=0.25))
    rows, outputs = Rows(Batch(("a",), np.zeros((1, 1)))), Outputs(np.ones(1))
    for _ in range(4000):
        recorder.record(live, uuid7(), rows, outputs, 1)
    recorder.close()
    assert 850 < metrics.captured_rows < 1150


def test_a_folder_at_its_cap_drops_and_counts(tmp_path: Path, recorder: Recorder, metrics: Metrics) -> None:
    (tmp_path / "capture").mkdir()
    (tmp_path / "capture" / "old.npz").write_bytes(bytes(19_000))
    live = arm(numbers("a"), metrics, rule=CaptureRule(max_bytes=20_000))
    recorder.record(live, ID, Rows(Batch(("a",), np.zeros((100, 1)))), Outputs(np.ones(100)), 1)
    recorder.close()
    assert metrics.dropped_rows == {"full": 100}
    assert metrics.captured_rows == 0
    assert [path.name for path in (tmp_path / "capture").iterdir()] == ["old.npz"]


def test_a_disk_that_refuses_drops_and_counts(tmp_path: Path, recorder: Recorder, metrics: Metrics) -> None:
    (tmp_path / "capture").write_text("a file where the folder should be")
    live = arm(numbers("a"), metrics)
    recorder.record(live, ID, Rows(Batch(("a",), np.zeros((5, 1)))), Outputs(np.ones(5)), 1)
    recorder.close()
    assert metrics.dropped_rows == {"disk": 5}


def test_a_budget_notices_what_others_collected(tmp_path: Path) -> None:
    budget = FolderBudget(tmp_path, look_every_s=0.0)
    (tmp_path / "a").write_bytes(bytes(100))
    assert not budget.allows(1, 100)
    (tmp_path / "a").unlink()
    assert budget.allows(1, 100)


def test_ids_are_uuids_that_sort_by_time() -> None:
    ids = [uuid7(ms * 1_000_000) for ms in (1, 5, 1_700_000_000_000)]
    assert ids == sorted(ids)
    assert {uuid.UUID(i).version for i in ids} == {7}
    assert {uuid.UUID(i).variant for i in ids} == {uuid.RFC_4122}
    assert len({uuid7() for _ in range(10_000)}) == 10_000


def test_shares_of_ids_are_even_and_sampling_does_not_follow_them() -> None:
    ids = [uuid7() for _ in range(4000)]
    low = [i for i in ids if fraction(i) < 0.5]
    assert 1850 < len(low) < 2150
    assert 0.4 < np.mean([fraction(i, "sample") < 0.5 for i in low]) < 0.6
