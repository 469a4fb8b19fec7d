"""Every protocol between the rules and the world, and every protocol of an extension.

Flows name only what stands here; `mlplatform.control` is the one place where ports meet adapters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.domain.ladder import Standings
from mlplatform.domain.ledger import Break, Draft, Entry
from mlplatform.domain.rollout import Rollout
from mlplatform.domain.routes import Routes, WorkerStatus
from mlplatform.domain.verdict import Evaluation, Finding
from mlplatform.domain.version import Version
from mlplatform.domain.watch import Decision, Signal, Window
from mlplatform.stats.batch import Array, Batch, Columns, Outputs, dense, take
from mlplatform.stats.labels import Answers as Answers

Progress = Callable[[str], None]
"""Called with a line for a person; never part of a result."""


# --- state: our own SQL -----------------------------------------------------------------------------------------


class Clock(Protocol):
    def now(self) -> datetime:
        """The time, in UTC."""


class Ledger(Protocol):
    """Versions, where they stand, and the hash-chained entries that put them there."""

    def models(self) -> list[str]: ...
    def versions(self, model: str) -> list[Version]: ...
    def standings(self, model: str) -> Standings: ...

    def register(self, version: Version, draft: Draft) -> Entry:
        """A new version and its first entry, in one transaction. Repeating the draft's key changes nothing."""

    def append(self, draft: Draft) -> Entry:
        """Write an entry and make its changes, in one transaction, and mark the model's projections as due.

        Raises StageConflict when a change's origin is no longer where the version stands, or a stage is taken.
        Repeating the draft's key changes nothing and returns the entry that is there.
        """

    def entries(self, model: str, until: datetime | None = None) -> list[Entry]:
        """Oldest first, up to and including `until`."""

    def breaks(self, model: str) -> list[Break]:
        """Where the hash chain does not hold, or the standings differ from its replay."""


class Outbox(Protocol):
    """Models whose MLflow alias, tags and card may lag behind the ledger."""

    def due(self) -> list[tuple[str, int]]:
        """(model, seq of its newest entry)"""

    def done(self, model: str, seq: int) -> None:
        """Projected up to `seq`; a newer entry stays due."""


class Evaluations(Protocol):
    def save(self, evaluation: Evaluation) -> None: ...
    def get(self, id: str) -> Evaluation | None: ...
    def find(self, bundle_digest: str, data_digest: str) -> Evaluation | None: ...
    def latest(self, bundle_digest: str) -> Evaluation | None: ...


class Deployments(Protocol):
    def open(self, rollout: Rollout) -> Rollout:
        """Raises Conflict when the endpoint has another active rollout that is not on probation."""

    def save(self, rollout: Rollout) -> Rollout:
        """Store a step, guarded by the fence it was read with; raises Conflict. Returns it with the next fence."""

    def active(self, model: str | None = None) -> list[Rollout]: ...
    def history(self, model: str) -> list[Rollout]: ...


class Windows(Protocol):
    def save(self, window: Window, decision: Decision) -> None:
        """Store a closed window once; saving it again replaces it."""

    def recent(self, model: str, count: int) -> list[tuple[Window, Decision]]:
        """Newest last."""


@dataclass(frozen=True)
class RetrainingRecord:
    id: str
    model: str
    at: datetime
    cause: str
    outcome: str
    """`started`, `refused: <why>`, `went live`, `did not go live: <why>`, `failed: <why>`, `died: <why>`."""
    run_id: str | None = None
    version: int | None = None


class Retrainings(Protocol):
    def save(self, record: RetrainingRecord) -> None: ...
    def history(self, model: str) -> list[RetrainingRecord]:
        """Oldest first."""


@dataclass(frozen=True)
class Lease:
    name: str
    owner: str
    fence: int
    until: datetime


class Leases(Protocol):
    def acquire(self, name: str, owner: str, seconds: float) -> Lease:
        """Raises LeaseHeld. The fence is larger than that of every earlier holder."""

    def seize(self, name: str, owner: str, holder: str, seconds: float) -> Lease:
        """Take over at once from a holder that is known to be dead; raises LeaseHeld when somebody else was faster."""

    def renew(self, lease: Lease, seconds: float) -> Lease:
        """Raises LeaseLost when somebody else holds it."""

    def release(self, lease: Lease) -> None:
        """Give it back; nothing happens when it was lost."""

    def holder(self, name: str) -> Lease | None:
        """Who took it last and did not give it back; it may have expired."""


@dataclass(frozen=True)
class Intent:
    """What a flow is about to do to the world, so that a crash in the middle can be undone or redone."""

    key: str
    flow: str
    model: str
    payload: Mapping[str, Any]
    at: datetime


