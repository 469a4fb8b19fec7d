"""Tensors and bytes in capture blocks: kept as they were sent, bounded by bytes, never copied on the way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mlplatform.data.capture import read_block
from mlplatform.data.observations import FolderObservations
from mlplatform.domain.bundle import Column, Dtype, Manifest, Task
from mlplatform.domain.routes import CaptureRule, Route
from mlplatform.serving import bulk
from mlplatform.serving.capture import blocks
from mlplatform.serving.capture.recorder import Recorder
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import uuid7
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.predictor import Arm, LoadedBundle
from mlplatform.stats.batch import Array, Batch, Columns, Outputs

ID = "01890a5d-ac96-774b-bcce-b302099a8057"
IMAGE = Column("image", "uint8", shape=(2, 3))
RAW = Column("raw", "binary", required=False)
SIGNAL = Column("signal", "float", shape=(2, -1))


def arm(*inputs: Column, rule: CaptureRule = CaptureRule()) -> Arm:  # noqa: B008
    manifest = Manifest("onnx", "model/model.onnx", inputs, Task("regression", "value"), {})
    bundle = LoadedBundle(manifest.digest, manifest, model=None)  # type: ignore[arg-type]
    return Arm(Route("m", 1, manifest.digest, "/nowhere"), bundle, rule, Metrics())


def objects(*values: object) -> Array:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def captured(folder: Path, live: Arm, requests: list[Columns], metrics: Metrics | None = None) -> list[Path]:
    """The blocks of some requests, in the order they were written."""
    recorder = Recorder(folder / "e" / "capture", metrics or Metrics())
    for columns in requests:
        rows = Rows(Batch(tuple(columns), arrays=columns))
        recorder.record(live, uuid7(), rows, Outputs(np.zeros(rows.batch.rows)), 1)
    recorder.close()
    return sorted((folder / "e" / "capture").glob("*.npz"))


def read_back(folder: Path) -> Columns:
    observations = FolderObservations(lambda endpoint: folder / endpoint)
    observations.ingest("e")
    return observations.read("e").columns


DTYPES: list[Dtype] = ["float", "double", "float16", "uint8", "int16", "long", "uint64", "boolean"]
NUMPY = {"float": "f4", "double": "f8", "float16": "f2", "uint8": "u1", "int16": "i2", "long": "i8",
         "uint64": "u8", "boolean": "?"}  # fmt: skip


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_sent_is_what_a_window_reads(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    dtype = data.draw(st.sampled_from(DTYPES))
    shape = tuple(data.draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    even, loose = Column("even", dtype, shape=shape), Column("loose", dtype, shape=(-1, *shape))
    requests: list[Columns] = []
    for _ in range(data.draw(st.integers(1, 6))):
        rows, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
        tensors = arrays.arrays(NUMPY[dtype], (rows, *shape))
        long = arrays.arrays(NUMPY[dtype], (rows, length, *shape))
        raw = st.lists(st.none() | st.binary(max_size=40), min_size=rows, max_size=rows)
        requests.append(
            {"even": data.draw(tensors), "loose": data.draw(long), "raw": objects(*data.draw(raw))}
        )
    captured(folder, arm(even, loose, RAW), requests)
    seen = read_back(folder)
    np.testing.assert_array_equal(seen["even"], np.concatenate([r["even"] for r in requests]))
    assert seen["even"].dtype == NUMPY[dtype]
    wanted = [row for r in requests for row in r["loose"]]
    for ours, theirs in zip(seen["loose"], wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert ours.dtype == theirs.dtype
    assert seen["raw"].tolist() == [value for r in requests for value in r["raw"]]


def test_a_block_of_large_tensors_has_few_rows_and_none_is_lost(tmp_path: Path) -> None:
    picture = Column("picture", "float", shape=(3, 224, 224))
    sent = np.random.default_rng(0).normal(size=(20, 3, 224, 224)).astype("float32")
    found = captured(tmp_path, arm(picture), [{"picture": sent[:13]}, {"picture": sent[13:]}])
    sizes = [read_block(path)["in:picture"].nbytes for path in found]
    assert max(sizes) <= blocks.BLOCK_BYTES
    np.testing.assert_array_equal(read_back(tmp_path)["picture"], sent)


def test_a_value_that_is_too_large_is_left_out_and_counted_and_its_row_is_kept(tmp_path: Path) -> None:
    huge = bulk.LARGEST_VALUE_BYTES + 1
    metrics = Metrics()
    live = arm(IMAGE, RAW, SIGNAL)
    image = np.ones((2, 2, 3), "uint8")
    raw = objects(b"x" * huge, b"small")
    wide = np.zeros((2, 2, huge // 8 + 1), "float32")
    fits = {"image": image, "raw": raw, "signal": np.zeros((2, 2, 4), "float32")}
    captured(tmp_path, live, [fits, {**fits, "signal": wide}], metrics)
    assert (metrics.captured_rows, metrics.dropped_rows) == (4, {})
    assert metrics.dropped_values == {"large": 4}
    seen = read_back(tmp_path)
    assert seen["image"].shape == (4, 2, 3)
    assert seen["raw"].tolist() == [None, b"small", None, b"small"]
    assert [None if row is None else row.shape for row in seen["signal"]] == [(2, 4), (2, 4), None, None]


def test_a_column_whose_every_value_is_too_large_is_not_there(tmp_path: Path) -> None:
    metrics, film = Metrics(), Column("film", "uint8", shape=(1001, 1000))
    film_of_two = np.zeros((2, 1001, 1000), "uint8")
    captured(tmp_path, arm(Column("n", "long"), film), [{"n": np.arange(2), "film": film_of_two}], metrics)
    assert metrics.dropped_values == {"large": 2}
    assert list(read_back(tmp_path)) == ["n"]


def test_dropped_tensors_and_bytes_never_reach_the_disk(tmp_path: Path) -> None:
    live = arm(IMAGE, RAW, SIGNAL, rule=CaptureRule(drop_columns=("image", "raw")))
    columns = {
        "image": np.full((1, 2, 3), 213, "uint8"),
        "raw": objects(b"a secret"),
        "signal": np.ones((1, 2, 4), "float32"),
    }
    (path,) = captured(tmp_path, live, [columns])
    assert b"a secret" not in path.read_bytes()
    assert bytes([213] * 6) not in path.read_bytes()
    assert list(read_back(tmp_path)) == ["signal"]


def test_tensors_of_text_are_not_kept_and_harm_nothing(tmp_path: Path) -> None:
    words = Column("words", "string", shape=(2,))
    texts = objects("a", "b").reshape(1, 2)
    captured(tmp_path, arm(Column("n", "long"), words), [{"n": np.arange(1), "words": texts}])
    assert list(read_back(tmp_path)) == ["n"]


def test_large_tensors_are_not_copied_by_who_records(tmp_path: Path) -> None:
    live, sent = arm(Column("image", "uint8", shape=(100, 100))), np.zeros((1, 100, 100), "uint8")
    recorder = Recorder(tmp_path, Metrics())
    recorder.record(live, ID, Rows(Batch(("image",), arrays={"image": sent})), Outputs(np.zeros(1)), 1)
    (block,) = recorder._open.values()
    held, _ = block._bulk[0]._pieces[0]
    assert held is not None and np.shares_memory(held, sent)
    recorder.close()


def test_bytes_that_wait_to_be_copied_are_few(tmp_path: Path) -> None:
    """A request of large bytes goes into its block at once: 64 of them would be much memory."""
    live = arm(RAW)
    recorder = Recorder(tmp_path, Metrics())
    rows = Rows(Batch(("raw",), arrays={"raw": objects(b"x" * 100_000)}))
    recorder.record(live, ID, rows, Outputs(np.zeros(1)), 1)
    assert not recorder._fresh
    recorder.close()


def test_answers_as_large_as_pictures_make_small_blocks(tmp_path: Path) -> None:
    live, recorder = arm(Column("n", "double")), Recorder(tmp_path, Metrics())
    outputs = Outputs(np.zeros((1, 500, 500), "float32"))
    for _ in range(9):
        recorder.record(live, uuid7(), Rows(Batch(("n",), np.zeros((1, 1)))), outputs, 1)
    recorder.close()
    rows = [len(read_block(path)["row"]) for path in sorted(tmp_path.glob("*.npz"))]
    assert sum(rows) == 9
    assert max(rows) <= 4
