"""Ratios and differences of rates: their bounds keep their level, and of many claims few are false."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom

from mlplatform.stats.estimate import wilson
from mlplatform.stats.fairness import (
    AtLeastRatio,
    AtMostDifference,
    Contrast,
    Pair,
    Rate,
    difference,
    holm_standing,
    rate_ratio,
    rows_enough,
)
from mlplatform.stats.pvalues import holm


def errors(
    of: Callable[[int, int], Contrast], truth: float, n: int, p: float, m: int, q: float
) -> tuple[float, float]:
    """How often a lower and an upper bound miss the truth: every outcome, weighed by its chance."""
    low = high = 0.0
    hits, others = (np.arange(size + 1) for size in (n, m))
    for x, chance in zip(hits, binom.pmf(hits, n, p), strict=True):
        for y, other in zip(others, binom.pmf(others, m, q), strict=True):
            if (both := chance * other) > 1e-8:
                bounds = of(int(x), int(y))
                low, high = low + both * (bounds.low > truth), high + both * (bounds.high < truth)
    return low, high


@pytest.mark.parametrize(("n", "m", "q"), [(100, 100, 0.3), (100, 300, 0.2), (60, 400, 0.15)])
def test_a_ratio_misses_in_about_5_percent_on_each_side(n: int, m: int, q: float) -> None:
    low, high = errors(lambda x, y: rate_ratio(x, n, y, m), 0.8, n, 0.8 * q, m, q)
    assert 0.03 < low < 0.065 and 0.03 < high < 0.065


@pytest.mark.parametrize(("n", "m", "q"), [(100, 100, 0.3), (60, 300, 0.1)])
def test_a_difference_misses_in_about_5_percent_on_each_side(n: int, m: int, q: float) -> None:
    def of(x: int, y: int) -> Contrast:
        return difference(wilson(x, n, 0.9), wilson(y, m, 0.9))

    low, high = errors(of, 0.1, n, q + 0.1, m, q)
    assert 0.03 < low < 0.065 and 0.03 < high < 0.065


def test_a_ratio_agrees_with_the_logarithm_where_there_are_many_rows() -> None:
    found = rate_ratio(451, 5421, 2781, 10860)
    error = math.sqrt(1 / 451 - 1 / 5421 + 1 / 2781 - 1 / 10860)
    assert found.value == pytest.approx(0.3249, abs=1e-4)
    assert found.low == pytest.approx(found.value * math.exp(-1.6449 * error), rel=0.01)
    assert found.high == pytest.approx(found.value * math.exp(1.6449 * error), rel=0.01)


@pytest.mark.parametrize("hits", [(0, 50), (50, 0), (0, 0), (50, 50), (1, 50), (1, 1)])
def test_a_ratio_of_nothing_has_bounds_that_hold_its_value(hits: tuple[int, int]) -> None:
    found = rate_ratio(hits[0], 50, hits[1], 50)
    if hits == (0, 0):
        assert math.isnan(found.value) and (found.low, found.high) == (0.0, math.inf)
        return
    assert 0 <= found.low <= found.value <= found.high
    assert found.low < found.high


def test_the_same_question_turned_round_has_the_same_answer() -> None:
    one, other = rate_ratio(30, 100, 45, 120), rate_ratio(45, 120, 30, 100)
    assert (other.value, other.low, other.high) == pytest.approx((1 / one.value, 1 / one.high, 1 / one.low))


def test_claims_that_stand_are_those_of_holm() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        p_values = rng.random(6) ** 4
        claims = [lambda confidence, p=p: p <= 1 - confidence for p in p_values]
        assert holm_standing(claims, 0.95) == np.flatnonzero(holm(p_values.tolist()) <= 0.05).tolist()
    assert holm_standing([], 0.95) == []


def test_demands_tell_which_group_is_worse_off_and_how_many_rows_would_tell() -> None:
    few, many = Rate("few", 15, 100), Rate("many", 20, 100)
    ratio = Pair(few, many, AtLeastRatio(0.8))
    assert ratio.badness(0.95) > 0 > Pair(many, few, AtLeastRatio(0.8)).badness(0.95)
    assert not ratio.surely_within(0.95) and not ratio.surely_beyond(0.95)
    enough = ratio.enough(0.95)
    assert enough is not None and enough > 1000
    factor = enough / 100
    grown = Pair(
        Rate("few", round(15 * factor), enough), Rate("many", round(20 * factor), enough), AtLeastRatio(0.8)
    )
    assert grown.at(0.95).high == pytest.approx(0.8, abs=0.01)
    gap = Pair(many, few, AtMostDifference(0.2))
    assert gap.surely_within(0.95) and gap.at(0.95).value == pytest.approx(0.05)
    assert Pair(Rate("none", 0, 0), many, AtMostDifference(0.2)).badness(0.95) == math.inf


def test_bounds_shrink_with_the_root_of_the_rows() -> None:
    assert rows_enough(100, 0.01, 0.02) == 400
    assert rows_enough(100, 0.0, 0.02) is None
    assert rows_enough(100, 0.01, math.inf) is None
