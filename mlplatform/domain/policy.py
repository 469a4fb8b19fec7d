"""All that a project demands, as `policy.toml` says it. Read once, validated whole, digested."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from mlplatform.domain.approval import Demand
from mlplatform.domain.canonical import digest
from mlplatform.domain.duration import duration
from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.freeze import Freeze
from mlplatform.domain.governor import Limits
from mlplatform.domain.lacking import Lacking
from mlplatform.domain.ladder import Ladder
from mlplatform.domain.rollout_plan import Probation, RolloutPlan
from mlplatform.domain.use import Use


@dataclass(frozen=True)
class EvaluateOn:
    """The rows that candidate and incumbent answer."""

    use: Literal["holdout", "labelled_window"] = "holdout"
    """The rows kept back in training, or the newest captured rows whose truth is known."""
    last: str = "30d"
    """For `labelled_window`: how far back from the newest labelled row. A retraining takes the rows before it, and the
    older half of all while these are fewer."""
    min_rows: int = 200
    """With fewer labelled rows the holdout is used."""
    max_rows: int = 100_000
    """Of more rows the newest are used."""

    def __post_init__(self) -> None:
        duration(self.last)
        if self.min_rows < 1 or self.max_rows < 1:
            raise ValueError("min_rows and max_rows must be at least 1")


@dataclass(frozen=True)
class Data:
    target: str = "target"
    """Column with what came true."""
    time: str | None = None
    """Column with the event's time. Without it the time of the prediction counts."""
    context: tuple[str, ...] = ()
    """Columns that a request may carry beside the features: captured, never shown to the model."""
    new_classes: bool = False
    """Whether a label may be a class that the version which answered does not know: its answer is wrong then. Else such
    labels are kept aside."""
    evaluate: EvaluateOn = field(default_factory=EvaluateOn)
    """The rows that candidate and incumbent answer."""


@dataclass(frozen=True)
class Stage:
    gates: tuple[Use, ...] = ()
    """All of them must pass."""
    auto: bool = False
    """Whether a version that passes may enter without a person asking for it."""
    endpoint: Endpoint | None = None
    """The server that answers with the stage's version; entering the stage is a rollout then."""
    approvals: Demand = field(default_factory=Demand)
    """What people must say before."""
    freeze: tuple[Freeze, ...] = ()
    """Times in which no version enters, not even by `auto`; `--break-glass` passes. Rollbacks are never frozen."""
    break_glass: tuple[str, ...] = ()
    """Roles whose holders may force a version in with `--break-glass`. Empty: anybody may; it is recorded and shown."""
    rollout: RolloutPlan = field(default_factory=RolloutPlan)
    """How a version comes into service, in a stage with an endpoint."""
    probation: Probation = field(default_factory=Probation)
    """What may take a new version back, in a stage with an endpoint."""

    def __post_init__(self) -> None:
        if self.endpoint is None and self.rollout != RolloutPlan():
            why = "rollout: the stage has no endpoint, so there is nothing to roll out; add one"
            raise Lacking("endpoint", why)


@dataclass(frozen=True)
class Compress:
    steps: tuple[Use, ...] = ()
    """Techniques, in order; together they make one child."""


@dataclass(frozen=True)
class Keep:
    """Of an endpoint that several models share, the shortest counts."""

    for_: str = "365d"
    """Since the prediction."""
    size_gb: float = 20.0
    """On disk; the oldest go first."""

    def __post_init__(self) -> None:
        duration(self.for_)
        if self.size_gb <= 0:
            raise ValueError("size_gb must be more than nothing")


@dataclass(frozen=True)
class Capture:
    sample: float = 1.0
    """Share of requests that are kept."""
    drop_columns: tuple[str, ...] = ()
    """Columns that never reach the disk: features, or columns of `[data] time` and `context`."""
    max_bytes: int = 2_000_000_000
    """Blocks not yet ingested; above it the server drops and counts."""
    keep: Keep = field(default_factory=Keep)
    """How long captured rows stay, and how many bytes of them; checked whenever `monitor` takes in new ones."""

    def __post_init__(self) -> None:
        if not 0 <= self.sample <= 1:
            raise ValueError("sample must be between 0 and 1")


@dataclass(frozen=True)
class Watch:
    window: str = "1h"
    """Length of a window."""
    min_rows: int = 100
    """A window with fewer rows is not judged."""
    metrics: tuple[Use, ...] = ()
    """What is read from every window."""

    def __post_init__(self) -> None:
        if duration(self.window).total_seconds() <= 0:
            raise ValueError("window must be longer than nothing")


@dataclass(frozen=True)
class Retrain:
    project: str = "."
    """Folder with the MLproject file, relative to the policy."""
    when: tuple[Use, ...] = ()
    """Triggers; any of them is enough."""
    governor: Limits = field(default_factory=Limits)
    """When not to retrain."""
    compress: bool = True
    """Whether the steps of `[compress]` follow a retraining."""


@dataclass(frozen=True)
class Reconcile:
    outside_moves: Literal["revert", "record"] = "revert"
    """What becomes of what was done in MLflow: aliases set back and deleted runs restored, or left and noted."""


@dataclass(frozen=True)
class Gc:
    keep: str = "30d"
    """How long `mlplatform gc` leaves the bytes of a version that was retired, rejected or rolled back."""
    keep_versions: int = 3
    """So many of those, the newest, it leaves however long ago that was."""

    def __post_init__(self) -> None:
        duration(self.keep)
        if self.keep_versions < 0:
            raise ValueError("keep_versions must not be negative")


@dataclass(frozen=True)
class Trust:
    code_models: bool = False
    """Whether models that run code of their own (runtime `pyfunc`: any flavor of MLflow) may be registered, evaluated
    and served. Each runs in a process of its own, without network, that writes nothing."""
    answer_seconds: float = 30.0
    """How long such a process may take for one answer; then it is started again. Fixed when a version is registered."""
    memory_mb: int = 8192
    """Address space of such a process, several times what is resident. Fixed when a version is registered."""

    def __post_init__(self) -> None:
        if not self.answer_seconds > 0 or self.memory_mb < 1:
            raise ValueError("answer_seconds and memory_mb must be above 0")


@dataclass(frozen=True)
class Policy:
    model: str
    """The registered model's name in MLflow."""
    ladder: Ladder
    """Stages from lowest to highest: lower-case names, MLflow's aliases."""
    stages: Mapping[str, Stage] = field(default_factory=dict)
    data: Data = field(default_factory=Data)
    compress: Compress = field(default_factory=Compress)
    capture: Capture = field(default_factory=Capture)
    watch: Watch = field(default_factory=Watch)
    retrain: Retrain = field(default_factory=Retrain)
    reconcile: Reconcile = field(default_factory=Reconcile)
    gc: Gc = field(default_factory=Gc)
    trust: Trust = field(default_factory=Trust)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,127}", self.model):
            raise ValueError(
                f"model {self.model!r}: write letters, digits, ., - and _, starting with a letter or digit"
            )

    def stage(self, name: str) -> Stage:
        """A stage's demands; a stage that the file does not mention demands nothing."""
        self.ladder.rank(name)
        return self.stages.get(name, Stage())

    @property
    def live_stage(self) -> str | None:
        """The highest stage with an endpoint: the one that monitoring and retraining look at."""
        return next((s for s in reversed(self.ladder.stages) if self.stage(s).endpoint), None)

    @property
    def digest(self) -> str:
        return digest(self)
