"""Does a child answer like its parent? Asked on the bundle's sample and on rows put together from its
values.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.errors import Refused
from mlplatform.ports.extensions import Predictor
from mlplatform.stats.batch import Array, Batch, Outputs
from mlplatform.stats.labels import to_labels, to_scores
from mlplatform.stats.typed import recombined, typed_batch

ROWS = 512


@dataclass(frozen=True)
class Deviation:
    """The largest difference of scores (or values), and the share of rows with another label."""

    rows: int
    sample_rows: int
    largest: float
    relative: float
    """`largest` over the spread of the parent's numbers."""
    flips: int

    @property
    def flip_share(self) -> float:
        return self.flips / self.rows

    def notes(self) -> dict[str, Any]:
        return {
            "compared_rows": self.rows,
            "sample_rows": self.sample_rows,
            "max_deviation": self.largest,
            "max_deviation_of_spread": self.relative,
            "label_flips": self.flips,
        }


def compare(bundle: Path, manifest: Manifest, parent: Predictor, child: Predictor) -> Deviation:
    """Ask both the same rows. Raises Refused when the child's answers are not finite or have another
    shape.
    """
    batch, own = sample_rows(bundle, manifest)
    task, classes = manifest.task, manifest.task.classes or None
    before, after = parent.predict(batch), child.predict(batch)
    numbers = [_numbers(outputs, manifest) for outputs in (before, after)]
    if numbers[0].shape != numbers[1].shape or not np.isfinite(numbers[1][np.isfinite(numbers[0])]).all():
        raise Refused(
            what=f"the compressed model answers {numbers[1].shape} numbers, its parent {numbers[0].shape}"
        )
    flips = 0
    if task.kind == "classification":
        labels = [to_labels(outputs.predictions, task.output, classes) for outputs in (before, after)]
        flips = int((labels[0].astype(str) != labels[1].astype(str)).sum())
    largest = float(np.abs(numbers[0] - numbers[1]).max(initial=0.0))
    spread = float(np.ptp(numbers[0])) if numbers[0].size else 0.0
    return Deviation(batch.rows, own, largest, largest / spread if spread else float(largest > 0), flips)


def sample_rows(bundle: Path, manifest: Manifest) -> tuple[Batch, int]:
    """The sample's rows first, then recombined ones up to `ROWS`; and how many are the sample's own."""
    sample = typed_batch(json.loads((bundle / "sample.json").read_bytes()), manifest.inputs)
    columns = sample.columns()
    more = recombined(columns, max(ROWS - sample.rows, 0), seed=0)
    filled = {name: np.concatenate([values, more[name]]) for name, values in columns.items()}
    return typed_batch(filled, manifest.inputs), sample.rows


def _numbers(outputs: Outputs, manifest: Manifest) -> Array:
    """What can be subtracted: probabilities where there are any, values of a regression, else nothing."""
    scores = to_scores(outputs.predictions, outputs.scores, manifest.task.output)
    if scores is not None:
        return scores
    if manifest.task.kind == "regression":
        return np.asarray(outputs.predictions, np.float64).reshape(len(outputs.predictions), -1)
    return np.empty((len(outputs.predictions), 0))
