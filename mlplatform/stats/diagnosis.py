"""What kind of errors a model makes: which classes it mixes up, whether its probabilities hold, how far it is off."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplatform.stats.arrays import Array, Floats, Ints
from mlplatform.stats.estimate import wilson
from mlplatform.stats.labels import Answers, to_codes

MOST_CLASSES = 12
"""Classes told apart, the most frequent ones: more cannot be read."""
BINS = 10
LEAST_IN_BIN = 10
"""Rows below which a bin says nothing."""
OTHERS = "others"


@dataclass(frozen=True)
class Confusion:
    """Rows by true class (down) and answered class (across)."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Reliable:
    """Rows whose probability was about the same, and how many of them it came true for."""

    predicted: float
    observed: float
    low: float
    high: float
    """Wilson's 95 % interval of `observed`."""
    n: int


@dataclass(frozen=True)
class Residuals:
    """Answer less truth: a histogram between the outermost edges, and what lies outside of them."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    median: float
    outside: int


def confusion(truth: Array, labels: Array, classes: Sequence[Any]) -> Confusion:
    """Of the most frequent classes; the rest, and labels that are no class, are one last row and column."""
    known = np.asarray(list(classes), dtype=object)
    true, said = to_codes(truth, known), to_codes(labels, known)
    frequent = np.argsort(-np.bincount(true[true >= 0], minlength=len(known)), kind="stable")[:MOST_CLASSES]
    kept = np.sort(frequent)
    place = np.full(len(known) + 1, len(kept))  # the last one takes -1
    place[kept] = np.arange(len(kept))
    counts = np.zeros((len(kept) + 1, len(kept) + 1), np.int64)
    np.add.at(counts, (place[true], place[said]), 1)
    names = [str(known[i]) for i in kept]
    if counts[-1].any() or counts[:, -1].any():
        names.append(OTHERS)
    shown = counts[: len(names), : len(names)]
    return Confusion(tuple(names), tuple(tuple(int(n) for n in row) for row in shown))


def reliability(truth: Array, answers: Answers, classes: Sequence[Any]) -> tuple[Reliable, ...]:
    """Bins of equal size over the probability of the second of two classes, or of the answered one of more.

    For more than two classes: confidence calibration (Guo et al. 2017, arXiv 1706.04599). Empty without probabilities.
    """
    scores = answers.scores
    if scores is None or scores.ndim != 2 or scores.shape[1] != len(classes) or len(classes) < 2:
        return ()
    codes = to_codes(truth, np.asarray(list(classes), dtype=object))
    if scores.shape[1] == 2:
        chance, came_true = scores[:, 1], codes == 1
    else:
        chance, came_true = scores.max(axis=1), codes == scores.argmax(axis=1)
    finite = np.isfinite(chance)
    chance, came_true = chance[finite], came_true[finite]
    parts = min(BINS, len(chance) // LEAST_IN_BIN)
    if parts == 0:
        return ()
    order: Ints = np.argsort(chance, kind="stable")
    return tuple(_reliable(chance[rows], came_true[rows]) for rows in np.array_split(order, parts))


def residuals(truth: Array, values: Array) -> Residuals | None:
    """None without a single finite error."""
    errors: Floats = np.asarray(values, np.float64) - np.asarray(truth, np.float64)
    errors = errors[np.isfinite(errors)]
    if len(errors) == 0:
        return None
    low, high = np.quantile(errors, [0.01, 0.99])
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(errors, bins=min(40, max(5, int(np.sqrt(len(errors))))), range=(low, high))
    return Residuals(
        tuple(map(float, edges)),
        tuple(map(int, counts)),
        float(np.median(errors)),
        int(len(errors) - counts.sum()),
    )


def _reliable(chance: Floats, came_true: Array) -> Reliable:
    share = wilson(int(came_true.sum()), len(chance))
    return Reliable(float(chance.mean()), share.value, share.low, share.high, share.n)
