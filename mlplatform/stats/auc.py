"""Area under the ROC curve with its row-by-row influence: what DeLong's variance is made of.

DeLong, DeLong and Clarke-Pearson (1988) by midranks (Sun and Xu 2014): O(n log n), ties counted as one
half. For more than two classes the mean of one-against-rest areas; its influence is the mean of theirs, so
the same variance formula holds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlplatform.stats.arrays import Array, Bools, Floats, Ints


@dataclass(frozen=True, eq=False)
class Auc:
    """The area, and the influence of every row on it (mean zero; the area's variance is the sum of its
    squares).
    """

    value: float
    influence: Floats


def auc_of(codes: Ints, scores: Floats) -> Auc:
    """AUC of class codes against probabilities (rows x classes): binary, or the mean over classes that occur.

    NaN when fewer than two classes occur.
    """
    positives = [1] if scores.shape[1] == 2 else [c for c in range(scores.shape[1]) if (codes == c).any()]
    parts = [binary_auc(codes == c, scores[:, c]) for c in positives]
    if not parts:
        return Auc(math.nan, np.zeros(len(codes)))
    return Auc(
        float(np.mean([part.value for part in parts])), np.mean([part.influence for part in parts], axis=0)
    )


def binary_auc(positive: Bools, score: Floats) -> Auc:
    """AUC of one score for a yes/no truth."""
    m, n = int(positive.sum()), int((~positive).sum())
    if not m or not n:
        return Auc(math.nan, np.zeros(len(positive)))
    everyone = midranks(score)
    influence = np.empty(len(score))
    influence[positive] = (everyone[positive] - midranks(score[positive])) / n
    influence[~positive] = 1 - (everyone[~positive] - midranks(score[~positive])) / m
    value = float(influence[positive].mean())
    # unbiased: squares sum to S10 / m + S01 / n with their m - 1 and n - 1
    influence[positive] = (influence[positive] - value) / math.sqrt(m * max(m - 1, 1))
    influence[~positive] = (influence[~positive] - value) / math.sqrt(n * max(n - 1, 1))
    return Auc(value, influence)


def midranks(values: Array) -> Floats:
    """Ranks from 1, ties share their mean rank.

    >>> midranks(np.array([3.0, 1.0, 3.0])).tolist()
    [2.5, 1.0, 2.5]
    """
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[inverse], np.float64)
