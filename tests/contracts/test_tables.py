"""Port Tables: the fake in memory and Parquet on disk keep the same promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mlplatform.data.tables import ParquetTables
from mlplatform.domain.bundle import Column
from mlplatform.errors import MlplatformError, UnreadableTable, UsageError
from mlplatform.ports.data import Tables
from mlplatform.testing.fakes.tables import FakeTables


@pytest.fixture(params=["fake", "parquet"])
def tables(request: pytest.FixtureRequest) -> Tables:
    return FakeTables() if request.param == "fake" else ParquetTables()


def test_what_is_written_is_read_back(tables: Tables, tmp_path: Path) -> None:
    columns = {
        "age": np.array([31, 45]),
        "income": np.array([1.5, np.nan]),
        "small": np.array([1.5, 2.5], np.float32),
        "member": np.array([True, False]),
        "city": np.array(["Bern", None], object),
        "when": np.array(["2026-01-01T12:00", "NaT"], "datetime64[ns]"),
    }
    tables.write(tmp_path / "t.parquet", columns)
    read = tables.read(tmp_path / "t.parquet")
    assert list(read) == list(columns)
    assert {name: values.dtype.str for name, values in read.items()} == {
        "age": "<i8", "income": "<f8", "small": "<f4", "member": "|b1", "city": "|O", "when": "<M8[us]",
    }  # fmt: skip
    assert read["city"].tolist() == ["Bern", None]
    assert np.isnan(read["income"][1])
    assert np.isnat(read["when"][1])
    assert read["when"][0] == np.datetime64("2026-01-01T12:00")


def test_tensors_and_bytes_are_read_back_in_their_shape(tables: Tables, tmp_path: Path) -> None:
    images = np.arange(2 * 3 * 4 * 2, dtype=np.float32).reshape(2, 3, 4, 2)
    loose = np.array([np.zeros((1, 2)), np.ones((2, 2)), None], object)[:2]
    columns = {"image": images, "loose": loose, "raw": np.array([b"\x00", None], object)}
    tables.write(tmp_path / "t.parquet", columns)
    read = tables.read(tmp_path / "t.parquet")
    np.testing.assert_array_equal(read["image"], images)
    assert read["image"].dtype == np.float32
    assert [row.shape for row in read["loose"]] == [(1, 2), (2, 2)]
    assert read["raw"].tolist() == [b"\x00", None]


def test_whole_numbers_with_gaps_become_floats_with_nan(tables: Tables, tmp_path: Path) -> None:
    tables.write(tmp_path / "t.parquet", {"age": np.array([31, None, 45], object)})
    age = tables.read(tmp_path / "t.parquet")["age"]
    assert age.dtype == np.float64
    assert np.isnan(age).tolist() == [False, True, False]


def test_times_are_read_however_they_are_written(tables: Tables) -> None:
    moments = np.array(["2026-01-01T12:00", "NaT"], "datetime64[us]")
    for written in (
        moments,
        np.array(["2026-01-01T13:00:00+01:00", None], object),
        np.array([1_767_268_800.0, np.nan]),
    ):
        np.testing.assert_array_equal(tables.times(written), moments)
    assert tables.times(np.array([19.9, 25.0])) is None
    assert tables.times(np.array(["red", "blue"], object)) is None


def test_writing_again_replaces(tables: Tables, tmp_path: Path) -> None:
    tables.write(tmp_path / "t.parquet", {"a": np.arange(3)})
    tables.write(tmp_path / "t.parquet", {"b": np.arange(2)})
    assert {name: len(v) for name, v in tables.read(tmp_path / "t.parquet").items()} == {"b": 2}


def test_a_table_without_rows_keeps_its_columns(tables: Tables, tmp_path: Path) -> None:
    tables.write(tmp_path / "t.parquet", {"a": np.empty(0), "b": np.empty(0, np.int64)})
    assert {name: len(v) for name, v in tables.read(tmp_path / "t.parquet").items()} == {"a": 0, "b": 0}


def test_a_missing_file_is_one_error_that_names_it(tables: Tables, tmp_path: Path) -> None:
    with pytest.raises(UnreadableTable, match=r"gone\.parquet") as seen:
        tables.read(tmp_path / "gone.parquet")
    assert isinstance(seen.value, MlplatformError)
    assert seen.value.next_step


INPUTS = (
    Column("age", "long"),
    Column("height", "float"),
    Column("city", "string"),
    Column("at", "datetime"),
)
ROWS = {
    "age": np.array([31, 45, 31]),
    "height": np.array([1.7, 1.8, 1.7]),
    "city": np.array(["Bern", None, "Bern"], object),
    "at": np.array(["2026-01-01", "2026-01-02", "2026-01-01"], "datetime64[D]"),
}


def test_equal_rows_and_only_they_have_equal_digests(tables: Tables) -> None:
    digests = tables.row_digests(ROWS, INPUTS)
    assert digests.dtype == np.uint64
    assert digests[0] == digests[2] != digests[1]


def test_digests_survive_a_file_and_other_widths_and_another_order(tables: Tables, tmp_path: Path) -> None:
    narrow = {
        "extra": np.zeros(3),
        "at": ROWS["at"].astype("datetime64[ns]"),
        "city": ROWS["city"],
        "height": ROWS["height"].astype(np.float32),
        "age": ROWS["age"].astype(np.int16),
    }
    tables.write(tmp_path / "t.parquet", narrow)
    expected = tables.row_digests(ROWS, INPUTS).tolist()
    assert tables.row_digests(narrow, INPUTS).tolist() == expected
    assert tables.row_digests(tables.read(tmp_path / "t.parquet"), INPUTS).tolist() == expected


def test_a_missing_feature_is_named(tables: Tables) -> None:
    with pytest.raises(UsageError, match="city"):
        tables.row_digests({k: v for k, v in ROWS.items() if k != "city"}, INPUTS)