class Intents(Protocol):
    def open(self, intent: Intent) -> None: ...
    def close(self, key: str) -> None: ...
    def left(self) -> list[Intent]:
        """Intents that were opened and not closed, oldest first."""


@dataclass(frozen=True)
class Schedule:
    name: str
    verb: str
    """`monitor`, `retrain`, `reconcile`."""
    model: str
    cron: str
    timezone: str
    created_at: datetime


@dataclass(frozen=True)
class Firing:
    schedule: str
    due_at: datetime
    owner: str
    started_at: datetime
    finished_at: datetime | None = None
    outcome: str = ""


class Schedules(Protocol):
    def save(self, schedule: Schedule) -> None: ...
    def all(self) -> list[Schedule]: ...
    def remove(self, name: str) -> None: ...

    def claim(self, schedule: str, due_at: datetime, owner: str) -> bool:
        """Whether this runner is the one that fires; one True per (schedule, due_at), over all runners."""

    def finish(self, schedule: str, due_at: datetime, outcome: str) -> None: ...
    def firings(self, schedule: str | None = None, unfinished: bool = False) -> list[Firing]: ...


# --- MLflow -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """What MLflow's UI shows of a version: Markdown, and small tags."""

    markdown: str
    tags: Mapping[str, str]


@dataclass(frozen=True)
class OutsideView:
    """What MLflow holds of a model, whoever put it there."""

    aliases: Mapping[str, int]
    versions: frozenset[int]


class Registry(Protocol):
    """MLflow's model registry. Its aliases, tags and descriptions are projections of the ledger."""

    def create(self, model: str, run_id: str, key: str) -> int:
        """Number of the new version; the number that is there when the key was used before."""

    def discard(self, model: str, key: str) -> None:
        """Undo `create`; nothing happens when there is nothing."""

    def project(self, model: str, aliases: Mapping[str, int | None], cards: Mapping[int, Card]) -> None:
        """Make MLflow show this. An alias that is None is removed, whoever set it; one that is not named stays
        unless it is ours."""

    def outside(self, model: str) -> OutsideView: ...


@dataclass(frozen=True)
class Candidate:
    """What the training SDK logged with a run, downloaded."""

    run_id: str
    model_folder: Path
    """MLflow model folder."""
    runtime: str
    inputs: tuple[Column, ...]
    task: Task
    sample: Path
    holdout: Path
    reference: Path
    """Parquet files: features and target; the reference is the training data or a sample of it."""
    trained_on: Path
    """`.npy` of uint64 row digests of the training rows, sorted."""
    requirements: Mapping[str, str]
    author: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunDetails:
    parameters: Mapping[str, str]
    metrics: Mapping[str, float]


class Runs(Protocol):
    """Training runs."""

    def train(self, project: Path, parameters: Mapping[str, str], model: str, log: Path) -> str:
        """Run the project's `main` entry point as a process of its own; its run id. Raises TrainingFailed."""

    def candidate(self, run_id: str, into: Path) -> Candidate:
        """Download what the SDK logged; raises NotACandidate when parts are missing."""

    def log_derived(self, parent_run_id: str, bundle: Path, manifest: Manifest, technique: str) -> str:
        """A nested run that holds a compressed child's model in MLflow's own format; its run id."""

    def log_artifact(self, run_id: str, path: Path, folder: str) -> None: ...
    def details(self, run_id: str) -> RunDetails: ...


# --- bundles, documents, tables ---------------------------------------------------------------------------------


class Bundles(Protocol):
    """Content-addressed, immutable folders."""

    def freeze(self, staged: Path, manifest: Manifest) -> Manifest:
        """Move a staged folder in, under the digest of its manifest; `manifest.files` is filled in here.

        The staged folder is gone afterwards. Freezing equal bytes twice is harmless. Raises UnsafeArtifact.
        """

    def path(self, digest: str) -> Path: ...
    def manifest(self, digest: str) -> Manifest: ...

    def verify(self, digest: str) -> None:
        """Raises ChangedBytes, naming the file."""

    def stage(self) -> AbstractContextManager[Path]:
        """A new empty folder on the store's own disk, removed at the end if it is still there."""

    def evidence(self, digest: str) -> Path:
        """Folder beside the bundle for what only the control plane reads, made on demand.

        `holdout.parquet`, `reference.parquet`, `trained_on.npy`, and `evaluation-<id>.npz` (arrays `labels`, `truth`
        and, where there are any, `scores`).
        """

    def digests(self) -> list[str]: ...

    def sweep(self) -> int:
        """Remove what died processes were putting together; how many folders."""


