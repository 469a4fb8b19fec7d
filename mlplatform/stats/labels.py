"""From what a model returned to labels and scores. Shared by evaluator, gates and monitor, so that all
judge the same answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplatform.domain.truth import label_key
from mlplatform.errors import UnknownName, UsageError
from mlplatform.stats.arrays import Array, Floats, Ints

KINDS = ("label", "probabilities", "logits", "value")


@dataclass(frozen=True, eq=False)
class Answers:
    """One model's answers to the rows of a table: labels (or values), and probabilities (rows x classes) if
    it gives any.
    """

    labels: Array
    scores: Floats | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Array) -> Answers:
        """The answers to some of the rows (indices or a mask)."""
        return Answers(self.labels[rows], None if self.scores is None else self.scores[rows])


def to_labels(predictions: Array, kind: str, classes: Sequence[Any] | None = None) -> Array:
    """One label (or value) per row.

    kind: "label" and "value" are taken as they are; "probabilities" and "logits" (rows x classes, or one
    number per row for the positive class) become the likeliest class, the first one on a tie. Without
    `classes` a class is its index.

    >>> to_labels(np.array([[0.1, 0.9], [0.5, 0.5]]), "probabilities", ["no", "yes"]).tolist()
    ['yes', 'no']
    """
    predictions = np.asarray(predictions)
    if kind in ("probabilities", "logits"):
        flat = _squeezed(predictions)
        cut = 0.5 if kind == "probabilities" else 0.0
        codes = (flat > cut).astype(np.int64) if flat.ndim == 1 else flat.argmax(axis=1)
        return codes if classes is None else _named(codes, classes)
    if kind == "value":
        return _one_per_row(predictions).astype(np.float64)
    if kind == "label":
        return _one_per_row(predictions)
    raise UnknownName("kind of prediction", kind, KINDS)


def to_scores(predictions: Array, scores: Array | None, kind: str) -> Floats | None:
    """Probabilities, rows x classes, or None when the model gives none.

    `scores`, a second output next to labels, are probabilities and win. One number per row is the positive
    class's.

    >>> to_scores(np.array([0.0, 50.0]), None, "logits").round(3).tolist()
    [[0.5, 0.5], [0.0, 1.0]]
    """
    if kind not in KINDS:
        raise UnknownName("kind of prediction", kind, KINDS)
    if scores is not None:
        return _columns(_squeezed(np.asarray(scores, np.float64)))
    if kind == "probabilities":
        return _columns(_squeezed(np.asarray(predictions, np.float64)))
    if kind == "logits":
        logits = _squeezed(np.asarray(predictions, np.float64))
        return softmax(np.column_stack([np.zeros(len(logits)), logits]) if logits.ndim == 1 else logits)
    return None


def softmax(logits: Floats) -> Floats:
    """Probabilities from logits, row by row; never overflows."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def find_classes(y_true: Array, answers: Sequence[Answers], classes: Sequence[Any] | None = None) -> Array:
    """The classes in the order of the score columns: the given ones, else what a scikit-learn model would
    have.

    Without `classes`: whole numbers below the number of score columns are column indices, otherwise the
    sorted labels.
    """
    if classes is not None:
        return np.asarray(classes)
    seen = _distinct([np.asarray(y_true), *(np.asarray(item.labels) for item in answers)])
    width = next((item.scores.shape[1] for item in answers if item.scores is not None), None)
    if width is None or len(seen) == width:
        return seen
    if seen.dtype.kind in "biu" and seen.min() >= 0 and seen.max() < width:
        return np.arange(width)
    raise UsageError(
        what=f"{width} score columns do not match the labels {seen.tolist()[:20]}",
        hint="Pass `classes`, in the order of the columns.",
    )


def to_codes(labels: Array, classes: Array) -> Ints:
    """The index of each label in `classes`, -1 for a label that is none of them.

    >>> to_codes(np.array(["b", "x"]), np.array(["a", "b"])).tolist()
    [1, -1]
    """
    labels = np.asarray(labels)
    if labels.dtype.kind in "OUST" or classes.dtype.kind in "OUST":
        index = {label_key(name): position for position, name in enumerate(classes.tolist())}
        return np.fromiter(
            (index.get(label_key(label), -1) for label in labels.tolist()), np.int64, len(labels)
        )
    order = np.argsort(classes)
    ranked = classes[order]
    place = np.minimum(np.searchsorted(ranked, labels), len(ranked) - 1)
    return np.where(ranked[place] == labels, order[place], -1).astype(np.int64)


def in_class_order(answers: Answers, own: Sequence[Any], wanted: Sequence[Any]) -> Answers:
    """The answers with their score columns in another model's order of classes; as they are where none were declared.

    A class that the model never knew has probability zero.
    """
    scores = answers.scores
    if scores is None or not wanted or not own or list(own) == list(wanted) or scores.shape[1] != len(own):
        return answers
    place = to_codes(np.asarray(wanted, dtype=object), np.asarray(own, dtype=object))
    return Answers(answers.labels, np.where(place >= 0, scores[:, np.maximum(place, 0)], 0.0))


# ---- helpers


def _squeezed(values: Array) -> Array:
    if values.ndim == 2 and values.shape[1] == 1:
        return values[:, 0]
    if values.ndim not in (1, 2):
        raise UsageError(
            what=f"predictions have shape {values.shape}, wanted one number or one row of scores per row"
        )
    return values


def _one_per_row(values: Array) -> Array:
    values = _squeezed(values)
    if values.ndim != 1:
        raise UsageError(
            what=f"predictions have shape {values.shape}, wanted one per row",
            hint="Is their kind `probabilities` or `logits`?",
        )
    return values


def _distinct(labels: Sequence[Array]) -> Array:
    """The labels in order; where numbers and text stand side by side, one of each key, in the order of the keys."""
    together = np.concatenate(labels)
    if together.dtype != object or len({isinstance(label, str) for label in together.tolist()}) < 2:
        return np.unique(together)
    by_key = {label_key(label): label for label in together.tolist()}
    out = np.empty(len(by_key), object)
    out[:] = [by_key[key] for key in sorted(by_key)]
    return out


def _columns(scores: Array) -> Floats:
    return np.column_stack([1.0 - scores, scores]) if scores.ndim == 1 else scores


def _named(codes: Array, classes: Sequence[Any]) -> Array:
    if len(codes) and int(codes.max()) >= len(classes):
        raise UsageError(what=f"the model scores more classes than the {len(classes)} that were named")
    return np.asarray(classes)[codes]
