"""Files as people have them: CSV with gaps, unknown endings, half files; and the identity of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.data.tables import ParquetTables
from mlplatform.domain.bundle import Column
from mlplatform.errors import UnreadableTable, UnwritableTable, UsageError
from mlplatform.stats.digests import row_digests

TABLES = ParquetTables()


def test_csv_is_read_with_types_and_gaps(tmp_path: Path) -> None:
    text = "age,city,when,income\n31,Bern,2026-01-01 10:00:00,1.5\n,,2026-01-02 10:00:00,nan\n"
    (tmp_path / "t.csv").write_text(text)
    table = TABLES.read(tmp_path / "t.csv")
    assert np.array_equal(table["age"], [31, np.nan], equal_nan=True)
    assert table["city"].tolist() == ["Bern", None]
    assert table["when"].dtype.str == "<M8[us]"
    assert np.array_equal(table["income"], [1.5, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    ("name", "raw", "cause"),
    [
        ("t.parquet", b"PAR1 cut", "Parquet"),
        ("t.csv", b"a,b\n1\n", "columns"),
        ("t.xlsx", b"", "must end in"),
    ],
)
def test_what_is_no_table_is_one_line_with_the_file(
    tmp_path: Path, name: str, raw: bytes, cause: str
) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(UnreadableTable, match=cause) as seen:
        TABLES.read(tmp_path / name)
    assert name in str(seen.value)
    assert "\n" not in str(seen.value)


def test_a_table_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UnwritableTable, match=r"t\.parquet"):
        TABLES.write(tmp_path / "t.parquet", {"a": np.zeros(2), "b": np.zeros(3)})
    (tmp_path / "d.parquet").mkdir()
    with pytest.raises(UnwritableTable):
        TABLES.write(tmp_path / "d.parquet", {"a": np.zeros(2)})
    assert [path.name for path in tmp_path.iterdir()] == ["d.parquet"]


def test_mixed_objects_are_written_as_text(tmp_path: Path) -> None:
    TABLES.write(tmp_path / "t.parquet", {"truth": np.array([1, "x", None], object)})
    assert TABLES.read(tmp_path / "t.parquet")["truth"].tolist() == ["1", "x", None]


# ---- digests

NUMBERS = st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=20)
TEXTS = st.text(max_size=5) | st.none()


@given(NUMBERS, st.randoms())
def test_digests_do_not_depend_on_width_or_order_of_columns(numbers: list[int], random) -> None:  # type: ignore[no-untyped-def]
    inputs = [Column("a", "long"), Column("b", "double"), Column("c", "float")]
    wide = {name: np.array(numbers, np.float64) for name in "abc"}
    narrow = {
        "c": np.array(numbers, np.float32),
        "b": np.array(numbers, object),
        "a": np.array(numbers, np.int32),
    }
    expected = row_digests(wide, inputs)
    assert row_digests(narrow, inputs).tolist() == expected.tolist()
    order = list(range(len(numbers)))
    random.shuffle(order)
    shuffled = {name: values[order] for name, values in wide.items()}
    assert row_digests(shuffled, inputs).tolist() == expected[order].tolist()


@given(st.lists(st.tuples(TEXTS, st.floats(allow_nan=True)), min_size=1, max_size=20))
def test_rows_are_equal_exactly_when_their_digests_are(rows: list[tuple[str | None, float]]) -> None:
    columns = {"t": np.array([t for t, _ in rows], object), "x": np.array([x for _, x in rows])}
    digests = row_digests(columns, [Column("t", "string"), Column("x", "double")])
    keys = [(t, "null" if x != x else x) for t, x in rows]
    assert len(set(keys)) == len(set(digests.tolist()))


def test_swapped_values_are_another_row() -> None:
    inputs = [Column("a", "double"), Column("b", "double")]
    one, two = np.array([1.0]), np.array([2.0])
    assert row_digests({"a": one, "b": two}, inputs) != row_digests({"a": two, "b": one}, inputs)


def test_a_float_column_is_compared_as_the_model_sees_it() -> None:
    single, double = [Column("a", "float")], [Column("a", "double")]
    wide, narrow = {"a": np.array([0.1])}, {"a": np.array([0.1], np.float32)}
    assert row_digests(wide, single) == row_digests(narrow, single)
    assert row_digests(wide, double) != row_digests(narrow, double)


def test_digests_are_those_of_earlier_releases() -> None:
    """Versions carry the digests of their training rows: changing the function would forget what they saw."""
    columns = {"a": np.array([1.5, np.nan]), "b": np.array(["Bern", None], object)}
    columns["c"] = np.array(["2026-01-01", "NaT"], "datetime64[s]")
    inputs = [Column("a", "double"), Column("b", "string"), Column("c", "datetime")]
    assert row_digests(columns, inputs).tolist() == [7526939073632380914, 2866564530305251000]


def test_an_optional_column_that_is_not_there_counts_as_null() -> None:
    inputs = [Column("a", "double"), Column("b", "double", required=False)]
    without = row_digests({"a": np.array([1.0])}, inputs)
    assert without == row_digests({"a": np.array([1.0]), "b": np.array([np.nan])}, inputs)


def test_a_column_of_the_wrong_type_is_named() -> None:
    with pytest.raises(UsageError, match="'when' does not hold datetime"):
        row_digests({"when": np.array(["soon"], object)}, [Column("when", "datetime")])


def test_tensors_count_by_their_values_in_the_signatures_type_and_a_missing_one_as_missing() -> None:
    inputs = [Column("image", "uint8", shape=(2, 2))]
    images = np.arange(12).reshape(3, 2, 2)
    expected = row_digests({"image": images.astype(np.uint8)}, inputs)
    assert len(set(expected.tolist())) == 3
    assert row_digests({"image": images.astype(np.float64)}, inputs).tolist() == expected.tolist()
    rows = np.array([*images, None], object)[:-1]
    rows[1] = None
    again = row_digests({"image": rows}, inputs)
    assert (again == expected).tolist() == [True, False, True]


def test_tensors_of_text_count_by_their_text() -> None:
    inputs = [Column("words", "string", shape=(2,))]
    texts = [np.array([["to", "be"], ["or", "not"]], kind) for kind in (object, "U3")]
    first, second = (row_digests({"words": one}, inputs).tolist() for one in texts)
    assert first == second
    assert first[0] != first[1]
