"""Every kind of extension: frozen dataclasses whose fields are their options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np

from mlplatform.domain.bundle import Manifest, Task
from mlplatform.domain.counts import Counts, Split
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.server_settings import ServerSettings, SettingChange
from mlplatform.domain.steps import Bake
from mlplatform.domain.verdict import Finding
from mlplatform.domain.version import Version
from mlplatform.domain.watch import Signal, Window
from mlplatform.ports.evaluation import Cost, Latency, ServingReport
from mlplatform.stats.batch import Array, Batch, Columns, Outputs
from mlplatform.stats.labels import Answers
from mlplatform.stats.profile import Profile

if TYPE_CHECKING:
    from ssl import SSLContext

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
    """A loaded model. `batch.params` are those of `manifest.params` that a request set, empty for the defaults."""

    def predict(self, batch: Batch) -> Outputs: ...


class Runtime(Protocol):
    """Loads bundles of one format."""

    safe: ClassVar[bool]
    """Whether loading runs no code of the bundle."""

    def load(self, bundle: Path, manifest: Manifest) -> Predictor: ...


@dataclass(frozen=True)
class TlsFiles:
    """PEM files of a server."""

    cert: Path
    key: Path
    ca: Path | None = None
    """What its clients trust; the certificate itself where this is None."""

    def client_context(self) -> SSLContext:
        """What clients demand: a certificate and a name by `ca`; without it exactly our certificate, whatever name it
        bears. Raises OSError for a file that cannot be used."""
        from ssl import PROTOCOL_TLS_CLIENT, VERIFY_X509_PARTIAL_CHAIN, SSLContext, TLSVersion

        context = SSLContext(PROTOCOL_TLS_CLIENT)
        context.minimum_version = TLSVersion.TLSv1_2
        if self.ca is not None:
            context.load_verify_locations(self.ca)
            return context
        context.check_hostname = False
        context.verify_flags |= VERIFY_X509_PARTIAL_CHAIN
        first, end, _ = self.cert.read_text(errors="replace").partition("-----END CERTIFICATE-----")
        context.load_verify_locations(cadata=first + end)  # of a chain nobody but the first one
        return context


@dataclass(frozen=True)
class ServerSpec:
    """A model server as it should run."""

    endpoint: str
    folder: Path
    host: str = "127.0.0.1"
    port: int = 0
    workers: int = 1
    limits: RequestLimits = field(default_factory=RequestLimits)
    access_log: bool = False
    """Whether its log has a line for each request."""
    auth: bool = False
    """Whether requests need a token."""
    tls: TlsFiles | None = None
    behind_proxy: bool = False
    bundles: Path | None = None
    """Where all bundles lie; a server in a container sees no more of the disk than this and its own folder."""

    @property
    def settings(self) -> ServerSettings:
        """What is compared with a running server's; of traces a policy says nothing."""
        tls = self.tls
        return ServerSettings(
            self.host,
            self.port,
            self.workers,
            self.limits,
            "access" if self.access_log else "events",
            self.auth,
            str(tls.cert) if tls else "",
            str(tls.key) if tls else "",
            self.behind_proxy,
        )

    def settled(self, running: ServerSettings | None) -> ServerSpec:
        """The same, with what a server keeps that runs already: see `ServerSettings.settled`."""
        if running is None:
            return self
        kept = running.settled(self.settings)
        tls = self.tls or (TlsFiles(Path(kept.tls_cert), Path(kept.tls_key)) if kept.tls_cert else None)
        return replace(self, port=kept.port, auth=kept.auth, tls=tls)


