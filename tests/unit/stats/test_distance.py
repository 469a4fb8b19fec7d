"""Distances from counts, against their definitions and against the raw values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mlplatform.stats import distance
from mlplatform.stats.profile import make_spec, profile

counts = st.lists(st.integers(0, 1_000), min_size=2, max_size=12).map(np.array)
EVERY = [
    distance.psi,
    distance.decile_psi,
    distance.ks,
    distance.js,
    distance.hellinger,
    distance.total_variation,
]


@given(counts)
def test_a_distribution_has_no_distance_to_itself(a) -> None:
    assume(a.sum() > 0)
    for measure in EVERY:
        assert measure(a, 3 * a) == pytest.approx(0, abs=2e-7)


@given(
    st.integers(2, 10).flatmap(
        lambda k: st.tuples(*[st.lists(st.integers(0, 99), min_size=k, max_size=k)] * 2)
    )
)
def test_distances_keep_their_order_and_bounds(pair) -> None:
    a, b = np.array(pair[0]), np.array(pair[1])
    assume(a.sum() > 0 and b.sum() > 0)
    tv, h = distance.total_variation(a, b), distance.hellinger(a, b)
    assert distance.ks(a, b) <= tv + 1e-12
    assert h**2 <= tv + 1e-9
    assert tv <= h * math.sqrt(2) + 1e-9
    assert 0 <= distance.js(a, b) <= 1
    assert distance.psi(a, b) >= 0
    assert distance.psi(a, b) == pytest.approx(distance.psi(b, a))


def test_an_empty_side_has_no_distance() -> None:
    nothing, something = np.zeros(3, int), np.array([1, 2, 3])
    for measure in (distance.psi, distance.ks, distance.js, distance.hellinger, distance.total_variation):
        assert math.isnan(measure(something, nothing))


def test_decile_psi_equals_psi_over_the_deciles_of_the_raw_values() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(5_000), rng.standard_normal(4_000) * 1.1 + 0.3
    spec = make_spec({"x": a})
    left, right = (profile(spec, {"x": values}).columns["x"] for values in (a, b))
    deciles = np.quantile(a, np.arange(1, 10) / 10, method="inverted_cdf")
    raw = [np.bincount(np.searchsorted(deciles, values), minlength=10) for values in (a, b)]
    assert distance.decile_psi(left.counts, right.counts) == pytest.approx(distance.psi(*raw), abs=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.1, 0.5])
def test_ks_and_wasserstein_from_cells_are_near_those_of_the_raw_values(shift) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(20_000), rng.standard_normal(20_000) + shift
    spec = make_spec({"x": a})
    left, right = (profile(spec, {"x": values}).columns["x"] for values in (a, b))
    grid = np.concatenate([a, b])
    true_ks = (
        max(abs(np.searchsorted(np.sort(a), grid, "right") - np.searchsorted(np.sort(b), grid, "right")))
        / 20_000
    )
    found = distance.ks(left.counts, right.counts)
    assert true_ks - 0.007 <= found <= true_ks + 1e-12
    excess = (left.low_excess, right.low_excess), (left.high_excess, right.high_excess)
    w1 = distance.wasserstein(left.counts, right.counts, spec.columns["x"].edges, *excess)
    assert w1 == pytest.approx(np.abs(np.sort(a) - np.sort(b)).mean(), abs=0.01)
