"""Tables in the types of a signature."""

from __future__ import annotations

import numpy as np
import pytest

from mlplatform.domain.bundle import Column
from mlplatform.stats.batch import Batch
from mlplatform.stats.typed import recombined, rows_of, typed_batch


def test_columns_of_one_numeric_type_become_a_matrix_in_the_signatures_order() -> None:
    batch = typed_batch(
        {"b": [1, 2], "a": [3, 4], "extra": [5, 6]}, [Column("a", "float"), Column("b", "float")]
    )
    assert batch.matrix is not None
    assert batch.matrix.dtype == np.float32
    assert batch.matrix.tolist() == [[3, 1], [4, 2]]


def test_mixed_columns_keep_their_types_and_gaps() -> None:
    inputs = [Column("n", "long"), Column("t", "string"), Column("d", "datetime"), Column("b", "boolean")]
    batch = typed_batch(
        {"n": [1, 2], "t": ["x", None], "d": ["2026-01-01", None], "b": [True, False]}, inputs
    )
    columns = batch.columns()
    assert columns["n"].dtype == np.int64
    assert columns["t"].tolist() == ["x", None]
    assert np.isnat(columns["d"][1])
    assert columns["b"].dtype == np.bool_


def test_a_whole_number_that_is_missing_becomes_nan_and_fractions_are_refused() -> None:
    gap = typed_batch(
        {"n": [1, None], "t": ["", ""]}, [Column("n", "long"), Column("t", "string")]
    ).columns()["n"]
    assert gap.dtype == np.float64 and np.isnan(gap[1])
    with pytest.raises(ValueError, match="column 'n' is not long: it holds fractions"):
        typed_batch({"n": [1.5]}, [Column("n", "long")])


def test_missing_columns_are_named_and_optional_ones_filled() -> None:
    with pytest.raises(ValueError, match="no column 'a'"):
        typed_batch({"b": [1.0]}, [Column("a", "double"), Column("b", "double")])
    batch = typed_batch({"b": [1.0, 2.0]}, [Column("a", "double", required=False), Column("b", "double")])
    assert batch.matrix is not None and np.isnan(batch.matrix[:, 0]).all()


def test_text_for_numbers_is_refused_with_the_columns_name() -> None:
    with pytest.raises(ValueError, match="column 'a' is not double"):
        typed_batch({"a": ["x", "y"]}, [Column("a", "double")])


def test_rows_are_cut_out_and_recombined_from_the_same_columns() -> None:
    batch = Batch(("a",), arrays={"a": np.array(["x", "y", "z"], dtype=object)})
    assert rows_of(batch, 1, 2).columns()["a"].tolist() == ["y"]
    more = recombined({"a": np.array([1, 2]), "b": np.array([10, 20])}, 50, seed=0)
    assert set(more["a"]) == {1, 2} and set(more["b"]) == {10, 20}
    assert len(set(zip(more["a"].tolist(), more["b"].tolist(), strict=True))) == 4, "new pairs appear"
