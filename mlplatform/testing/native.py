"""Small real bundles of native models for tests: a scikit-learn estimator in skops, an exported PyTorch
program.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Column, FileEntry, Manifest, Task
from mlplatform.stats.batch import Array

COLUMNS = tuple("abcdefgh")


def make_rows(
    rows: int = 400, seed: int = 0, columns: Sequence[str] = COLUMNS
) -> tuple[dict[str, Array], Array]:
    """Normal columns, and a 0/1 truth that a model has to bend for."""
    rng = np.random.default_rng(seed)
    table = {name: rng.normal(size=rows) for name in columns}
    first, second, third = (table[name] for name in list(columns)[:3])
    return table, (first + second * third > 0).astype(np.int64)


def make_sklearn_bundle(folder: Path, estimator: Any = None, **changes: Any) -> Manifest:
    """A fitted classifier on `make_rows`; a logistic regression unless another estimator is given.

    `changes` go to the manifest, for example `requirements={"scikit-learn": "1.2.0"}`.
    """
    import skops.io
    from sklearn.linear_model import LogisticRegression

    table, truth = make_rows()
    model = (LogisticRegression() if estimator is None else estimator).fit(
        np.column_stack(list(table.values())), truth
    )
    task = Task("classification", "label", (0, 1))
    return write_bundle(folder, "sklearn", "model.skops", skops.io.dumps(model), task, **changes)


def make_torch_bundle(folder: Path, module: Any = None, any_rows: bool = True, **changes: Any) -> Manifest:
    """A program with eight numbers in and two logits out; a small network unless another module is given."""
    import torch

    torch.manual_seed(0)
    layers = (torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 2))
    net = (torch.nn.Sequential(*layers) if module is None else module).eval()
    shapes = [{0: torch.export.Dim.AUTO}] if any_rows else None
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own internals
        program = torch.export.export(net, (torch.zeros(3, 8),), dynamic_shapes=shapes)
        torch.export.save(program, folder / "program.pt2")
    raw = (folder / "program.pt2").read_bytes()
    (folder / "program.pt2").unlink()
    task = Task("classification", "logits", (0, 1))
    return write_bundle(folder, "torch", "model.pt2", raw, task, **changes)


def write_bundle(
    folder: Path,
    runtime: str,
    name: str,
    raw: bytes,
    task: Task,
    inputs: Sequence[Column] = (),
    sample: Mapping[str, Sequence[Any]] | None = None,
    **changes: Any,
) -> Manifest:
    """A bundle of one model file. Without `inputs` and `sample`: those of `make_rows`."""
    (folder / "model").mkdir(parents=True, exist_ok=True)
    (folder / "model" / name).write_bytes(raw)
    if sample is None:
        sample = {name: values[:8].tolist() for name, values in make_rows()[0].items()}
    (folder / "sample.json").write_text(json.dumps(sample))
    manifest = Manifest(
        runtime=runtime,
        model_path=f"model/{name}",
        inputs=tuple(inputs) or tuple(Column(column, "double") for column in COLUMNS),
        task=task,
        files={f"model/{name}": FileEntry(hashlib.sha256(raw).hexdigest(), len(raw))},
        **changes,
    )
    (folder / "manifest.json").write_bytes(manifest.encode())
    return manifest
