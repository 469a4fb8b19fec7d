"""Has the data changed? Two profiles compared column by column, with a stated rate of false alarms.

Per column several tests are combined into one p-value (Cauchy); over the columns Benjamini-Hochberg at
level q, so that a quiet table alarms in about q of the windows; and a floor on the effect, so that a
million rows cannot alarm on dust. Magnitudes (PSI, JS, W1) are for reading only: as thresholds they are
wrong in both directions (with 500 rows a PSI of 0.1 somewhere is noise, with 50,000 rows a real shift stays
below it).

Drift of the data is a reason to look. Reasons to retrain or roll back are losses of quality (estimate.py,
sequential.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlplatform.errors import UsageError
from mlplatform.stats import distance
from mlplatform.stats.profile import CategoricalProfile, ColumnProfile, NumericProfile, Profile
from mlplatform.stats.pvalues import (
    above_share,
    benjamini_hochberg,
    beyond_extreme,
    cauchy_combination,
    kolmogorov_smirnov,
    pooled_chi2,
    rank_shift,
    two_shares,
)
from mlplatform.stats.spec import CategoricalSpec, ColumnSpec, NumericSpec, ReferenceSpec

Q = 0.01
EFFECT_FLOOR = 0.02
MINIMUM_ROWS = 30


@dataclass(frozen=True)
class ColumnDrift:
    """What was seen in one column, and whether it counts as drift.

    `distance` is KS for numbers and total variation for labels; `effect` the largest of it, the change of
    the null rate, the share of new labels and the share out of the reference's range: the floor applies to
    it. `w1_sigma` and `mean_shift_sigma` are in standard deviations of the reference. None: not defined for
    this column or these rows.
    """

    column: str
    kind: Literal["numeric", "categorical"]
    drifted: bool
    enough_data: bool
    p_value: float
    q_value: float
    effect: float
    tests: Mapping[str, float]
    rows_reference: int
    rows_current: int
    null_share_reference: float
    null_share_current: float
    distance: float | None = None
    psi: float | None = None
    js: float | None = None
    w1_sigma: float | None = None
    mean_shift_sigma: float | None = None
    new_label_share: float | None = None
    out_of_range_share: float | None = None

    @property
    def leading_test(self) -> str:
        """The test with the smallest p-value: what changed most surely ("" without data)."""
        return min(self.tests, key=lambda name: self.tests[name], default="")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**self.__dict__, "tests": dict(self.tests), "leading_test": self.leading_test}


def compare(
    reference: Profile,
    current: Profile,
    spec: ReferenceSpec,
    *,
    q: float = Q,
    effect_floor: float = EFFECT_FLOOR,
    minimum_rows: int = MINIMUM_ROWS,
) -> list[ColumnDrift]:
    """Compare two profiles of the same spec, in the order of its columns.

    A column with fewer than `minimum_rows` rows on either side is not tested and does not count in the
    correction. With enough rows but fewer than `minimum_rows` values the null rate alone is tested.
    """
    found = [
        _column(name, column, reference.columns[name], current.columns[name], minimum_rows)
        for name, column in spec.columns.items()
    ]
    adjusted = iter(benjamini_hochberg([item.p_value for item in found if item.enough_data]))
    return [
        _decide(item, float(next(adjusted)), q, effect_floor) if item.enough_data else item for item in found
    ]


def any_drift(columns: Iterable[ColumnDrift]) -> bool:
    """Is there a drifted column? In a quiet table true in at most about q of the windows."""
    return any(column.drifted for column in columns)


def alpha_for(alarms_per_month: float, windows_per_month: float) -> float:
    """The level q per window that spends a stated number of false alarms evenly over a month of windows.

    Never above 0.05: with few windows a month there is no reason to alarm on weak evidence.

    >>> alpha_for(alarms_per_month=1, windows_per_month=720)
    0.001388888888888889
    """
    if alarms_per_month <= 0 or windows_per_month <= 0:
        raise UsageError(what="alarms and windows per month must be positive")
    return min(0.05, alarms_per_month / windows_per_month)


# ---- one column


def _decide(item: ColumnDrift, q_value: float, q: float, effect_floor: float) -> ColumnDrift:
    return replace(item, q_value=q_value, drifted=q_value <= q and item.effect >= effect_floor)


def _column(
    name: str, spec: ColumnSpec, a: ColumnProfile, b: ColumnProfile, minimum_rows: int
) -> ColumnDrift:
    if isinstance(spec, NumericSpec) and isinstance(a, NumericProfile) and isinstance(b, NumericProfile):
        found = _numeric(name, spec, a, b, minimum_rows)
    elif (
        isinstance(spec, CategoricalSpec)
        and isinstance(a, CategoricalProfile)
        and isinstance(b, CategoricalProfile)
    ):
        found = _categorical(name, spec, a, b, minimum_rows)
    else:
        raise UsageError(what=f"column {name!r}: the profiles were not made with this spec")
    enough = min(found.rows_reference, found.rows_current) >= minimum_rows
    tests = {"nulls": two_shares(a.nulls, found.rows_reference, b.nulls, found.rows_current), **found.tests}
    changed_nulls = abs(found.null_share_reference - found.null_share_current)
    effects = (found.distance, changed_nulls, found.new_label_share, found.out_of_range_share)
    return replace(
        found,
        enough_data=enough,
        tests=tests if enough else {},
        p_value=cauchy_combination(list(tests.values())) if enough else 1.0,
        effect=max(effect or 0.0 for effect in effects),
    )


def _numeric(
    name: str, spec: NumericSpec, a: NumericProfile, b: NumericProfile, minimum_rows: int
) -> ColumnDrift:
    found = _blank(name, "numeric", a, b)
    if not a.n or not b.n:
        return found
    excess = (a.low_excess, b.low_excess), (a.high_excess, b.high_excess)
    sigma = a.std
    found = replace(
        found,
        distance=distance.ks(a.counts, b.counts),
        psi=distance.decile_psi(a.counts, b.counts),
        js=distance.js(a.counts, b.counts),
        w1_sigma=distance.wasserstein(a.counts, b.counts, spec.edges, *excess) / sigma if sigma else None,
        mean_shift_sigma=(b.mean - a.mean) / sigma if sigma and b.finite else None,
        out_of_range_share=(b.below + b.above) / b.n,
    )
    return replace(found, tests=_numeric_tests(a, b)) if min(a.n, b.n) >= minimum_rows else found


def _numeric_tests(a: NumericProfile, b: NumericProfile) -> dict[str, float]:
    outside = min(beyond_extreme(hits, b.n, a.n) for hits in (b.below, b.above))
    return {
        "ks": kolmogorov_smirnov(a.counts, b.counts),
        "shift": rank_shift(a.counts, b.counts),
        "range": min(1.0, 2 * outside),
    }


def _categorical(
    name: str, spec: CategoricalSpec, a: CategoricalProfile, b: CategoricalProfile, minimum_rows: int
) -> ColumnDrift:
    found = _blank(name, "categorical", a, b)
    if not a.n or not b.n:
        return found
    found = replace(
        found,
        distance=distance.total_variation(a.counts, b.counts),
        psi=distance.psi(a.counts, b.counts),
        js=distance.js(a.counts, b.counts),
        new_label_share=b.new / b.n,
    )
    if min(a.n, b.n) < minimum_rows:
        return found
    new_labels = above_share(b.new, b.n, spec.missing_mass)
    return replace(found, tests={"chi2": pooled_chi2(a.counts, b.counts), "new_labels": new_labels})


def _blank(
    name: str, kind: Literal["numeric", "categorical"], a: ColumnProfile, b: ColumnProfile
) -> ColumnDrift:
    rows_a, rows_b = a.n + a.nulls, b.n + b.nulls
    shares = a.nulls / max(rows_a, 1), b.nulls / max(rows_b, 1)
    return ColumnDrift(name, kind, False, False, 1.0, 1.0, 0.0, {}, rows_a, rows_b, *shares)
