"""What the training SDK leaves with a run, and how it is found again: names, and `candidate.json`.

Artifacts of the run::

    mlplatform/candidate.json     inputs, parameters, task, runtime, options, package versions
    mlplatform/sample.parquet     a few feature rows
    mlplatform/holdout.parquet    features, target and context columns, unseen in training
    mlplatform/reference.parquet  features and target of the training rows, or a sample of them
    mlplatform/trained_on.npy     uint64 digests of all training rows, sorted

The model itself is a LoggedModel in MLflow's own format; the run's tag names it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlplatform.domain.bundle import Column, Parameter, Task
from mlplatform.domain.canonical import plain

FOLDER = "mlplatform"
DESCRIPTION = "candidate.json"
SAMPLE, HOLDOUT, REFERENCE, TRAINED_ON = (
    "sample.parquet",
    "holdout.parquet",
    "reference.parquet",
    "trained_on.npy",
)
FILES = (DESCRIPTION, SAMPLE, HOLDOUT, REFERENCE, TRAINED_ON)

KEY_TAG = "mlplatform.key"
"""Of a model version: the idempotency key it was made with."""
MODEL_TAG = "mlplatform.model_id"
"""Of a run: its LoggedModel."""
ATTEMPT_TAG = "mlplatform.attempt"
"""Of a run or LoggedModel that we made: by it a call is found again whose reply was lost."""
CARD_TAG = "mlplatform.card"
"""Of a model version: digest of its description and of our other tags, as we wrote them."""
DRAWN_TAG = "mlplatform.drawn."
"""Of a run, followed by a folder: the digest of the facts behind the files there, and the files' names."""
ALIASES_TAG = "mlplatform.aliases"
"""Of a registered model: the aliases that are ours to move and remove."""


@dataclass(frozen=True)
class Description:
    """`candidate.json`."""

    runtime: str
    inputs: tuple[Column, ...]
    task: Task
    requirements: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    params: tuple[Parameter, ...] = ()

    def encode(self) -> bytes:
        return json.dumps({"format": 1, **plain(self)}, indent=1, allow_nan=False).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Description:
        """Read a description; ValueError when it is not one."""
        try:
            d = json.loads(raw)
            return cls(
                runtime=d["runtime"],
                inputs=tuple(map(Column.of, d["inputs"])),
                task=Task(**{**d["task"], "classes": tuple(d["task"]["classes"])}),
                requirements={str(k): str(v) for k, v in d["requirements"].items()},
                options=dict(d["options"]),
                params=tuple(map(Parameter.of, d.get("params", ()))),
            )
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a candidate description: {error!r}") from error
