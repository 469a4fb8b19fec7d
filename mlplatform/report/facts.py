"""What a monitoring report shows, picked from the windows and their signals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlplatform.domain.watch import Decision, Signal, State, Window

Floats = NDArray[np.float64]
Watched = Sequence[tuple[Window, Decision]]
WORST_COLUMNS = 24
"""Rows of the heat map: more cannot be read."""


@dataclass(frozen=True)
class Quality:
    """One measure of quality, window by window; NaN where it is not known."""

    measure: str
    value: Floats
    low: Floats
    high: Floats
    estimated: Floats
    reference: Floats
    limit: Floats
    """Reference less the drop that is tolerated (for losses: plus)."""
    alarm: NDArray[np.bool_]
    confidence: float


@dataclass(frozen=True)
class Drift:
    """Size of the change of each column in each window, the most changed columns first."""

    columns: tuple[str, ...]
    size: Floats
    """columns x windows: KS of numbers, total variation of labels; NaN where it is not known."""
    drifted: NDArray[np.bool_]
    left_out: int
    """Columns that changed less than those shown."""


@dataclass(frozen=True)
class ColumnNow:
    """One column in the newest window that was compared."""

    name: str
    drifted: bool
    distance: float | None
    kind: str
    psi: float | None
    shift: float | None
    nulls: tuple[float, float]
    p_value: float


def qualities(windows: Watched) -> list[Quality]:
    """One series for each measure of which something is known."""
    signals = [[s for s in window.signals if "measure" in s.details] for window, _ in windows]
    measures = dict.fromkeys(str(s.details["measure"]) for row in signals for s in row)
    found = [_quality(measure, signals) for measure in measures]
    return [q for q in found if np.isfinite([q.value, q.estimated, q.reference]).any()]


def drift(windows: Watched) -> Drift | None:
    """None when no window was compared."""
    found = [_drift_columns(window) for window, _ in windows]
    names = dict.fromkeys(name for row in found for name in row)
    if not names:
        return None
    size = np.array([[_number(row.get(name, {}).get("distance")) for row in found] for name in names])
    marked = np.array([[bool(row.get(name, {}).get("drifted")) for row in found] for name in names])
    total = np.nansum(size, axis=1) + marked.sum(axis=1)
    order = np.argsort(-total, kind="stable")[:WORST_COLUMNS]
    known = list(names)
    return Drift(tuple(known[i] for i in order), size[order], marked[order], len(known) - len(order))


def columns_now(windows: Watched) -> tuple[Window, list[ColumnNow]] | None:
    """The newest window that was compared, and its columns, the most changed first."""
    for window, _ in reversed(windows):
        if found := _drift_columns(window):
            rows = [_column_now(name, item) for name, item in found.items()]
            return window, sorted(rows, key=lambda c: (not c.drifted, -(c.distance or 0.0)))
    return None


# ---- helpers


def _quality(measure: str, signals: Sequence[Sequence[Signal]]) -> Quality:
    chosen = [next((s for s in row if s.details["measure"] == measure), None) for row in signals]
    value, low, high = (_series(chosen, measure, part) for part in ("value", "low", "high"))
    reference = _series(chosen, f"reference_{measure}", "value")
    drops = np.array([_number(s.details.get("drop")) if s else math.nan for s in chosen])
    better = next((bool(s.details.get("higher_is_better", True)) for s in chosen if s), True)
    alpha = next((_number(s.details.get("alpha")) for s in chosen if s), math.nan)
    return Quality(
        measure,
        value,
        low,
        high,
        _series(chosen, f"estimated_{measure}", "value"),
        reference,
        reference - drops if better else reference + drops,
        np.array([s is not None and s.state is State.ALARM for s in chosen]),
        1 - 2 * alpha,
    )


def _series(signals: Sequence[Signal | None], name: str, part: str) -> Floats:
    found = [next((m for m in s.measurements if m.name == name), None) if s else None for s in signals]
    return np.array([_number(getattr(m, part)) if m else math.nan for m in found])


def _drift_columns(window: Window) -> dict[str, dict[str, object]]:
    items = [item for s in window.signals for item in s.details.get("columns", ())]
    return {str(item["column"]): dict(item) for item in items}


def _column_now(name: str, item: dict[str, object]) -> ColumnNow:
    distance, psi, shift = (
        None if math.isnan(value) else value
        for value in (_number(item.get(key)) for key in ("distance", "psi", "mean_shift_sigma"))
    )
    nulls = _number(item.get("null_share_reference")), _number(item.get("null_share_current"))
    kind = "KS" if item.get("kind") == "numeric" else "TV"
    return ColumnNow(
        name, bool(item.get("drifted")), distance, kind, psi, shift, nulls, _number(item.get("p_value"))
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
