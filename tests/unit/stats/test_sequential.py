"""Anytime-valid tests: false alarms over the whole stream, power, and continuing."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlplatform.errors import UsageError
from mlplatform.stats.sequential import (
    DetectorState,
    SequentialState,
    error_rate_exceeds,
    start,
    start_detector,
    update,
    verdict,
    watch,
)

streams = st.lists(st.integers(0, 1), max_size=80)


@pytest.mark.parametrize(("baseline", "alpha"), [(0.2, 0.05), (0.02, 0.05), (0.5, 0.01)])
def test_false_alarms_over_the_whole_stream_stay_within_alpha(baseline, alpha) -> None:
    rng = np.random.default_rng(0)
    alarms = np.mean(
        [error_rate_exceeds(rng.random(5_000) < baseline, baseline, alpha).breached for _ in range(400)]
    )
    assert alarms <= alpha + 2 * np.sqrt(alpha / 400)


@pytest.mark.parametrize(("baseline", "rate", "n"), [(0.2, 0.3, 400), (0.01, 0.03, 1_200), (0.05, 0.5, 20)])
def test_a_real_rise_is_found_soon(baseline, rate, n) -> None:
    rng = np.random.default_rng(1)
    found = np.mean([error_rate_exceeds(rng.random(n) < rate, baseline, 0.05).breached for _ in range(200)])
    assert found >= 0.8


@settings(max_examples=100, deadline=None)
@given(streams, streams)
def test_the_same_rows_in_other_portions_give_the_same_state(a, b) -> None:
    at_once = update(start(0.1), np.array(a + b, int))
    in_two = update(update(start(0.1), np.array(a, int)), np.array(b, int))
    assert at_once == in_two
    together, apart = watch(start_detector(0.1), np.array(a + b, int)), start_detector(0.1)
    for part in (a, b):
        apart = watch(apart, np.array(part, int))
    assert apart.n == together.n
    assert apart.alarm_at == together.alarm_at
    assert apart.log_capital == pytest.approx(together.log_capital, abs=1e-8)


def test_the_lower_bound_holds_at_every_row_at_once() -> None:
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(100):
        state, wrong = start(0.5, alpha=0.1), False
        for part in np.split(rng.random(1_000) < 0.3, 10):
            state = update(state, part)
            wrong |= verdict(state).low > 0.3
        missed += wrong
    assert missed / 100 <= 0.1
    assert verdict(state).low > 0.2


def test_the_lower_bound_agrees_with_the_breach() -> None:
    errors = np.array([1, 0] * 40)
    found = error_rate_exceeds(errors, 0.2, 0.05)
    assert found.breached
    assert 0.2 < found.low < 0.5
    assert found.rate == 0.5


def test_a_breach_is_remembered() -> None:
    state = update(start(0.1, 0.01), np.ones(10, int))
    assert verdict(update(state, np.zeros(5_000, int))).breached
    assert verdict(update(state, np.zeros(5_000, int))).e_value < 1


def test_states_survive_as_plain_data() -> None:
    state = update(start(0.1), np.array([0, 1, 1]))
    assert SequentialState.from_dict(json.loads(json.dumps(state.to_dict()))) == state
    for rows in ([], [0, 1, 0]):
        detector = watch(start_detector(0.1), np.array(rows, int))
        assert (
            DetectorState.from_dict(json.loads(json.dumps(detector.to_dict(), allow_nan=False))) == detector
        )


def test_no_rows_breach_nothing() -> None:
    empty = error_rate_exceeds(np.zeros(0, int), 0.1)
    assert (empty.breached, empty.n, empty.low) == (False, 0, 0.0)


def test_the_detector_follows_its_recursion() -> None:
    errors = np.random.default_rng(3).integers(0, 2, 60)
    state = watch(start_detector(0.4), errors)
    bet = 0.05
    capital = 0.0
    for x in errors:
        capital = (1 + capital) * ((0.4 + bet * 0.6) / 0.4 if x else 1 - bet)
    assert np.exp(state.log_capital[5]) == pytest.approx(capital)


def test_quiet_streams_alarm_less_often_than_the_stated_run_length() -> None:
    rng = np.random.default_rng(4)
    first = []
    for _ in range(60):
        state = watch(start_detector(0.2, run_length=500), rng.random(5_000) < 0.2)
        first.append(5_000 if state.alarm_at is None else state.alarm_at)
    assert np.mean(first) >= 500


def test_a_change_after_thousands_of_quiet_rows_is_found_soon() -> None:
    rng = np.random.default_rng(5)
    delays = []
    for _ in range(60):
        state = watch(start_detector(0.2), np.concatenate([rng.random(3_000) < 0.2, rng.random(2_000) < 0.3]))
        assert state.alarm_at is not None
        if state.alarm_at >= 3_000:
            delays.append(state.alarm_at - 3_000)
    assert len(delays) >= 50
    assert np.median(delays) <= 300


@pytest.mark.parametrize("baseline", [0.0, 1.0, -0.1])
def test_a_baseline_outside_zero_and_one_is_refused(baseline) -> None:
    with pytest.raises(UsageError, match="baseline"):
        start(baseline)


@pytest.mark.parametrize("loss", [-0.1, 1.1, np.nan])
def test_losses_below_zero_or_above_one_are_refused(loss: float) -> None:
    with pytest.raises(UsageError):
        error_rate_exceeds(np.array([loss]), 0.1)


def test_bounded_losses_keep_the_false_alarm_rate_and_find_a_worse_mean() -> None:
    """Losses of 0, 1/2 and 1, as paired comparisons with ties give them: never more alarms than stated."""
    rng = np.random.default_rng(7)
    fair, worse = (0.1, 0.8, 0.1), (0.05, 0.6, 0.35)
    draws = {shares: rng.choice([0.0, 0.5, 1.0], size=(300, 400), p=shares) for shares in (fair, worse)}
    alarms = {
        s: np.mean([error_rate_exceeds(row, 0.525, 0.05).breached for row in d]) for s, d in draws.items()
    }
    assert alarms[fair] <= 0.05
    assert alarms[worse] >= 0.9