class Documents(Protocol):
    """The folder that control plane and servers share; see `mlplatform.domain.routes`."""

    def folder(self, endpoint: str) -> Path: ...
    def endpoints(self) -> list[str]: ...
    def routes(self, endpoint: str) -> Routes | None: ...

    def publish(self, routes: Routes) -> Routes:
        """Write the document with the next generation number, atomically."""

    def workers(self, endpoint: str) -> list[WorkerStatus]:
        """Workers whose process is alive."""

    def wait_in_effect(self, endpoint: str, generation: int, seconds: float) -> None:
        """Return once every worker has acknowledged; raises ServerDidNotFollow."""


class Tables(Protocol):
    """Tables on disk and the identity of their rows."""

    def read(self, path: Path) -> dict[str, Array]: ...
    def write(self, path: Path, columns: Columns) -> None: ...

    def row_digests(self, columns: Columns, inputs: Sequence[Column]) -> Array:
        """(n,) uint64 over the features only; equal rows give equal digests, whatever width their numbers have."""


@dataclass(frozen=True)
class Observed:
    """Captured rows joined with what is known of their truth, oldest first."""

    ids: Array
    """Prediction ids, `<request uuid>/<row>`."""
    times: Array
    """datetime64[us], UTC: the event's time where the policy names a column, else the prediction's."""
    versions: Array
    columns: Columns
    predictions: Array
    scores: Array | None
    truth: Array
    """(n,) object; None where the label is not known."""
    labelled: Array
    """(n,) bool"""

    @property
    def rows(self) -> int:
        return len(self.ids)

    def take(self, rows: Array) -> Observed:
        """Some of the rows (a mask or positions). Versions may answer in different shapes; one version's are dense."""
        predictions = dense(self.predictions[rows])
        return Observed(
            ids=self.ids[rows],
            times=self.times[rows],
            versions=self.versions[rows],
            columns=take(self.columns, rows),
            predictions=np.empty(0) if predictions is None else predictions,
            scores=None if self.scores is None else dense(self.scores[rows]),
            truth=self.truth[rows],
            labelled=self.labelled[rows],
        )


@dataclass(frozen=True)
class Ingested:
    blocks: int
    rows: int
    set_aside: int
    """Damaged blocks moved to `damaged/`."""


@dataclass(frozen=True)
class Labelled:
    matched: int
    pending: int
    """Ids that no captured row has yet."""
    repeated: int
    conflicting: int = 0
    """Ids that already have another label; the first one stays."""


class Observations(Protocol):
    """What the servers captured and what came true."""

    def ingest(self, endpoint: str) -> Ingested:
        """Blocks into Parquet segments; a block is deleted only once its segment is safe."""

    def label(self, endpoint: str, ids: Array, truth: Array) -> Labelled: ...

    def span(self, endpoint: str, time: str | None) -> tuple[datetime, datetime] | None:
        """Times of the oldest and the newest captured row."""

    def read(
        self,
        endpoint: str,
        start: datetime | None = None,
        end: datetime | None = None,
        time: str | None = None,
        labelled: bool = False,
    ) -> Observed:
        """Rows with start <= time < end; `time` names the event time's column. `labelled`: only those with a truth."""

    def pending(self, endpoint: str) -> int: ...


# --- evaluation ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServingReport:
    """What happened when a bundle was loaded in a sandboxed child and asked its own sample."""

    problems: tuple[str, ...]
    start_ms: float
    latency_ms: float
    """Median over single rows."""
    memory_bytes: int
    """Peak resident memory of the child."""
    given_up: tuple[str, ...] = ()
    """What the sandbox took from the child on this machine: `network`, `writing`, `programs`, `tcp`."""


@dataclass(frozen=True)
class Cost:
    """CPU time a row, measured in turns with the others of the same call."""

    cpu_us: float
    """Median over the rounds, batch of one row."""
    memory_bytes: int


class Evaluator(Protocol):
    """Runs bundles in sandboxed child processes."""

    def answer(self, bundle: Path, columns: Columns) -> Outputs:
        """Raises ChildFailed when the bundle does not load or answer."""

    def serving_check(self, bundle: Path) -> ServingReport: ...

    def costs(self, bundles: Sequence[Path]) -> list[Cost]: ...


class Trust(Protocol):
    def inspect(self, folder: Path, allow: Sequence[str]) -> None:
        """Raises UnsafeArtifact for what may not be loaded. `allow`: runtimes permitted by the policy."""


# --- extensions: frozen dataclasses whose fields are their options ---------------------------------------------------

Need = Literal["answers", "incumbent", "serving", "cost"]


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
    truth: Array
    answers: Answers | None = None
    incumbent_answers: Answers | None = None
    serving: ServingReport | None = None
    cost: Cost | None = None
    incumbent_cost: Cost | None = None


class Gate(Protocol):
    """Judges a subject; pure. `needs` says what must be measured first."""

    needs: ClassVar[frozenset[Need]]

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
