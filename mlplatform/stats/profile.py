"""Mergeable profile of a table: counts in the reference's cells, nulls, moments, extremes.

Every integer of merge(profile(A), profile(B)) equals that of profile(A + B), bit for bit, in any order and
on any engine; mean and variance follow Chan, Golub and LeVeque (1983) and agree to rounding. A window of a
month is thus the sum of its hours, and drift is arithmetic on two profiles, whatever the number of rows
behind them.

>>> import numpy as np
>>> table = {"age": np.array([31.0, 45.0, np.nan]), "city": np.array(["Bern", "Basel", None], object)}
>>> spec = make_spec(table)
>>> day = profile(spec, table)
>>> week = merge(day, day)
>>> week.rows, week.columns["age"].nulls, week.columns["city"].nulls
(6, 2, 2)
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np

from mlplatform.errors import UsageError
from mlplatform.stats.arrays import Array, Floats, Ints
from mlplatform.stats.spec import (
    LARGEST,
    CategoricalSpec,
    ColumnSpec,
    NumericSpec,
    ReferenceSpec,
    as_floats,
    is_numeric,
    label_counts,
    label_hash,
    make_spec,
    one_dimensional,
)

__all__ = [
    "CategoricalProfile",
    "CategoricalSpec",
    "NumericProfile",
    "NumericSpec",
    "Profile",
    "ReferenceSpec",
    "make_spec",
    "merge",
    "pack",
    "profile",
    "unpack",
    "within",
]

CHUNK = 1 << 15
"""Rows sorted at once: a quarter of a megabyte stays in the cache, which is what makes sorting cheaper than
binning.
"""


class _Column:
    """Equality and plain-data conversion shared by both kinds."""

    counts: Ints

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        data = {field.name: getattr(self, field.name) for field in fields(self)}  # type: ignore[arg-type]
        return {**data, "counts": self.counts.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**{**data, "counts": np.asarray(data["counts"], np.int64)})


@dataclass(frozen=True, eq=False)
class NumericProfile(_Column):
    """One numeric column. `below` and `above` count values outside the range of the reference.

    `infinite` values (beyond spec.LARGEST) sit in the outer cells but not in mean, m2 (sum of squared
    deviations), minimum and maximum. The excess sums measure how far values lie beyond the outermost edges,
    for the Wasserstein distance.
    """

    counts: Ints
    nulls: int = 0
    infinite: int = 0
    below: int = 0
    above: int = 0
    mean: float = 0.0
    m2: float = 0.0
    minimum: float | None = None
    maximum: float | None = None
    low_excess: float = 0.0
    high_excess: float = 0.0

    @property
    def n(self) -> int:
        """Values that are not null."""
        return int(self.counts.sum())

    @property
    def finite(self) -> int:
        return self.n - self.infinite

    @property
    def std(self) -> float:
        """Standard deviation of the finite values; 0 for fewer than two."""
        return math.sqrt(self.m2 / (self.finite - 1)) if self.finite > 1 else 0.0


@dataclass(frozen=True, eq=False)
class CategoricalProfile(_Column):
    """One categorical column: a count per cell of the spec, the rest last; `new` = rows with labels unknown
    to the reference.
    """

    counts: Ints
    nulls: int = 0
    new: int = 0

    @property
    def n(self) -> int:
        """Values that are not null."""
        return int(self.counts.sum())


ColumnProfile = NumericProfile | CategoricalProfile


@dataclass(frozen=True)
class Profile:
    """A table's rows, summed up."""

    rows: int
    columns: Mapping[str, ColumnProfile]

    def to_dict(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "columns": {name: column.to_dict() for name, column in self.columns.items()},
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Profile:
        columns: dict[str, ColumnProfile] = {}
        for name, item in data["columns"].items():
            columns[name] = (CategoricalProfile if "new" in item else NumericProfile).from_dict(item)
        return cls(int(data["rows"]), columns)


def profile(spec: ReferenceSpec, columns: Mapping[str, Array]) -> Profile:
    """Sum up a batch in the cells of `spec`.

    A column of the spec that the batch lacks counts as null in every row; columns the spec does not know
    are left out. A value that is no number in a numeric column is a null. Columns of different length are a
    UsageError.
    """
    arrays = {name: one_dimensional(name, values) for name, values in columns.items()}
    lengths = {len(values) for values in arrays.values()}
    if len(lengths) > 1:
        raise UsageError(
            what=f"columns differ in length: { {name: len(values) for name, values in arrays.items()} }"
        )
    rows = lengths.pop() if lengths else 0
    return Profile(
        rows, {name: _profile_column(column, arrays.get(name), rows) for name, column in spec.columns.items()}
    )


def merge(a: Profile, b: Profile) -> Profile:
    """The profile of both batches together. Both must stem from the same spec (else UsageError)."""
    if a.columns.keys() != b.columns.keys():
        raise UsageError(
            what=f"profiles of different tables: only one has {sorted(a.columns.keys() ^ b.columns.keys())}"
        )
    return Profile(
        a.rows + b.rows, {name: _merge_column(name, a.columns[name], b.columns[name]) for name in a.columns}
    )


def within(spec: ReferenceSpec, item: Profile) -> Profile:
    """The columns of `spec`; one that the profile lacks is null in each of its rows."""
    return Profile(
        item.rows,
        {
            name: item.columns[name] if name in item.columns else _profile_column(column, None, item.rows)
            for name, column in spec.columns.items()
        },
    )


def pack(item: Profile | ReferenceSpec) -> bytes:
    """Compact bytes (JSON, zlib). Floats survive exactly."""
    return zlib.compress(json.dumps(item.to_dict(), separators=(",", ":"), allow_nan=False).encode(), 9)


def unpack(data: bytes) -> Profile:
    """The profile that `pack` wrote."""
    return Profile.from_dict(json.loads(zlib.decompress(data)))


def unpack_spec(data: bytes) -> ReferenceSpec:
    """The spec that `pack` wrote."""
    return ReferenceSpec.from_dict(json.loads(zlib.decompress(data)))


# ---- one column


def _profile_column(spec: ColumnSpec, values: Array | None, rows: int) -> ColumnProfile:
    cells = len(spec.edges) + 1 if isinstance(spec, NumericSpec) else len(spec.labels) + 1
    empty = np.zeros(cells, np.int64)
    if values is None:
        return (
            NumericProfile(empty, rows) if isinstance(spec, NumericSpec) else CategoricalProfile(empty, rows)
        )
    if isinstance(spec, CategoricalSpec):
        return _profile_labels(spec, values)
    numbers = as_floats(values)
    total = NumericProfile(empty)
    for start in range(0, len(numbers), CHUNK):
        total = _merge_numeric(total, _profile_chunk(spec, np.sort(numbers[start : start + CHUNK])))
    return total


def _profile_chunk(spec: NumericSpec, ordered: Floats) -> NumericProfile:
    """One sort answers everything: NaN sorts behind +inf, so positions are counts."""
    n = int(np.searchsorted(ordered, np.inf, side="right"))
    first = int(np.searchsorted(ordered, -LARGEST, side="left"))
    last = int(np.searchsorted(ordered, LARGEST, side="right"))
    finite = ordered[first:last]
    ranks = np.searchsorted(ordered[:n], spec.edges, side="right")
    counts = np.diff(np.concatenate([[0], ranks, [n]])).astype(np.int64)
    nulls, infinite = len(ordered) - n, n - len(finite)
    below = above = 0
    if spec.minimum is not None and spec.maximum is not None:
        below = int(np.searchsorted(ordered, spec.minimum, side="left"))
        above = int(n - np.searchsorted(ordered, spec.maximum, side="right"))
    if len(finite) == 0:
        return NumericProfile(counts, nulls, infinite, below, above)
    mean = float(np.clip(finite.mean(), finite[0], finite[-1]))  # a constant column has exactly no variance
    m2 = float(((finite - mean) ** 2).sum())
    low, high = _excess(spec.edges, finite)
    extremes = float(finite[0]), float(finite[-1])
    return NumericProfile(counts, nulls, infinite, below, above, mean, m2, *extremes, low, high)


def _excess(edges: Floats, finite: Floats) -> tuple[float, float]:
    if len(edges) == 0:
        return 0.0, 0.0
    low = finite[: np.searchsorted(finite, edges[0], side="right")]
    high = finite[np.searchsorted(finite, edges[-1], side="right") :]
    return float((edges[0] - low).sum()), float((high - edges[-1]).sum())


def _profile_labels(spec: CategoricalSpec, values: Array) -> CategoricalProfile:
    rows, nulls = label_counts(as_labels(values))
    counts = np.fromiter((rows.get(label, 0) for label in spec.labels), np.int64, len(spec.labels))
    rest = sum(rows.values()) - int(counts.sum())
    new = 0
    if spec.known is not None and rest:
        unseen = (label for label in rows.keys() - set(spec.labels) if label_hash(label) not in spec.known)
        new = sum(rows[label] for label in unseen)
    return CategoricalProfile(np.append(counts, rest), nulls, new)


def as_labels(values: Array) -> Array:
    """Numbers in a column of labels are compared by their text; NaN stays null."""
    return values.astype(object) if values.dtype.kind != "O" and is_numeric(values) else values


# ---- merging


def _merge_column(name: str, a: ColumnProfile, b: ColumnProfile) -> ColumnProfile:
    if len(a.counts) == len(b.counts):
        if isinstance(a, NumericProfile) and isinstance(b, NumericProfile):
            return _merge_numeric(a, b)
        if isinstance(a, CategoricalProfile) and isinstance(b, CategoricalProfile):
            return CategoricalProfile(a.counts + b.counts, a.nulls + b.nulls, a.new + b.new)
    raise UsageError(what=f"column {name!r}: profiles made with different specs cannot be merged")


def _merge_numeric(a: NumericProfile, b: NumericProfile) -> NumericProfile:
    mean, m2 = _chan(a, b)
    return NumericProfile(
        a.counts + b.counts,
        a.nulls + b.nulls,
        a.infinite + b.infinite,
        a.below + b.below,
        a.above + b.above,
        mean,
        m2,
        _pick(min, a.minimum, b.minimum),
        _pick(max, a.maximum, b.maximum),
        a.low_excess + b.low_excess,
        a.high_excess + b.high_excess,
    )


def _chan(a: NumericProfile, b: NumericProfile) -> tuple[float, float]:
    if not a.finite or not b.finite:
        whole = a if a.finite else b
        return whole.mean, whole.m2
    n = a.finite + b.finite
    delta = b.mean - a.mean
    mean = a.mean + delta * (b.finite / n)
    return mean, a.m2 + b.m2 + delta * delta * (a.finite * (b.finite / n))


def _pick(choose: Any, a: float | None, b: float | None) -> float | None:
    values = [value for value in (a, b) if value is not None]
    return float(choose(values)) if values else None
