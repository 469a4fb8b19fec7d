"""A quantile's interval holds it as often as it says, whatever the distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlplatform.stats.quantile import quantile_interval


@pytest.mark.parametrize(("share", "n"), [(0.5, 15), (0.5, 40), (0.99, 2000)])
def test_the_interval_holds_the_quantile_in_at_least_95_percent(share: float, n: int) -> None:
    rng, held = np.random.default_rng(1), 0
    truth = -math.log(1 - share)
    for _ in range(1000):
        found = quantile_interval(rng.exponential(size=n), share)
        held += found.low <= truth <= found.high
    assert 0.935 <= held / 1000 <= 0.99


def test_too_few_values_give_no_upper_end() -> None:
    assert math.isinf(quantile_interval(np.arange(367.0), 0.99).high)
    assert math.isfinite(quantile_interval(np.arange(368.0), 0.99).high)
    nothing = quantile_interval([], 0.5)
    assert math.isnan(nothing.value) and (nothing.low, nothing.high) == (-math.inf, math.inf)
