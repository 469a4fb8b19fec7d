"""Every kind of extension: frozen dataclasses whose fields are their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from mlplatform.domain.bundle import Manifest, Task
from mlplatform.domain.verdict import Finding
from mlplatform.domain.version import Version
from mlplatform.domain.watch import Signal, Window
from mlplatform.ports.evaluation import Cost, Latency, ServingReport
from mlplatform.stats.batch import Array, Batch, Columns, Outputs
from mlplatform.stats.labels import Answers

Need = Literal["answers", "incumbent", "serving", "cost", "latency"]


@dataclass(frozen=True)
class Subject:
    """All that a gate may look at. What no gate of the stage needs was not measured and is None."""

    version: Version
    manifest: Manifest
    incumbent: Version | None
    incumbent_manifest: Manifest | None
    data: str
    """Which rows, for the finding: `holdout of run 1a2b`, `labels 2026-10-01 .. 2026-10-31`."""
    seed: int
    """Derived from the data's digest, so that resampling repeats."""
    columns: Columns
    """The model's inputs, and whatever else was kept beside them: what a gate may slice by."""
    truth: Array
    answers: Answers | None = None
    incumbent_answers: Answers | None = None
    serving: ServingReport | None = None
    cost: Cost | None = None
    incumbent_cost: Cost | None = None
    incumbent_unmeasured: str = ""
    """Why the incumbent's answers are missing."""
    latency: Latency | None = None
    rows_offered: int | None = None
    """Rows there were before those that a model was trained on were left out."""
    seen_in_training: int | None = None
    """Of these, rows that the version was trained on."""
    seen_by_incumbent: int | None = None
    """Of these, rows that only the incumbent was trained on."""
    newest_row: datetime | None = None
    """Time of the newest row; None where the rows have no time."""
    trained_at: datetime | None = None
    """When the version was registered; of a compressed one, the version it was made of."""
    now: datetime | None = None


class Gate(Protocol):
    """Judges a subject; pure. `needs` says what must be measured first; it may follow from the options."""

    @property
    def needs(self) -> frozenset[Need]: ...

    def judge(self, subject: Subject) -> Finding: ...


@dataclass(frozen=True)
class Made:
    """What a technique wrote into the folder it was given."""

    runtime: str
    model_path: str
    """Relative to the folder, below `model/`."""
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    task: Task | None = None
    """Where the answers have to be read in another way than the parent's."""


class Technique(Protocol):
    """Makes a smaller or faster model of a bundle."""

    accepts: ClassVar[frozenset[str]]
    """Runtimes whose bundles it can read."""

    def compress(self, bundle: Path, manifest: Manifest, into: Path) -> Made: ...


class Predictor(Protocol):
    """A loaded model."""

    def predict(self, batch: Batch) -> Outputs: ...


class Runtime(Protocol):
    """Loads bundles of one format."""

    safe: ClassVar[bool]
    """Whether loading runs no code of the bundle."""

    def load(self, bundle: Path, manifest: Manifest) -> Predictor: ...


@dataclass(frozen=True)
class ServerSpec:
    """A model server as it should run."""

    endpoint: str
    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    workers: int = 1


@dataclass(frozen=True)
class ServerState:
    endpoint: str
    running: bool
    host: str = ""
    port: int = 0
    pid: int = 0

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Target(Protocol):
    """Where a model server runs."""

    def apply(self, desired: ServerSpec) -> ServerState:
        """Start the server, or leave it when it runs already; returns once it answers `/ping`."""

    def status(self, folder: Path) -> ServerState: ...
    def stop(self, folder: Path) -> None: ...


@dataclass(frozen=True)
class Reference:
    """What a live version was like when it was judged good."""

    manifest: Manifest
    spec: Mapping[str, Any]
    profile: Mapping[str, Any]
    """`mlplatform.stats.profile`: ReferenceSpec and Profile, as dicts."""
    truth: Array
    answers: Answers | None
    """Its answers to the rows it was judged on, with their truth."""


@dataclass(frozen=True)
class WindowData:
    """Everything a metric may look at."""

    start: datetime
    end: datetime
    version: int
    columns: Columns
    answers: Answers
    truth: Array
    labelled: Array
    windows_per_month: float


class Metric(Protocol):
    """Reads one signal from a window."""

    def measure(self, reference: Reference, current: WindowData) -> Signal: ...


class Trigger(Protocol):
    """Says when windows ask for a retraining."""

    def fires(self, windows: Sequence[Window]) -> str:
        """The reason, or ""."""
