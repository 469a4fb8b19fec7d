"""What only the folders promise: no row lost or doubled by a crash, few files, damaged ones set aside."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.data import files
from mlplatform.data.observations import FolderObservations
from mlplatform.data.profiles import KEY
from mlplatform.data.times import from_epoch_us
from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.domain.routes import CaptureRule, Route
from mlplatform.errors import HistoryUnusable
from mlplatform.ports.data import Correction, Ingested, Profiling, Retention
from mlplatform.serving.capture.labels import Inbox
from mlplatform.serving.capture.recorder import Recorder, write_block
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import uuid7
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.predictor import Arm, LoadedBundle
from mlplatform.stats.batch import Batch, Outputs
from mlplatform.stats.profile import make_spec, profile

START_US = 1_772_352_000_000_000
SPEC = make_spec({"x": np.arange(20.0)})
PROFILING = Profiling(lambda model, version: SPEC)


def block(rows: int, first: int = 0, **more: np.ndarray) -> dict[str, np.ndarray]:
    at = START_US + (first + np.arange(rows)) * 1_000_000
    return {
        "request": np.array([uuid7(int(us) * 1000) for us in at], "S36"),
        "row": np.zeros(rows, np.int32),
        "time_us": at,
        "version": np.ones(rows, np.int32),
        "in:x": np.arange(first, first + rows, dtype=np.float64),
        "prediction": np.zeros(rows, np.int64),
        **more,
    }


def ids_of(some: dict[str, np.ndarray]) -> np.ndarray:
    return np.array([f"{request.decode()}/0" for request in some["request"].tolist()], object)


def observations(root: Path) -> FolderObservations:
    return FolderObservations(lambda endpoint: root / endpoint)


def capture(root: Path, *blocks: dict[str, np.ndarray]) -> None:
    for some in blocks:
        write_block(root / "shop" / "capture", some)


def post(root: Path, document: Any) -> None:
    inbox = root / "shop" / "inbox"
    inbox.mkdir(parents=True, exist_ok=True)
    (inbox / f"{uuid7()}.json").write_text(json.dumps(document))


def parquet_files(root: Path, kind: str = "rows") -> list[Path]:
    return sorted((root / "shop" / "segments").glob(f"{kind}-*.parquet"))


# ---- crashes


class Crash(BaseException):
    """The process died here: nothing in the product may catch it."""


class Dying:
    """Lets a number of changes to the disk happen, then dies at the next one, before or after it is made."""

    def __init__(self, patch: pytest.MonkeyPatch, steps: int, after: bool) -> None:
        self.left, self.after = steps, after
        patch.setattr(files.os, "replace", self._dying(os.replace))
        patch.setattr(pathlib.Path, "unlink", self._dying(pathlib.Path.unlink))
        patch.setattr(files.os, "fsync", self._dying(os.fsync))

    def _dying(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*args: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left == -1 and not self.after:
                raise Crash
            result = call(*args, **options)
            if self.left == -1:
                raise Crash
            return result

        return step


@settings(max_examples=80, deadline=None)
@given(
    deaths=st.lists(st.tuples(st.integers(0, 14), st.booleans()), min_size=1, max_size=4),
    rounds=st.lists(st.integers(1, 5), min_size=1, max_size=4),
)
def test_a_crash_at_any_step_neither_loses_nor_doubles_rows_or_labels(
    deaths: list[tuple[int, bool]], rounds: list[int]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        first, expected = 0, {}
        plan = [*deaths, *[None] * len(rounds)][: max(len(rounds), len(deaths))]
        for number, death in enumerate(plan):
            some = block(rounds[number % len(rounds)], first)
            first += len(some["request"])
            truth = [f"{number}:{i}" for i in range(len(some["request"]))]
            expected.update(zip(ids_of(some).tolist(), truth, strict=True))
            # half of the labels are there before their rows
            half = len(truth) // 2
            post(
                root,
                {
                    "labels": [{"id": i, "label": t} for i, t in list(expected.items())[-half:]]
                    if half
                    else []
                },
            )
            if number % 2:
                capture(root, some)
            with pytest.MonkeyPatch.context() as patch:
                if death is not None:
                    Dying(patch, *death)
                with contextlib.suppress(Crash):
                    observations(root).ingest("shop", profiling=PROFILING)
            if not number % 2:
                capture(root, some)
            documents = [{"id": i, "label": t} for i, t in expected.items()]
            post(root, {"labels": documents})
        observations(root).ingest("shop", profiling=PROFILING)
        seen = observations(root).read("shop")
        assert sorted(seen.ids.tolist()) == sorted(expected)
        counted = observations(root).profile("shop", SPEC, 1).columns["x"].counts
        assert counted.tolist() == profile(SPEC, {"x": seen.columns["x"]}).columns["x"].counts.tolist()
        assert seen.columns["x"].tolist() == list(range(first))
        assert seen.truth.tolist() == [expected[i] for i in seen.ids.tolist()]
        assert observations(root).pending("shop") == 0
        assert not list((root / "shop").glob("*/*.tmp"))
        assert not list((root / "shop" / "capture").iterdir())
        assert not list((root / "shop" / "inbox").iterdir())
        index = json.loads((root / "shop" / "segments" / "index.json").read_text())
        named = {s["file"] for s in index["segments"] + index["labels"]}
        assert {path.name for path in (root / "shop" / "segments").glob("*.parquet")} == named
        assert all(KEY in pq.read_metadata(path).metadata for path in parquet_files(root))


def test_a_block_that_was_taken_in_but_not_deleted_is_not_taken_in_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture(tmp_path, block(4))
    saved = {path: path.read_bytes() for path in (tmp_path / "shop" / "capture").iterdir()}
    observations(tmp_path).ingest("shop")
    for path, raw in saved.items():
        path.write_bytes(raw)
    assert observations(tmp_path).ingest("shop") == Ingested(0, 0, 0)
    assert observations(tmp_path).read("shop").rows == 4


def test_a_full_disk_is_one_error_and_keeps_the_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    capture(tmp_path, block(4))

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(HistoryUnusable, match="No space left"):
            observations(tmp_path).ingest("shop")
    assert observations(tmp_path).ingest("shop") == Ingested(1, 4, 0)


def test_two_processes_that_ingest_at_once_share_the_work(tmp_path: Path) -> None:
    for first in range(0, 400, 10):
        capture(tmp_path, block(10, first))
    code = (
        "import sys; from pathlib import Path; from mlplatform.data.observations import FolderObservations as F;"
        "print(F(lambda e: Path(sys.argv[1]) / e).ingest('shop').rows)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd()) for _ in range(3)]
    counts = [int(worker.communicate(timeout=120)[0]) for worker in workers]
    assert sum(counts) == 400
    assert observations(tmp_path).read("shop").columns["x"].tolist() == list(range(400))


# ---- what goes wrong


@pytest.mark.parametrize(
    "spoil",
    [
        lambda raw: raw[: len(raw) // 2],
        lambda raw: b"",
        lambda raw: b"PK\x03\x04 not a zip",
        lambda raw: raw.replace(b"request", b"requost"),
        lambda raw: raw[:300] + bytes([raw[300] ^ 0xFF]) + raw[301:],
    ],
    ids=["cut", "empty", "no zip", "a column missing", "a bit flipped"],
)
def test_a_damaged_block_is_set_aside_and_the_others_are_taken_in(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    capture(tmp_path, block(3))
    bad = next((tmp_path / "shop" / "capture").iterdir())
    bad.write_bytes(spoil(bad.read_bytes()))
    capture(tmp_path, block(2, 10))
    assert observations(tmp_path).ingest("shop") == Ingested(1, 2, 1)
    assert [path.name for path in (tmp_path / "shop" / "damaged").iterdir()] == [bad.name]
    assert observations(tmp_path).read("shop").columns["x"].tolist() == [10, 11]


def test_a_pickled_block_is_set_aside_unread(tmp_path: Path) -> None:
    folder = tmp_path / "shop" / "capture"
    folder.mkdir(parents=True)
    np.savez(folder / "evil.npz", **{**block(1), "in:y": np.array([{"a": 1}], object)})  # type: ignore[arg-type]
    assert observations(tmp_path).ingest("shop") == Ingested(0, 0, 1)


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"labels": [1]}', '{"labels": [{"id": "a/0"}]}', '{"labels": [{"id": "a/0", "label": [1]}]}'],
)
def test_a_document_that_holds_no_labels_is_set_aside(tmp_path: Path, text: str) -> None:
    inbox = tmp_path / "shop" / "inbox"
    inbox.mkdir(parents=True)
    (inbox / "bad.json").write_text(text)
    assert observations(tmp_path).ingest("shop") == Ingested(0, 0, 1)
    assert (tmp_path / "shop" / "damaged" / "bad.json").read_text() == text


def test_a_label_that_is_none_is_refused_and_told(tmp_path: Path) -> None:
    given = np.empty(1, object)
    given[0] = [1, 2]
    told = observations(tmp_path).label("shop", np.array(["a/0"], object), given)
    assert (told.refused, told.pending) == (1, 0)
    assert str(told.bad[0]) == "row 1: a/0 [1, 2]: expected a number, text or true/false, not list"


def test_a_lost_index_is_an_error_and_deletes_nothing(tmp_path: Path) -> None:
    for first in (0, 5):
        capture(tmp_path, block(5, first))
        observations(tmp_path).ingest("shop")
    (tmp_path / "shop" / "segments" / "index.json").unlink()
    for use in (lambda: observations(tmp_path).read("shop"), lambda: observations(tmp_path).ingest("shop")):
        with pytest.raises(HistoryUnusable, match=r"index\.json is missing"):
            use()
    assert parquet_files(tmp_path)


def test_a_damaged_segment_is_named(tmp_path: Path) -> None:
    capture(tmp_path, block(5))
    observations(tmp_path).ingest("shop")
    parquet_files(tmp_path)[0].write_bytes(b"PAR1 no longer")
    with pytest.raises(HistoryUnusable, match="rows-000000001-000"):
        observations(tmp_path).read("shop")


# ---- shape on disk


def test_many_small_ingests_end_in_few_files(tmp_path: Path) -> None:
    everything = [block(7, first) for first in range(0, 70 * 7, 7)]
    for some in everything:
        capture(tmp_path, some)
        observations(tmp_path).ingest("shop")
        observations(tmp_path).label("shop", ids_of(some), np.zeros(7))
    assert len(parquet_files(tmp_path)) <= 6
    assert len(parquet_files(tmp_path, "labels")) <= 6
    seen = observations(tmp_path).read("shop", labelled=True)
    assert seen.columns["x"].tolist() == list(range(490))


def test_days_have_segments_of_their_own(tmp_path: Path) -> None:
    for day in range(3):
        capture(tmp_path, block(5, day * 86_400))
        observations(tmp_path).ingest("shop")
    assert len(parquet_files(tmp_path)) == 3


def test_a_window_is_read_from_the_segments_that_overlap_it(tmp_path: Path) -> None:
    for day in range(3):
        capture(tmp_path, block(5, day * 86_400))
        observations(tmp_path).ingest("shop")
    seen = observations(tmp_path)
    ends = seen.span("shop", None)
    assert ends is not None
    for path in parquet_files(tmp_path)[1:]:
        path.write_bytes(b"never opened")
    assert seen.read("shop", end=ends[0].replace(hour=12)).rows == 5


def test_columns_that_change_their_type_become_text(tmp_path: Path) -> None:
    capture(tmp_path, block(1, **{"ctx:code": np.array([7])}), block(1, 1, **{"ctx:code": np.array(["x"])}))
    observations(tmp_path).ingest("shop")
    assert observations(tmp_path).read("shop").columns["code"].tolist() == ["7", "x"]


# ---- how long rows stay


def test_what_is_too_old_goes_with_its_labels_and_its_files(tmp_path: Path) -> None:
    old, new = block(3), block(2, 86_400)
    for some in (old, new):
        capture(tmp_path, some)
        observations(tmp_path).ingest("shop")
        observations(tmp_path).label("shop", ids_of(some), np.ones(len(some["row"])))
    keep = Retention(since=from_epoch_us(START_US + 1_000_000_000))
    assert observations(tmp_path).ingest("shop", keep) == Ingested(0, 0, 0, expired=3)
    assert observations(tmp_path).ingest("shop", keep) == Ingested(0, 0, 0)
    seen = observations(tmp_path).read("shop")
    assert (seen.columns["x"].tolist(), seen.truth.tolist()) == ([86_400, 86_401], [1, 1])
    assert len(list((tmp_path / "shop" / "segments").glob("rows-*.parquet"))) == 1
    late = observations(tmp_path).label("shop", ids_of(old), np.ones(3))
    assert late.matched == 0


def test_the_oldest_rows_make_room_and_the_newest_stay(tmp_path: Path) -> None:
    for day in range(4):
        capture(tmp_path, block(1000, day * 86_400))
        observations(tmp_path).ingest("shop")
    files = sorted((tmp_path / "shop" / "segments").glob("rows-*.parquet"))
    keep = Retention(size_bytes=sum(path.stat().st_size for path in files[2:]))
    assert observations(tmp_path).ingest("shop", keep).expired == 2000
    assert observations(tmp_path).read("shop").columns["x"].min() == 2 * 86_400
    assert observations(tmp_path).ingest("shop", Retention(size_bytes=1)).expired == 1000
    assert observations(tmp_path).read("shop").rows == 1000


def test_a_replaced_label_is_kept_with_who_replaced_it_and_when(tmp_path: Path) -> None:
    some = block(4)
    capture(tmp_path, some)
    observations(tmp_path).ingest("shop")
    ids = ids_of(some)
    for part in (ids[:1], ids[1:2], ids[2:]):
        observations(tmp_path).label("shop", part, np.zeros(len(part)))
    at = datetime(2026, 3, 2, tzinfo=UTC)
    observations(tmp_path).label("shop", ids[1:3], np.array([1, 2]), Correction("ada", at))
    [file] = (tmp_path / "shop" / "segments").glob("earlier-*.parquet")
    assert pq.read_table(file, partitioning=None).to_pylist() == [
        {"id": ids[1], "label": "0.0", "by": "1", "at_us": int(at.timestamp() * 1e6), "actor": "ada"},
        {"id": ids[2], "label": "0.0", "by": "2", "at_us": int(at.timestamp() * 1e6), "actor": "ada"},
    ]
    seen = observations(tmp_path).read("shop", labelled=True)
    assert (seen.ids.tolist(), seen.truth.tolist()) == (ids.tolist(), [0, 1, 2, 0])
    named = json.loads((tmp_path / "shop" / "segments" / "index.json").read_text())["labels"]
    assert sorted(f["file"] for f in named) == [path.name for path in parquet_files(tmp_path, "labels")]


def test_labels_do_not_wait_for_rows_that_are_too_old(tmp_path: Path) -> None:
    old, new = ids_of(block(2)), ids_of(block(1, 86_400))
    capture(tmp_path, block(1, 86_400 * 2))
    observations(tmp_path).label("shop", np.array([*old, *new, "theirs/0"], object), np.ones(4))
    observations(tmp_path).ingest("shop", Retention(since=from_epoch_us(START_US + 1_000_000_000)))
    assert observations(tmp_path).pending("shop") == 2
    observations(tmp_path).ingest("shop", Retention(since=from_epoch_us(START_US)))
    assert observations(tmp_path).pending("shop") == 2


# ---- the server's side


def test_what_the_server_records_is_read_back(tmp_path: Path) -> None:
    inputs = (Column("age", "long", required=False), Column("city", "string"), Column("income", "double"))
    manifest = Manifest("onnx", "model/m.onnx", inputs, Task("classification", "label", ("yes", "no")), {})
    metrics = Metrics()
    rule = CaptureRule(context=("at", "tag"))
    arm = Arm(Route("shop", 4, "d", "/b"), LoadedBundle("d", manifest, None), rule, metrics)  # type: ignore[arg-type]
    batch = Batch(
        ("age", "city", "income"),
        arrays={
            "age": np.array([31.0, np.nan]),
            "city": np.array(["Bern", None], object),
            "income": np.array([1.5, np.nan]),
        },
    )
    outputs = Outputs(np.array(["yes", "no"]), np.array([[0.2, 0.8], [0.9, 0.1]], np.float32))
    context = {"at": ["2020-01-01T00:00:00Z", None], "tag": [1, 2]}
    request = uuid7()
    recorder = Recorder(tmp_path / "shop" / "capture", metrics)
    recorder.record(arm, request, Rows(batch, context), outputs, 250)
    recorder.close()
    label = {"id": f"{request}/1", "label": "no"}
    assert Inbox(tmp_path / "shop" / "inbox").put(json.dumps({"labels": [label]}).encode()) == 1
    assert observations(tmp_path).ingest("shop") == Ingested(1, 2, 0)
    seen = observations(tmp_path).read("shop", time="at")
    assert seen.ids.tolist() == [f"{request}/0", f"{request}/1"]
    assert seen.versions.tolist() == [4, 4]
    assert np.array_equal(seen.columns["age"], [31, np.nan], equal_nan=True)
    assert seen.columns["city"].tolist() == ["Bern", None]
    assert seen.columns["tag"].tolist() == [1, 2]
    assert seen.predictions.tolist() == ["yes", "no"]
    assert seen.truth.tolist() == [None, "no"]
    assert seen.scores is not None
    assert seen.scores.shape == (2, 2)
    assert str(seen.times[0]) == "2020-01-01T00:00:00.000000"
