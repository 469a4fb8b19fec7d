"""Profiles: what they count, and that they merge."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.errors import UsageError
from mlplatform.stats.profile import (
    CategoricalSpec,
    NumericSpec,
    Profile,
    ReferenceSpec,
    make_spec,
    merge,
    pack,
    profile,
    unpack,
    unpack_spec,
)

numbers = st.floats(allow_nan=True, allow_infinity=True, width=64)
labels = st.one_of(st.none(), st.sampled_from(["a", "b", "c", "d"]), st.text(max_size=3))


@st.composite
def tables(draw: st.DrawFn) -> dict[str, np.ndarray]:
    n = draw(st.integers(0, 60))
    x = draw(st.lists(numbers, min_size=n, max_size=n))
    k = draw(st.lists(st.integers(-3, 3), min_size=n, max_size=n))
    c = draw(st.lists(labels, min_size=n, max_size=n))
    return {"x": np.array(x, np.float64), "k": np.array(k, np.int64), "c": np.array(c, object)}


REFERENCE = {
    "x": np.random.default_rng(0).standard_normal(3_000),
    "k": np.random.default_rng(1).poisson(1, 3_000),
    "c": np.random.default_rng(2).choice(np.array(["a", "b", "c"], object), 3_000),
}
SPEC = make_spec(REFERENCE)


def joined(*parts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def integers_of(item: Profile) -> list[object]:
    found: list[object] = [item.rows]
    for column in item.columns.values():
        data = column.to_dict()
        found.append(
            {key: value for key, value in data.items() if key in ("counts", "new") or type(value) is int}
        )
    return found


@settings(max_examples=150, deadline=None)
@given(tables(), tables(), tables())
def test_merged_profiles_have_the_integers_of_the_joined_rows_in_any_order(a, b, c) -> None:
    parts = [profile(SPEC, part) for part in (a, b, c)]
    whole = integers_of(profile(SPEC, joined(a, b, c)))
    assert integers_of(merge(merge(parts[0], parts[1]), parts[2])) == whole
    assert integers_of(merge(parts[2], merge(parts[0], parts[1]))) == whole


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(0, 50))
def test_merged_moments_agree_with_those_of_all_rows(values, cut) -> None:
    x = np.array(values)
    whole = merge(profile(SPEC, {"x": x[:cut]}), profile(SPEC, {"x": x[cut:]})).columns["x"]
    assert whole.mean == pytest.approx(x.mean(), rel=1e-9, abs=1e-9)
    assert whole.m2 == pytest.approx(((x - x.mean()) ** 2).sum(), rel=1e-9, abs=1e-6)
    assert (whole.minimum, whole.maximum) == (x.min(), x.max())


@settings(max_examples=100, deadline=None)
@given(tables())
def test_a_profile_survives_packing_exactly(table) -> None:
    item = profile(SPEC, table)
    assert unpack(pack(item)) == item
    assert Profile.from_dict(json.loads(json.dumps(item.to_dict()))) == item


@settings(max_examples=50, deadline=None)
@given(tables())
def test_a_spec_survives_packing_and_every_row_finds_a_cell(table) -> None:
    spec = make_spec(table)
    assert unpack_spec(pack(spec)) == spec
    assert ReferenceSpec.from_dict(spec.to_dict()) == spec
    own = profile(spec, table)
    for name, column in own.columns.items():
        assert column.n + column.nulls == len(table[name])


def test_large_columns_are_profiled_in_chunks_without_losing_a_row() -> None:
    x = np.random.default_rng(3).standard_normal(100_001)
    column = profile(SPEC, {"x": x}).columns["x"]
    edges = SPEC.columns["x"].edges
    expected = np.bincount(np.searchsorted(edges, x, side="left"), minlength=len(edges) + 1)
    assert column.counts.tolist() == expected.tolist()
    assert column.std == pytest.approx(x.std(ddof=1))


def test_the_cells_of_the_reference_hold_equal_shares() -> None:
    x = np.random.default_rng(4).standard_normal(120_000)
    spec = make_spec({"x": x})
    cumulative = np.cumsum(profile(spec, {"x": x}).columns["x"].counts)
    assert {i * 12_000 for i in range(1, 10)} <= set(cumulative.tolist())


def test_a_frequent_value_gets_a_cell_of_its_own() -> None:
    x = np.concatenate([np.zeros(700), np.random.default_rng(5).exponential(1, 300)])
    column = profile(make_spec({"x": x}), {"x": x}).columns["x"]
    assert 700 in column.counts.tolist()


def test_a_column_that_the_batch_lacks_is_null_in_every_row() -> None:
    item = profile(SPEC, {"x": np.zeros(5)})
    assert item.rows == 5
    assert item.columns["c"].nulls == item.columns["k"].nulls == 5
    assert item.columns["c"].n == 0


def test_columns_that_the_reference_lacks_are_left_out() -> None:
    assert "other" not in profile(SPEC, {"x": np.zeros(2), "other": np.zeros(2)}).columns


def test_nulls_of_every_shape_are_nulls() -> None:
    table = {
        "x": np.array([1.0, None, "2.5", "word", np.nan], object),
        "c": np.array(["a", None, np.nan, "b", "c"], object),
    }
    item = profile(SPEC, table)
    assert item.columns["x"].nulls == 3
    assert item.columns["c"].nulls == 2


def test_booleans_times_and_numbers_among_objects_are_numeric() -> None:
    spec = make_spec(
        {
            "flag": np.array([True, False, True]),
            "when": np.array(["2024-01-01", "NaT", "2024-01-02"], "datetime64[s]"),
            "mixed": np.array([1, None, 2.5], object),
        }
    )
    assert all(isinstance(column, NumericSpec) for column in spec.columns.values())
    when = profile(spec, {"when": np.array(["2024-01-01", "NaT"], "datetime64[ns]")}).columns["when"]
    assert (when.mean, when.nulls) == (1704067200.0, 1)


def test_values_outside_the_reference_range_are_counted() -> None:
    column = profile(SPEC, {"k": np.array([-1, -5, 0, 1, 99, np.inf, -np.inf])}).columns["k"]
    assert (column.below, column.above, column.infinite) == (3, 2, 2)
    assert column.maximum == 99


def test_labels_with_fewer_than_ten_reference_rows_share_a_cell_and_are_not_new() -> None:
    column = np.array(["common"] * 10 + ["rare"] * 9, object)
    spec = make_spec({"c": column})
    assert isinstance(spec.columns["c"], CategoricalSpec)
    assert spec.columns["c"].labels == ("common",)
    item = profile(spec, {"c": np.array(["rare", "common", "unheard of", "unheard of"], object)}).columns["c"]
    assert item.counts.tolist() == [1, 3]
    assert item.new == 2


def test_an_identifier_column_is_not_watched_for_new_labels() -> None:
    spec = make_spec({"id": np.array([f"u{i}" for i in range(60_000)], object)})
    assert spec.columns["id"].known is None
    assert profile(spec, {"id": np.array(["other"], object)}).columns["id"].new == 0


def test_numpy_text_and_object_text_give_the_same_profile() -> None:
    text = np.array(["a", "b", "zz"])
    assert profile(SPEC, {"c": text}) == profile(SPEC, {"c": text.astype(object)})


def test_columns_of_different_length_are_refused() -> None:
    with pytest.raises(UsageError, match="differ in length"):
        profile(SPEC, {"x": np.zeros(2), "k": np.zeros(3)})


def test_a_matrix_is_no_column() -> None:
    with pytest.raises(UsageError, match="one-dimensional"):
        make_spec({"image": np.zeros((2, 28, 28))})


def test_profiles_of_different_specs_are_not_merged() -> None:
    other = make_spec({"x": np.zeros(3), "k": np.zeros(3), "c": np.array(["q"] * 3, object)})
    with pytest.raises(UsageError, match="different specs"):
        merge(profile(SPEC, REFERENCE), profile(other, REFERENCE))
    with pytest.raises(UsageError, match="different tables"):
        merge(profile(SPEC, REFERENCE), profile(make_spec({"x": np.zeros(3)}), REFERENCE))


def test_a_huge_value_does_not_break_the_json() -> None:
    item = profile(SPEC, {"x": np.array([1e300, -1e300])})
    assert unpack(pack(item)) == item
