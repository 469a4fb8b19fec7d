"""All that a project demands, as `policy.toml` says it. Read once, validated whole, digested."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mlplatform.domain.access import demands_tokens, exposure
from mlplatform.domain.approval import Demand
from mlplatform.domain.canonical import digest
from mlplatform.domain.duration import duration
from mlplatform.domain.freeze import Freeze
from mlplatform.domain.governor import Limits
from mlplatform.domain.ladder import Ladder
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.steps import ALL_AT_ONCE, Bake, mistakes, read_steps


@dataclass(frozen=True)
class Use:
    """An extension by its short name, with its options: `{ use = "metric", name = "auc", at_least = 0.8 }`."""

    use: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluateOn:
    """The rows that candidate and incumbent answer."""

    use: Literal["holdout", "labelled_window"] = "holdout"
    """The rows kept back in training, or the newest captured rows whose truth is known."""
    last: str = "30d"
    """For `labelled_window`: how far back from the newest labelled row."""
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
    evaluate: EvaluateOn = field(default_factory=EvaluateOn)
    """The rows that candidate and incumbent answer."""


@dataclass(frozen=True)
class Tls:
    cert: str
    """PEM file with the server's certificate and its chain, relative to the policy."""
    key: str
    """PEM file with its private key, relative to the policy; nobody but its owner may read it (mode 0600)."""
    ca: str | None = None
    """PEM file with the authority by which `mlplatform predict` checks certificate and name; without it, it trusts
    exactly the certificate in `cert`, whatever name that bears."""


@dataclass(frozen=True)
class Endpoint:
    name: str
    """What `predict`, `label` and the server's folder are called by."""
    target: str | None = None
    """Where the server runs. Unset, and without `options`: where `mlplatform deploy --target` put it, `local` until
    then."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Of the target, for example `{ memory_mb = 4000 }` of `docker`."""
    port: int = 0
    """0 takes any free one, and keeps it."""
    workers: int = 1
    """Processes that share the port."""
    memory_mb: int = 0
    """Millions of bytes that the loaded models of one worker may take; those that were asked the longest ago make room
    and are loaded again at their next request. 0 is no limit. For endpoints that several models name."""
    max_waiting_per_model: int = 256
    """Requests of this model that may wait for a thread of a worker; the next gets 429. So one slow model does not take
    what the others of an endpoint need."""
    host: str = "127.0.0.1"
    """Address to listen on. One that other machines can reach needs tokens and `tls`, or `behind_proxy`."""
    auth: bool | None = None
    """Whether requests need a token with a scope for them. Unset: where other machines can reach the address."""
    tls: Tls | None = None
    """Speak https, TLS 1.2 or newer."""
    limits: RequestLimits = field(default_factory=RequestLimits)
    """What each worker takes on; `mlplatform deploy` brings it into effect without a request that fails."""
    log: Literal["events", "access"] = "events"
    """What the server writes to `server.log`: what happens to it, or a line for each request too."""
    behind_proxy: bool = False
    """A proxy stands before it, and other machines reach only that: then a wide `host` needs no `tls`, and no tokens
    where `auth = false`."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_\-]{0,62}", self.name):
            raise ValueError(f"endpoint {self.name!r}: write letters, digits, - and _; it names a folder")
        if not 0 <= self.port <= 65535 or self.workers < 1:
            raise ValueError("port must be between 0 and 65535, workers at least 1")
        if self.memory_mb < 0 or self.max_waiting_per_model < 1:
            raise ValueError("memory_mb must be at least 0 (no limit), max_waiting_per_model at least 1")
        if why := exposure(self.host, self.auth, self.tls is not None, self.behind_proxy):
            raise ValueError(f"{why}; or say behind_proxy = true where a proxy stands before it")

    @property
    def demands_tokens(self) -> bool:
        return demands_tokens(self.host, self.auth)

    @property
    def runs_on(self) -> Use:
        """The target with its options, as the policy has it."""
        return Use(self.target or "local", self.options)

    @property
    def leaves_target_open(self) -> bool:
        """Whether a command may choose it."""
        return self.target is None and not self.options


@dataclass(frozen=True)
class Probation:
    """How long the old version stays warm after a switch, and what takes the new one back."""

    lasts: str = "14d"
    """How long the version before stays warm."""
    or_labels: int = 5000
    """Ends earlier, once so many labelled rows were seen."""
    error_rate: float = 0.01
    """Share of requests that may fail; a sequential test takes the version back above it."""
    refusals: float = 0.05
    """By how much the share of requests that it refuses (4xx) may lie above what the version before had refused up to
    the switch."""
    quality_drop: float = 0.05
    """How much more often than the version before it may err, on the same labelled rows."""
    alpha: float = 0.01
    """Chance over the whole probation of taking back a version that keeps within the limits."""

    def __post_init__(self) -> None:
        duration(self.lasts)
        if not 0 < self.alpha < 0.5:
            raise ValueError("alpha must be between 0 and 0.5")
        shares = (self.error_rate, self.refusals, self.quality_drop)
        if not all(0 <= share <= 1 for share in shares) or self.or_labels < 1:
            raise ValueError(
                "error_rate, refusals and quality_drop must be between 0 and 1, or_labels at least 1"
            )


SECRET_KEYS = ("header:authorization", "header:proxy-authorization", "header:cookie")


@dataclass(frozen=True)
class RolloutPlan:
    """How a version comes to answer all requests of a stage that has an endpoint and a version in it."""

    steps: tuple[str, ...] = ALL_AT_ONCE
    """From the first to `"100%"`: `"shadow:10m"` (it answers beside the live version, nobody gets its answers), then
    growing shares of the requests, each with the time that it bakes: `"5%:10m"`. `["100%"]` is all at once."""
    key: str = ""
    """A feature, a context column (`[data] context`) or `header:NAME`: requests with the same value stay on the same
    version while its share grows. Without it, or where it is missing, the request's id decides."""
    judge: tuple[Use, ...] = ()
    """Asked while a step bakes and before the next: FAIL takes the version back, INCONCLUSIVE pauses."""
    alpha: float = 0.01
    """Chance over the whole rollout of taking back a version that keeps within the limits, shared by the judges."""

    def __post_init__(self) -> None:
        wrong = list(mistakes(self.steps))
        if len(self.steps) > 1 and not self.judge:
            wrong.append(
                "steps advance by themselves, and nobody judges them: add for example"
                ' judge = [{ use = "error_rate", at_most = 0.01 }]'
            )
        if self.judge and len(self.steps) == 1:
            wrong.append(
                'judge: all at once leaves nothing to judge before; add a step, for example "5%:10m",'
                " or use probation"
            )
        if not re.fullmatch(r"(header:[A-Za-z0-9][A-Za-z0-9\-_]*|(?!header:).*)", self.key):
            wrong.append(f"key {self.key!r}: write a column's name or for example header:x-customer")
        if self.key.lower() in SECRET_KEYS:
            wrong.append(f"key {self.key!r}: that is a secret of the client's; name what says who asks")
        if not 0 < self.alpha < 0.5:
            wrong.append("alpha must be between 0 and 0.5")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def key_column(self) -> str:
        """The column that `key` names; empty where it names none."""
        return "" if self.key.startswith("header:") else self.key

    @property
    def bakes(self) -> tuple[Bake, ...]:
        return read_steps(self.steps)


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
            raise ValueError("rollout: the stage has no endpoint, so there is nothing to roll out; add one")


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
