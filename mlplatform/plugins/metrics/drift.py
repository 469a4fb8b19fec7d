"""drift: have the inputs, or the answers, changed? A reason to look, never to retrain by itself."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplatform.domain.verdict import Measurement
from mlplatform.domain.watch import Signal, State
from mlplatform.errors import UnknownName
from mlplatform.ports.extensions import Reference, WindowData
from mlplatform.stats.batch import Array, Columns, row_count
from mlplatform.stats.drift import ColumnDrift, alpha_for, compare
from mlplatform.stats.profile import Profile, make_spec, profile
from mlplatform.stats.spec import ReferenceSpec

ANSWERS = "(prediction)"
"""The column that holds what the model answered."""
NAMED = 3
"""Drifted columns that the sentence names."""


@dataclass(frozen=True)
class DriftMetric:
    """Compares each column, and the model's answers, with the reference's profile.

    columns: "*" or names of features. alarms_per_month: false alarms to be expected in quiet months, whatever
    the number of columns and windows. effect_floor: a change of distribution (largest difference of two
    cumulative shares, or share of rows) below it is no drift, however certain. min_rows: of a window.
    """

    columns: str | Sequence[str] = "*"
    alarms_per_month: float = 1.0
    effect_floor: float = 0.02
    min_rows: int = 30

    def __post_init__(self) -> None:
        if isinstance(self.columns, str) and self.columns != "*":
            raise ValueError('columns must be "*" or a list of names')
        if not 0 < self.alarms_per_month < math.inf:
            raise ValueError("alarms_per_month must be above 0")
        if not 0 <= self.effect_floor < 1:
            raise ValueError("effect_floor must be between 0 and 1")
        if self.min_rows < 2:
            raise ValueError("min_rows must be at least 2")

    def measure(self, reference: Reference, current: WindowData) -> Signal:
        """ALARM when at least one column drifted. Raises UnknownName for a column the reference lacks."""
        rows = len(current.answers) or row_count(current.columns)
        if rows < self.min_rows:
            because = f"{rows} rows, {self.min_rows} needed to look for drift"
            return Signal("drift", State.UNKNOWN, because, details={"rows": rows})
        spec, old, new = self._profiles(reference, current)
        q = alpha_for(self.alarms_per_month, current.windows_per_month)
        found = compare(old, new, spec, q=q, effect_floor=self.effect_floor, minimum_rows=self.min_rows)
        return _signal(found, rows, q)

    def _profiles(self, reference: Reference, current: WindowData) -> tuple[ReferenceSpec, Profile, Profile]:
        """Reference and window in the same cells: watched features that were captured, and the answers."""
        spec = ReferenceSpec.from_dict(reference.spec)
        stored = Profile.from_dict(reference.profile)
        seen = current.profile or _profile(spec, current.columns)
        names = self._watched(spec, reference, seen)
        specs = {name: spec.columns[name] for name in names}
        old = {name: stored.columns[name] for name in names}
        new = {name: seen.columns[name] for name in names}
        if reference.answers is not None and len(reference.answers) and len(current.answers):
            before: Columns = {ANSWERS: _as_column(reference.answers.labels, reference)}
            answer_spec = make_spec(before)
            specs |= answer_spec.columns
            old |= profile(answer_spec, before).columns
            now: Columns = {ANSWERS: _as_column(current.answers.labels, reference)}
            new |= profile(answer_spec, now).columns
        return ReferenceSpec(specs), Profile(stored.rows, old), Profile(seen.rows, new)

    def _watched(self, spec: ReferenceSpec, reference: Reference, seen: Profile) -> list[str]:
        features = [name for name in reference.manifest.input_names if name in spec.columns]
        if self.columns == "*":
            return [name for name in features if name in seen.columns]
        if unknown := [name for name in self.columns if name not in features]:
            raise UnknownName("column to watch for drift", unknown[0], features)
        return [name for name in self.columns if name in seen.columns]


def _profile(spec: ReferenceSpec, columns: Columns) -> Profile:
    names = [name for name in spec.columns if name in columns]
    seen = ReferenceSpec({name: spec.columns[name] for name in names})
    return profile(seen, {name: columns[name] for name in names})


def _as_column(labels: Array, reference: Reference) -> Array:
    """Classes are names even when they are written as numbers."""
    if reference.manifest.task.kind == "regression":
        return np.asarray(labels, np.float64)
    return np.array([str(label) for label in np.asarray(labels).tolist()], object)


def _signal(found: Sequence[ColumnDrift], rows: int, q: float) -> Signal:
    drifted = sorted((c for c in found if c.drifted), key=lambda c: -c.effect)
    details = {"rows": rows, "q": q, "columns": [_plain(column) for column in found]}
    share = Measurement("drifted_columns", len(drifted), n=len(found))
    if not any(column.enough_data for column in found):
        because = "no column has enough rows in reference and window"
        return Signal("drift", State.UNKNOWN, because, measurements=(share,), details=details)
    if not drifted:
        because = f"none of {len(found)} columns drifted"
        return Signal("drift", State.OK, because, measurements=(share,), details=details)
    named = ", ".join(_said(column) for column in drifted[:NAMED])
    more = f" and {len(drifted) - NAMED} more" if len(drifted) > NAMED else ""
    because = f"{len(drifted)} of {len(found)} columns drifted: {named}{more}"
    return Signal("drift", State.ALARM, because, measurements=(share,), details=details)


def _said(column: ColumnDrift) -> str:
    """What changed, in the unit of the test that is surest of it."""
    if column.leading_test == "nulls":
        nulls = f"{column.null_share_reference:.0%} to {column.null_share_current:.0%}"
        return f"{column.column} (nulls {nulls})"
    if column.leading_test == "new_labels" and column.new_label_share is not None:
        return f"{column.column} (new labels {column.new_label_share:.0%})"
    if column.distance is None:
        return column.column
    return f"{column.column} ({'KS' if column.kind == 'numeric' else 'TV'} {column.distance:.2f})"


def _plain(column: ColumnDrift) -> Mapping[str, Any]:
    """Magnitudes for the report; JSON has no NaN."""
    values = {name: value for name, value in column.to_dict().items() if name != "tests"}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
