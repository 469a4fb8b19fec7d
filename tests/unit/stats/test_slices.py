"""Rows by the values of a column: every row in one slice, none in two."""

from __future__ import annotations

import numpy as np
import pytest

from mlplatform.stats.arrays import Array
from mlplatform.stats.slices import MOST_VALUES, slices_of

COLUMNS: dict[str, tuple[Array, int]] = {
    "text with gaps": (np.array(["a", None, "b", "a", float("nan")] * 20, object), 0),
    "numbers with gaps": (np.array([1.0, np.nan, 2.0, 2.5] * 20), 0),
    "booleans": (np.array([True, False, True]), 0),
    "whole numbers in bins": (np.arange(100) % 73, 4),
    "skewed numbers in bins": (np.repeat([0, 1, 5, 9], [80, 5, 5, 10]).astype(float), 3),
    "times in bins": (np.datetime64("2026-01-01", "us") + np.arange(90).astype("timedelta64[D]"), 3),
    "nothing known": (np.array([None] * 4, object), 0),
    "no rows": (np.empty(0), 0),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_every_row_is_in_exactly_one_slice(name: str) -> None:
    values, bins = COLUMNS[name]
    found = slices_of("column", values, bins)
    counted = np.sum([s.rows for s in found], axis=0) if found else np.zeros(0)
    assert (counted == 1).all() and len(counted) == len(values)
    assert all(s.n > 0 for s in found)
    assert len({s.name for s in found}) == len(found)


def test_bins_are_of_about_equal_size_and_named_by_their_ends() -> None:
    found = slices_of("age", np.arange(18, 98), bins=4)
    assert [(s.name, s.n) for s in found] == [
        ("age=18..37", 20),
        ("age=38..57", 20),
        ("age=58..77", 20),
        ("age=78..97", 20),
    ]


def test_few_values_are_not_cut() -> None:
    assert [s.name for s in slices_of("rooms", np.array([1, 2, 3, 3]), bins=4)] == [
        "rooms=1",
        "rooms=2",
        "rooms=3",
    ]


def test_a_number_and_its_wider_twin_are_one_value() -> None:
    gaps = np.array([1.0, 2.0, np.nan])
    assert [s.name for s in slices_of("grade", gaps)] == ["grade=1", "grade=2", "grade=(missing)"]
    assert [s.name for s in slices_of("grade", np.array([1, 2.0, None], object))] == [
        s.name for s in slices_of("grade", gaps)
    ]


def test_too_many_values_are_refused_with_a_way_out() -> None:
    numbers = np.arange(MOST_VALUES + 1)
    with pytest.raises(ValueError, match="age has 51 values, more than 50: give bins = 4"):
        slices_of("age", numbers)
    with pytest.raises(ValueError, match="id has 51 values, more than 50: group them"):
        slices_of("id", numbers.astype(str).astype(object))


def test_tensors_and_bytes_make_no_groups() -> None:
    for values in (np.zeros((3, 2, 2)), np.array([b"a", b"b"], object)):
        with pytest.raises(ValueError, match="image holds tensors or bytes"):
            slices_of("image", values)
