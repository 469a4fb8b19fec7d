"""The no-regression verdicts keep their promise: a loss of the margin, and a model no better, pass in about 5 %.

A small form of tests/bench/bench_gate_calibration.py, with its models: 400 pairs a case and always the same ones. With
a true rate of 6 % a case would be above the limit here in one of a thousand seeds.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from mlplatform.stats.compare import no_worse
from tests.bench.bench_gate_calibration import SCENARIOS, Scenario, rates

PAIRS = 400
LIMIT = float(binom.isf(0.001, PAIRS, 0.06)) / PAIRS
CASES = [
    ("accuracy", "ties", 100),
    ("accuracy", "2 % positive", 30),
    ("auc", "balanced", 30),
    ("auc", "2 % positive", 300),
    ("auc", "ties, 2 % positive", 300),
    ("log_loss", "balanced", 30),
    ("log_loss", "2 % positive", 300),
    ("brier", "balanced", 30),
    ("brier", "2 % positive", 300),
    ("mae", "normal", 30),
    ("mae", "ties", 30),
    ("mae", "lognormal", 30),
    ("mae", "lognormal", 100),
    ("mae", "lognormal", 300),
    ("rmse", "normal", 30),
    ("rmse", "lognormal", 100),
    ("r2", "normal", 30),
]
RESAMPLED = [("f1", "balanced", 30), ("f1", "2 % positive", 300), ("balanced_accuracy", "2 % positive", 300)]


def scenario(metric: str, data: str) -> Scenario:
    return next(s for s in SCENARIOS if (s.metric, s.data) == (metric, data))


@pytest.mark.parametrize(("metric", "data", "n"), CASES + RESAMPLED)
def test_what_should_not_pass_passes_in_about_five_percent(metric: str, data: str, n: int) -> None:
    pairs = PAIRS if (metric, data, n) in CASES else PAIRS // 2
    limit = LIMIT if pairs == PAIRS else float(binom.isf(0.001, pairs, 0.06)) / pairs
    found = rates(scenario(metric, data), n, pairs)
    assert found.equal <= limit
    assert found.at_margin <= limit


def test_a_percentile_bootstrap_would_be_seen() -> None:
    """What the limit is worth: on the heavy tail the old bound passes far more often."""
    chosen, rng = scenario("mae", "lognormal"), np.random.default_rng(5)
    margin, passes = chosen.true_loss(0.6, 300), 0
    for _ in range(PAIRS):
        y, old, new = chosen.pair(30, rng, 0.6)
        gains = np.abs(y - old.labels) - np.abs(y - new.labels)
        resampled = gains[rng.integers(0, 30, (2_000, 30))].mean(axis=1)
        passes += np.quantile(resampled, 0.05) > -margin
    assert passes / PAIRS > 1.5 * LIMIT


@pytest.mark.parametrize(
    ("metric", "data", "margin"),
    [("accuracy", "balanced", 0.04), ("auc", "balanced", 0.04), ("log_loss", "balanced", 0.05),
     ("mae", "normal", 0.05), ("rmse", "normal", 0.06)],
)  # fmt: skip
def test_the_rows_that_are_named_let_equal_models_pass_four_times_in_five(
    metric: str, data: str, margin: float
) -> None:
    chosen = scenario(metric, data)
    needed = chosen.compared(chosen.pair(20_000, np.random.default_rng(1), 0.0), margin, 1).n_needed
    assert needed is not None and 100 < needed < 1_500
    passes = 0
    for seed in range(300):
        pair = chosen.pair(needed, np.random.default_rng((2, seed)), 0.0)
        passes += no_worse(chosen.compared(pair, margin, seed)) == "pass"
    assert 0.7 <= passes / 300 <= 0.9


@pytest.mark.parametrize(
    ("metric", "data", "worse"), [("accuracy", "balanced", 0.6), ("auc", "balanced", 0.4)]
)
def test_the_rows_that_are_named_let_a_better_model_pass_at_margin_zero(
    metric: str, data: str, worse: float
) -> None:
    chosen = scenario(metric, data)
    y, old, new = chosen.pair(100_000, np.random.default_rng(1), worse)
    needed = chosen.compared((y, new, old), 0.0, 1).n_as_seen
    assert needed is not None and 100 < needed < 1_500
    passes = 0
    for seed in range(300):
        y, old, new = chosen.pair(needed, np.random.default_rng((2, seed)), worse)
        passes += no_worse(chosen.compared((y, new, old), 0.0, seed)) == "pass"
    assert 0.7 <= passes / 300 <= 0.9
