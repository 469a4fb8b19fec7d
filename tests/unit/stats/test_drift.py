"""The drift verdict: silent on quiet tables, awake to each kind of change."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.errors import UsageError
from mlplatform.stats.drift import ColumnDrift, alpha_for, any_drift, compare
from mlplatform.stats.profile import make_spec, profile
from mlplatform.stats.pvalues import (
    benjamini_hochberg,
    beyond_extreme,
    cauchy_combination,
    holm,
    kolmogorov_smirnov,
    pooled_chi2,
    rank_shift,
    two_shares,
)


def table(n: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    zipf = 1 / np.arange(1, 301)
    return {
        "normal": rng.standard_normal(n),
        "skewed": np.exp(rng.standard_normal(n)),
        "count": rng.poisson(3, n),
        "holes": np.where(rng.random(n) < 0.05, np.nan, rng.random(n)),
        "label": rng.choice(np.array(["a", "b", "c"], object), n, p=[0.6, 0.3, 0.1]),
        "many": np.array([f"v{i}" for i in rng.choice(300, n, p=zipf / zipf.sum())], object),
    }


def drift_of(
    reference: dict[str, np.ndarray], current: dict[str, np.ndarray], **options
) -> dict[str, ColumnDrift]:
    spec = make_spec(reference)
    found = compare(profile(spec, reference), profile(spec, current), spec, **options)
    return {item.column: item for item in found}


def changed(**columns: np.ndarray) -> dict[str, ColumnDrift]:
    return drift_of(table(4_000, 1), {**table(1_000, 2), **columns})


def test_quiet_windows_alarm_no_more_often_than_stated() -> None:
    alarms = sum(any_drift(drift_of(table(2_000, 2 * i), table(500, 2 * i + 1)).values()) for i in range(200))
    assert alarms <= 8  # 1 % of 200 windows: more than 8 has probability 2e-4


def test_a_quiet_table_has_no_drift() -> None:
    assert not any_drift(changed().values())


def test_a_shift_is_drift_in_its_column_alone() -> None:
    found = changed(normal=np.random.default_rng(3).standard_normal(1_000) + 0.4)
    assert [name for name, item in found.items() if item.drifted] == ["normal"]
    assert found["normal"].mean_shift_sigma == pytest.approx(0.4, abs=0.1)


def test_other_shares_of_labels_are_drift() -> None:
    found = changed(label=np.array(["a", "b"] * 500, object))["label"]
    assert found.drifted
    assert found.leading_test == "chi2"


def test_nulls_are_drift() -> None:
    holes = np.where(np.random.default_rng(4).random(1_000) < 0.3, np.nan, 0.5)
    holes[~np.isnan(holes)] = np.random.default_rng(5).random((~np.isnan(holes)).sum())
    found = changed(holes=holes)["holes"]
    assert found.drifted
    assert found.leading_test == "nulls"


def test_a_column_gone_altogether_is_drift() -> None:
    spec = make_spec(table(4_000, 1))
    current = table(1_000, 2)
    del current["normal"]
    found = {
        item.column: item for item in compare(profile(spec, table(4_000, 1)), profile(spec, current), spec)
    }
    assert found["normal"].drifted
    assert found["normal"].distance is None


def test_labels_never_seen_are_drift() -> None:
    many = table(1_000, 2)["many"]
    many[:40] = "v_new"
    found = changed(many=many)["many"]
    assert found.drifted
    assert found.new_label_share >= 0.04


def test_values_out_of_range_are_drift() -> None:
    skewed = table(1_000, 2)["skewed"]
    skewed[:30] = 1e6
    found = changed(skewed=skewed)["skewed"]
    assert found.drifted
    assert found.leading_test == "range"


def test_a_million_rows_do_not_alarm_on_dust() -> None:
    rng = np.random.default_rng(6)
    found = drift_of({"x": rng.standard_normal(400_000)}, {"x": rng.standard_normal(400_000) + 0.02})["x"]
    assert found.q_value < 0.01
    assert not found.drifted


def test_too_few_rows_are_no_verdict() -> None:
    found = drift_of(table(1_000, 1), {name: values[:29] for name, values in table(100, 2).items()})
    assert not any(item.enough_data or item.drifted for item in found.values())


def test_constant_and_empty_columns_are_compared_without_a_warning() -> None:
    reference = {"flat": np.ones(100), "empty": np.full(100, np.nan), "none": np.array([None] * 100, object)}
    quiet = drift_of(reference, reference)
    assert not any_drift(quiet.values())
    moved = drift_of(reference, {**reference, "flat": np.full(100, 2.0)})["flat"]
    assert moved.drifted
    assert moved.distance == 1.0


def test_a_verdict_is_plain_data() -> None:
    assert json.loads(json.dumps(changed()["normal"].to_dict(), allow_nan=False))["column"] == "normal"


def test_a_profile_of_another_spec_is_refused() -> None:
    spec = make_spec({"x": np.zeros(40)})
    other = profile(make_spec({"x": np.array(["a"] * 40, object)}), {"x": np.array(["a"] * 40, object)})
    with pytest.raises(UsageError):
        compare(other, other, spec)


def test_alpha_is_spent_over_the_windows_of_a_month() -> None:
    assert alpha_for(2, 720) == pytest.approx(2 / 720)
    assert alpha_for(1, 4) == 0.05
    with pytest.raises(UsageError):
        alpha_for(0, 720)


# ---- the p-values


@pytest.mark.parametrize("test", [kolmogorov_smirnov, pooled_chi2, rank_shift])
def test_p_values_under_no_change_are_not_too_small(test) -> None:
    rng = np.random.default_rng(7)
    shares = rng.dirichlet(np.ones(20))
    p = np.array([test(rng.multinomial(2_000, shares), rng.multinomial(300, shares)) for _ in range(1_000)])
    assert (p <= 0.05).mean() <= 0.075
    assert (p <= 0.01).mean() <= 0.022


def test_the_null_rate_test_is_exact_for_small_counts() -> None:
    # 1 of 20 against 6 of 20: Fisher's upper tail is 0.0457, doubled
    assert two_shares(1, 20, 6, 20) == pytest.approx(2 * 0.045703, abs=1e-4)


def test_the_null_rate_test_does_not_care_which_side_is_counted() -> None:
    assert two_shares(3, 50, 12, 40) == pytest.approx(two_shares(47, 50, 28, 40))
    assert two_shares(300, 5_000, 120, 4_000) == pytest.approx(two_shares(4_700, 5_000, 3_880, 4_000))


def test_chance_beyond_the_maximum_is_that_of_a_simulation() -> None:
    rng = np.random.default_rng(8)
    beyond = (rng.random((20_000, 50)) > rng.random((20_000, 100)).max(axis=1)[:, None]).sum(axis=1)
    assert beyond_extreme(2, 50, 100) == pytest.approx((beyond >= 2).mean(), abs=0.01)


def test_one_strong_test_decides_the_combination() -> None:
    assert cauchy_combination([1e-12, 1.0, 1.0]) == pytest.approx(3e-12, rel=0.01)
    assert cauchy_combination([1e-200, 0.5]) == pytest.approx(2e-200, rel=0.01)
    assert cauchy_combination([1.0, 1.0]) >= 0.98


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_adjusted_p_values_keep_their_order_and_holm_is_the_stricter(p) -> None:
    bh, strict = benjamini_hochberg(p), holm(p)
    order = np.argsort(p)
    assert (np.diff(bh[order]) >= 0).all()
    assert (np.diff(strict[order]) >= 0).all()
    assert (np.asarray(p) <= bh + 1e-15).all()
    assert (bh <= strict + 1e-15).all()
