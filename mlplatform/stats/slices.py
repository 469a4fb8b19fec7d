"""Rows by the values of a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplatform.stats.arrays import Array, Bools
from mlplatform.stats.spec import is_null

MOST_VALUES = 50
"""A column with more values groups nothing: it is a number that wants bins, or an identifier."""


@dataclass(frozen=True, eq=False)
class Slice:
    """The rows with one value of a column."""

    name: str
    """`sex=Female`, `age=17..28`, `sex=(missing)`."""
    rows: Bools

    @property
    def n(self) -> int:
        return int(self.rows.sum())


def slices_of(column: str, values: Array, bins: int = 0) -> list[Slice]:
    """Every value's rows, those without a value last; numbers in at most `bins` groups of about equal size.

    A column of times is cut like numbers. ValueError for a column with too many values, and for tensors and bytes.

    >>> [(s.name, s.n) for s in slices_of("sex", np.array(["f", "m", None, "f"], object))]
    [('sex=f', 2), ('sex=m', 1), ('sex=(missing)', 1)]
    >>> [(s.name, s.n) for s in slices_of("age", np.arange(100), bins=2)]
    [('age=0..49', 50), ('age=50..99', 50)]
    """
    values = np.asarray(values)
    if values.ndim != 1 or any(isinstance(v, np.ndarray | bytes) for v in values[:1000]):
        raise ValueError(
            f"{column} holds tensors or bytes, which make no groups: name a column of one value a row"
        )
    missing = _missing(values)
    found = _known(column, values, ~missing, bins)
    return [*found, *([Slice(f"{column}=(missing)", missing)] if missing.any() else [])]


def _known(column: str, values: Array, known: Bools, bins: int) -> list[Slice]:
    ordered = values.dtype.kind in "iufM"
    shown = values[known] if ordered else np.array([_shown(v) for v in values[known].tolist()], dtype=str)
    distinct, codes = np.unique(shown, return_inverse=True)
    if ordered and bins and len(distinct) > bins:
        return _binned(column, values, known, bins)
    if len(distinct) > MOST_VALUES:
        cure = "give bins = 4, or another number" if ordered else "group them in a column of its own"
        raise ValueError(f"{column} has {len(distinct)} values, more than {MOST_VALUES}: {cure}")
    places = np.flatnonzero(known)
    return [
        Slice(f"{column}={_shown(value)}", _mask(len(values), places[codes == code]))
        for code, value in enumerate(distinct.tolist())
    ]


def _binned(column: str, values: Array, known: Bools, bins: int) -> list[Slice]:
    """Between quantiles; equal values stay together, so that there may be fewer groups."""
    numbers = values[known].astype(np.int64) if values.dtype.kind == "M" else values[known]
    inner = np.quantile(numbers, np.arange(1, bins) / bins, method="inverted_cdf")
    codes, places = np.searchsorted(np.unique(inner), numbers, side="left"), np.flatnonzero(known)
    found = []
    for code in np.unique(codes):
        rows = places[codes == code]
        low, high = (_shown(end.item()) for end in (values[rows].min(), values[rows].max()))
        found.append(Slice(f"{column}={low}..{high}", _mask(len(values), rows)))
    return found


def _missing(values: Array) -> Bools:
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "M":
        return np.isnat(values)
    if values.dtype.kind == "O":
        return np.fromiter((is_null(v) for v in values.tolist()), np.bool_, len(values))
    return np.zeros(len(values), np.bool_)


def _mask(rows: int, chosen: Array) -> Bools:
    mask = np.zeros(rows, np.bool_)
    mask[chosen] = True
    return mask


def _shown(value: Any) -> str:
    """1 and 1.0 are one value."""
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else f"{value:.6g}"
    return str(value)
