"""A runtime of another package, whose models are good or have one flaw: for rollouts that have to find out.

The model is a JSON file: `{"cut": 0.0, "flaw": ""}`. It answers whether `a + b > cut`. Flaws show only where `a`
lies above a bound, or `b` is missing (`refuses`), so that every model answers its own sample.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mlplatform import catalog
from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.stats.batch import Batch, Outputs

INPUTS = (Column("a", "double"), Column("b", "double", required=False))
TASK = Task("classification", "probabilities", (0, 1))
COST_SECONDS = 0.003
LEAK_BYTES = 1_000_000
SAMPLE = {"a": [-1.0, -2.0], "b": [0.5, 3.0]}


@dataclass(frozen=True)
class FlawedRuntime:
    """Loads such a file."""

    safe: ClassVar[bool] = True

    def load(self, bundle: Path, manifest: Manifest) -> Flawed:
        return Flawed(json.loads((bundle / manifest.model_path).read_bytes()))


class Flawed:
    def __init__(self, told: dict[str, Any]) -> None:
        self.cut, self.flaw, self.above = float(told["cut"]), str(told["flaw"]), float(told["above"])
        self._kept: list[bytearray] = []

    def predict(self, batch: Batch) -> Outputs:
        columns = batch.columns()
        a, b = columns["a"].astype(float), columns["b"].astype(float)
        total = a + (b if self.flaw == "refuses" else np.nan_to_num(b))
        struck = a > self.above
        time.sleep(COST_SECONDS * (10 if self.flaw == "slow" and struck.any() else 1))
        sure = np.where(total > self.cut, 0.9, 0.1)
        if self.flaw == "wrong":
            sure = np.where(struck, 1 - sure, sure)
        if self.flaw == "constant":
            sure = np.where(struck, 0.9, sure)
        if self.flaw == "nan":
            sure = np.where(struck, np.nan, sure)
        if self.flaw == "refuses":  # as a pipeline without an imputer
            sure = np.where(np.isnan(b), np.nan, sure)
        if self.flaw == "crash" and struck.any():
            raise ValueError("no such thing")
        if self.flaw == "leak" and struck.any():
            self._kept.append(bytearray(b"x" * LEAK_BYTES))
        return Outputs(np.column_stack([1 - sure, sure]))


def write_model(folder: Path, cut: float, flaw: str = "", above: float = -0.9) -> Manifest:
    """A bundle's files, and what its manifest says of them."""
    (folder / "model").mkdir(parents=True)
    told = {"cut": cut, "flaw": flaw, "above": above}
    (folder / "model" / "model.json").write_text(json.dumps(told))
    (folder / "sample.json").write_text(json.dumps(SAMPLE))
    (folder / "reference.json").write_text("{}")
    return Manifest("flawed", "model/model.json", INPUTS, TASK, {})


@contextmanager
def installed(folder: Path) -> Iterator[dict[str, str]]:
    """The package as installed in a folder, for this process; and the environment of another that finds it."""
    info = folder / "flawed-0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: flawed\nVersion: 0\n")
    (info / "entry_points.txt").write_text("[mlplatform.runtime]\nflawed = tests.flawed:FlawedRuntime\n")
    root = Path(__file__).parent.parent
    sys.path.append(str(folder))
    catalog._installed.cache_clear()
    try:
        yield {"PYTHONPATH": f"{folder}:{root}"}
    finally:
        sys.path.remove(str(folder))
        catalog._installed.cache_clear()
