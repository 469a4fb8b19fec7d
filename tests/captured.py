"""An endpoint that was asked: blocks and labels as its server leaves them, for the fake and for the folders on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.truth import LabelRule
from mlplatform.ports.data import Observations
from mlplatform.serving.capture.recorder import write_block
from mlplatform.serving.ids import uuid7
from mlplatform.testing.fakes.data import FakeObservations

START = datetime(2026, 3, 1, 8, tzinfo=UTC)
START_US = int(START.timestamp() * 1e6)
MINUTE_US = 60_000_000


@dataclass
class Rulebook:
    """What may be true of the rows of a version; of versions that it does not name anything."""

    rules: dict[int, LabelRule] = field(default_factory=dict)

    def __call__(self, model: str, version: int) -> LabelRule | None:
        return self.rules.get(version)


@dataclass
class Place:
    """Observations, and the server's side of the same endpoint."""

    observations: Observations
    folder: Path | None
    book: Rulebook

    def capture(self, block: dict[str, np.ndarray]) -> None:
        if isinstance(self.observations, FakeObservations):
            self.observations.capture("shop", block)
        else:
            assert self.folder is not None
            write_block(self.folder / "shop" / "capture", block)

    def post(self, ids: Sequence[str], truth: Sequence[Any]) -> None:
        if isinstance(self.observations, FakeObservations):
            self.observations.post("shop", ids, truth)
            return
        assert self.folder is not None
        inbox = self.folder / "shop" / "inbox"
        inbox.mkdir(parents=True, exist_ok=True)
        labels = [{"id": i, "label": t} for i, t in zip(ids, truth, strict=True)]
        (inbox / f"{uuid7()}.json").write_text(json.dumps({"labels": labels}))


def block(rows: int, first: int = 0, version: int = 1, **more: np.ndarray) -> dict[str, np.ndarray]:
    """A request a minute; feature x counts the rows."""
    at = START_US + (first + np.arange(rows)) * MINUTE_US
    return {
        "request": np.array([uuid7(int(us) * 1000) for us in at], "S36"),
        "row": np.zeros(rows, np.int32),
        "time_us": at,
        "latency_us": np.full(rows, 300),
        "version": np.full(rows, version, np.int32),
        "model": np.full(rows, "shop"),
        "arm": np.full(rows, "live"),
        "in:x": np.arange(first, first + rows, dtype=np.float64),
        "prediction": np.arange(first, first + rows) % 2,
        **more,
    }


def ids_of(some: dict[str, np.ndarray]) -> np.ndarray:
    pairs = zip(some["request"].tolist(), some["row"].tolist(), strict=True)
    return np.array([f"{request.decode()}/{row}" for request, row in pairs], object)


def minutes(count: int) -> datetime:
    return START + timedelta(minutes=count)