@dataclass(frozen=True)
class ServerState:
    endpoint: str
    running: bool
    host: str = ""
    port: int = 0
    pid: int = 0
    auth: bool = False
    tls: bool = False
    settings: ServerSettings | None = None
    """What it runs with; None where that is not known, as of a server that something else runs."""
    left_at: str = ""
    """The folder that it reads and writes, where that is another one: its project was moved away from there."""

    @property
    def url(self) -> str:
        """Where this machine reaches it."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"

    def shown(self, wanted: TlsFiles | None) -> TlsFiles | None:
        """What the server's certificate is checked by: what a policy wants, unless the server says that it runs with
        another one, as where the policy has changed since; None without TLS."""
        if not self.tls or self.settings is None or not self.settings.tls_cert:
            return wanted if self.tls else None
        if wanted is not None and str(wanted.cert) == self.settings.tls_cert:
            return wanted
        return TlsFiles(Path(self.settings.tls_cert), Path(self.settings.tls_key))

    def is_laxer_than(self, desired: ServerSpec) -> bool:
        """Whether it runs without tokens or TLS that it should demand. One that demands more may go on."""
        return self.running and (desired.auth > self.auth or (desired.tls is not None) > self.tls)


class Target(Protocol):
    """Where a model server runs."""

    takes_over_from: ClassVar[frozenset[str]]
    """Targets whose server in the same folder `apply` ends itself, once its own is ready; those of others have ended
    before."""

    def apply(self, desired: ServerSpec) -> ServerState:
        """Start the server, or bring what `changes` tells into effect in the one that runs; returns once that is so
        and it answers `/ping`. Raises SettingsRefused where the one that runs goes on as before."""

    def changes(self, desired: ServerSpec) -> tuple[SettingChange, ...]:
        """What `apply` would change about the server that runs; nothing where none does."""

    def status(self, folder: Path) -> ServerState: ...
    def stop(self, folder: Path, keep_port: bool = False) -> None:
        """End the server, once its requests are answered. `keep_port`: another target takes over; where that can be
        done, connections wait for it."""


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
    """Read when a metric looks at them; what the profile tells costs nothing."""
    answers: Answers
    truth: Array
    labelled: Array
    windows_per_month: float
    profile: Profile | None = None
    """The captured features in the cells of the reference; None: it has to be made of the columns."""


class Metric(Protocol):
    """Reads one signal from a window."""

    def measure(self, reference: Reference, current: WindowData) -> Signal: ...


Evidence = Literal["counts", "outputs", "pairs", "labels"]
"""What a judge looks at: the server's counters, both versions' answers, both answers to the same rows, truths."""


@dataclass(frozen=True)
class LiveFacts:
    """What was seen of a version and of the one before while it is rolled out. What no judge needs is empty."""

    version: Version
    incumbent: Version
    step: Bake
    alpha: float
    """What this judge may spend over the whole rollout."""
    counts: Counts = field(default_factory=Counts)
    """The version's requests since the rollout began, those too that it answered as a shadow."""
    incumbent_counts: Counts = field(default_factory=Counts)
    """The incumbent's in the same time."""
    splits: tuple[Split, ...] = ()
    """The same, step by step, oldest first."""
    grown_bytes: int | None = None
    """By how much the memory of a worker grew since, the most of all; None where that is not known."""
    restarts: int = 0
    """Workers that ended since."""
    kind: Literal["classification", "regression"] = "classification"
    outputs: Array = field(default_factory=lambda: np.empty(0))
    """The version's answers to the requests of this step, as labels or values, oldest first."""
    incumbent_outputs: Array = field(default_factory=lambda: np.empty(0))
    """The incumbent's answers to its own requests of this step; in shadow both answered the same."""
    pairs: Array = field(default_factory=lambda: np.empty(0))
    """The version's answers to rows that both answered (shadow), since the rollout began, oldest first."""
    incumbent_pairs: Array = field(default_factory=lambda: np.empty(0))
    losses: Array = field(default_factory=lambda: np.empty(0))
    """On labelled rows, oldest first: 0 or 1 for classes, the absolute error for values."""
    incumbent_losses: Array = field(default_factory=lambda: np.empty(0))
    """On the same rows."""
    refused_labels: int = 0
    """Rows of the version with a label that was left out, because it does not fit."""


class Judge(Protocol):
    """Judges a version that is being rolled out; pure, and valid however often it is asked. FAIL takes it back,
    INCONCLUSIVE pauses the rollout and says what it waits for."""

    needs: ClassVar[frozenset[Evidence]]

    def judge(self, facts: LiveFacts) -> Finding: ...


class Trigger(Protocol):
    """Says when windows ask for a retraining."""

    def fires(self, windows: Sequence[Window]) -> str:
        """The reason, or ""."""
