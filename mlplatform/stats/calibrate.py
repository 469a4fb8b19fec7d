"""Isotonic calibration: from a score to a probability, monotone, learnt from labelled rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from mlplatform.errors import UsageError
from mlplatform.stats.arrays import Array, Floats


@dataclass(frozen=True, eq=False)
class Calibrator:
    """A monotone curve: linear between its knots, constant beyond them."""

    scores: Floats
    probabilities: Floats

    def __call__(self, scores: Array) -> Floats:
        return np.interp(np.asarray(scores, np.float64), self.scores, self.probabilities)

    def to_dict(self) -> dict[str, Any]:
        return {"scores": self.scores.tolist(), "probabilities": self.probabilities.tolist()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(np.asarray(data["scores"], np.float64), np.asarray(data["probabilities"], np.float64))


def isotonic(scores: Array, outcomes: Array) -> Calibrator:
    """The monotone curve nearest to 0/1 outcomes in least squares; NaN scores are left out. Equals scikit-
    learn's.
    """
    scores, outcomes = np.asarray(scores, np.float64), np.asarray(outcomes, np.float64)
    kept = np.isfinite(scores)
    if not kept.any():
        raise UsageError(what="nothing to calibrate on: no row has a score")
    distinct, inverse, weights = np.unique(scores[kept], return_inverse=True, return_counts=True)
    means = np.bincount(inverse, outcomes[kept]) / weights
    fitted = pava(means, weights.astype(np.float64))
    # inner points of a flat stretch say nothing: the curve stays small, whatever the number of rows
    inner = np.zeros(len(fitted), np.bool_)
    inner[1:-1] = (fitted[1:-1] == fitted[:-2]) & (fitted[1:-1] == fitted[2:])
    return Calibrator(distinct[~inner], fitted[~inner])


def pava(values: Floats, weights: Floats) -> Floats:
    """Pool adjacent violators (Ayer et al. 1955): the non-decreasing sequence nearest to `values`, in
    linear time.

    >>> pava(np.array([1.0, 3.0, 2.0]), np.ones(3)).tolist()
    [1.0, 2.5, 2.5]
    """
    means: list[float] = []
    sizes: list[float] = []
    lengths: list[int] = []
    for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
        length = 1
        while means and means[-1] >= value:
            size = sizes.pop()
            value = (means.pop() * size + value * weight) / (size + weight)
            weight += size
            length += lengths.pop()
        means.append(value)
        sizes.append(weight)
        lengths.append(length)
    return np.repeat(np.asarray(means, np.float64), lengths)
