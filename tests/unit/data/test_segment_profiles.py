"""What a segment's file keeps of its rows: enough to leave them unread, and never something stale."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlplatform.data.index import History
from mlplatform.data.observations import FolderObservations
from mlplatform.data.profiles import KEY, MOST_SLICES, Sliced
from mlplatform.ports.data import EVERYTHING, Profiling, Retention
from mlplatform.serving.capture.recorder import write_block
from mlplatform.stats.profile import Profile, make_spec, profile
from tests.captured import block, minutes

SPEC = make_spec({"x": np.arange(0.0, 500.0, 3)})
HOURLY = Profiling(lambda model, version: SPEC)


@pytest.fixture
def shop(tmp_path: Path) -> FolderObservations:
    return FolderObservations(lambda endpoint: tmp_path / endpoint)


def take_in(
    shop: FolderObservations, folder: Path, *blocks: dict[str, np.ndarray], by: Profiling | None = HOURLY
) -> None:
    for some in blocks:
        write_block(folder / "shop" / "capture", some)
    shop.ingest("shop", profiling=by)


def kept(folder: Path) -> list[Sliced | None]:
    """Of each segment, the oldest first."""
    found = [
        pq.read_metadata(path).metadata for path in sorted((folder / "shop" / "segments").glob("rows-*"))
    ]
    return [Sliced.decode(metadata[KEY]) if KEY in (metadata or {}) else None for metadata in found]


def wanted(first: int, last: int) -> Profile:
    return profile(SPEC, {"x": np.arange(first, last, dtype=float)})


def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object, **options: object) -> None:
        raise AssertionError("rows were read")

    monkeypatch.setattr(History, "table", refuse)


def test_windows_of_whole_slices_leave_the_rows_unread(
    shop: FolderObservations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in range(0, 300, 50):
        take_in(shop, tmp_path, block(50, first))
    unread(monkeypatch)
    for start, end in ((0, 60), (60, 180), (None, 240), (0, None), (None, None)):
        ends = tuple(None if at is None else minutes(at) for at in (start, end))
        assert shop.profile("shop", SPEC, 1, *ends).columns["x"].counts.tolist() == (
            wanted(start or 0, end or 300).columns["x"].counts.tolist()
        )


def test_of_segments_that_the_window_cuts_the_rows_are_read(
    shop: FolderObservations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = 24 * 60
    take_in(shop, tmp_path, block(50))
    take_in(shop, tmp_path, block(50, day))
    whole = History.table
    read: list[str] = []
    monkeypatch.setattr(
        History, "table", lambda self, file, *a, **o: read.append(file) or whole(self, file, *a, **o)
    )
    assert shop.profile("shop", SPEC, 1, end=minutes(day + 20)).rows == 70
    assert len(read) == 1


def test_a_slice_for_each_version_and_hour(shop: FolderObservations, tmp_path: Path) -> None:
    take_in(shop, tmp_path, block(90), block(30, 90, version=2))
    [found] = kept(tmp_path)
    assert found is not None
    assert [(s.version, s.profile.rows) for s in found.slices] == [(1, 60), (1, 30), (2, 30)]
    assert [s.profile.columns["x"] for s in found.slices[:2]] == [
        wanted(0, 60).columns["x"], wanted(60, 90).columns["x"],
    ]  # fmt: skip


def test_where_slices_would_be_too_many_none_is_kept(shop: FolderObservations, tmp_path: Path) -> None:
    by = Profiling(lambda model, version: SPEC, step=timedelta(minutes=1))
    take_in(shop, tmp_path, block(MOST_SLICES), by=by)
    take_in(shop, tmp_path, block(MOST_SLICES + 1, 24 * 60), by=by)
    assert [None if found is None else len(found.slices) for found in kept(tmp_path)] == [MOST_SLICES, None]
    assert shop.profile("shop", SPEC, 1).rows == 2 * MOST_SLICES + 1


def test_a_segment_that_was_filled_up_by_somebody_else_keeps_nothing_stale(
    shop: FolderObservations, tmp_path: Path
) -> None:
    take_in(shop, tmp_path, block(20))
    take_in(shop, tmp_path, block(20, 20), by=None)
    assert kept(tmp_path) == [None]
    assert shop.profile("shop", SPEC, 1).rows == 40
    take_in(shop, tmp_path, block(20, 40))
    [found] = kept(tmp_path)
    assert found is not None and sum(s.profile.rows for s in found.slices) == 60


@pytest.mark.parametrize("raw", [b"", b"no base64", b"AAAA"])
def test_rows_are_read_where_what_was_kept_is_damaged(
    shop: FolderObservations, tmp_path: Path, raw: bytes
) -> None:
    take_in(shop, tmp_path, block(20))
    [path] = (tmp_path / "shop" / "segments").glob("rows-*")
    table = pq.read_table(path)
    with pq.ParquetWriter(path, table.schema) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({KEY: raw})
    assert shop.profile("shop", SPEC, 1) == wanted(0, 20)


def test_what_is_kept_goes_with_its_rows(shop: FolderObservations, tmp_path: Path) -> None:
    for day in range(2):
        take_in(shop, tmp_path, block(20, day * 24 * 60))
    shop.ingest("shop", Retention(since=minutes(60)), HOURLY)
    assert len(kept(tmp_path)) == 1
    assert {path.suffix for path in (tmp_path / "shop" / "segments").iterdir()} == {"", ".json", ".parquet"}
    assert shop.profile("shop", SPEC, 1).rows == 20


def test_dropped_columns_are_in_no_profile(shop: FolderObservations, tmp_path: Path) -> None:
    cells = make_spec({"x": np.arange(9.0), "ssn": np.arange(9.0)})
    take_in(shop, tmp_path, block(20), by=Profiling(lambda model, version: cells))
    [found] = kept(tmp_path)
    assert found is not None and [list(s.profile.columns) for s in found.slices] == [["x"]]
    assert list(shop.profile("shop", cells, 1).columns) == ["x"]


def test_rows_are_taken_in_whatever_is_in_them(shop: FolderObservations, tmp_path: Path) -> None:
    odd = block(6, **{"in:x": np.array([np.nan, np.inf, -np.inf, 1e308, 0.0, -0.0])})
    take_in(shop, tmp_path, odd, block(2, 6, **{"in:x": np.array(["1", "no"])}))
    shop.ingest("shop", EVERYTHING, HOURLY)
    seen = shop.profile("shop", SPEC, 1).columns["x"]
    assert (seen.n, seen.nulls) == (6, 2)
