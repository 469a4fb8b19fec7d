"""A loaded bundle that answers, and the choice among several."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import CaptureRule, Route
from mlplatform.errors import SHOWN_NAMES, nearest
from mlplatform.serving.bulk import bulk_columns
from mlplatform.serving.decode import RowDecoder, Rows
from mlplatform.serving.ids import fraction
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.models.batching import Queue, Threads, Turn, pays_from
from mlplatform.serving.problems import ModelFailed, NotLoaded, NotThere, Problem
from mlplatform.serving.protocols.table import PROTOCOLS
from mlplatform.serving.protocols.tensors import Described
from mlplatform.serving.values import FLOAT32_MAX
from mlplatform.stats.batch import Array, Outputs

if TYPE_CHECKING:  # loading the protocols of all extensions takes a worker a tenth of its start
    from mlplatform.ports.extensions import Predictor

INLINE_LIMIT_US = 300.0
"""A prediction that is expected to take longer leaves the event loop; a thread costs 20 to 30 us, so short
ones stay."""
LARGE = math.sqrt(FLOAT32_MAX)


@dataclass(frozen=True)
class LoadedBundle:
    """A verified, loaded and warmed model. The same one serves every route and generation that names its
    digest."""

    digest: str
    manifest: Manifest
    model: Predictor
    base_us: float = 0.0
    row_us: float = 0.0
    """What a prediction took when it was warmed: `base_us + row_us * rows`."""
    outputs: tuple[Described, ...] = ()
    """What it answered then, one row."""
    memory_bytes: int = 0
    """What it takes of the worker's memory."""
    alike: bool = False
    """Whether it answered its sample's rows together as it answered each alone: only then may requests share a run."""
    threads: Threads = field(default_factory=Threads, compare=False)
    """Those that answer for it now, off the loop."""


class Arm:
    """A bundle as a route uses it."""

    def __init__(self, route: Route, bundle: LoadedBundle, rule: CaptureRule, metrics: Metrics) -> None:
        self.route = route
        self.bundle = bundle
        self.name = f"{route.model}@{route.version}"
        self.header = (b"mlplatform-model", self.name.encode())
        self.rows = RowDecoder(bundle.manifest.inputs, rule.context, bundle.manifest.params)
        self.codecs = {name: spoken.codec(self.rows, route) for name, spoken in PROTOCOLS.items()}
        self.rule = rule
        self.bulk = bulk_columns(self.rows.inputs, frozenset(rule.drop_columns))
        """Tensors and bytes that are captured."""
        labels = (route.model, str(route.version), route.arm)
        self.calls = metrics.calls(*labels)
        ask = partial(answer, self.name, bundle.model)
        costs = (bundle.base_us, bundle.row_us)
        pays = bundle.alike and pays_from(bundle.base_us) < math.inf
        self.turn = Turn(ask, self.calls.count, *costs) if pays else None
        """Where its requests of one turn of the loop wait for each other, if that pays."""
        self.queue = Queue(ask, self.calls.count, *costs, bundle.alike, route.max_waiting, bundle.threads)
        self.series = {name: metrics.series(*labels, name) for name in PROTOCOLS}
        self.used_at = time.perf_counter()
        """When a request came for it last; the one that waits longest makes room for others."""
        self.shadow: Arm | None = None
        """Asked what this one has answered."""

    def leaves_loop(self, rows: int) -> bool:
        return self.bundle.base_us + self.bundle.row_us * rows > INLINE_LIMIT_US

    def answer(self, rows: Rows) -> Outputs:
        """Checked answers. ModelFailed when the model fails or answers with something that is no finite
        number; Problem when that is because of a missing or huge value in the request."""
        return answer(self.name, self.bundle.model, rows)


def _no_key(arms: Sequence[Arm]) -> str:
    return ""


KeyOf = Callable[[Sequence[Arm]], str]
"""Finds the value of the key that the first arm's route names; "" where a request has none. May raise Problem."""


class Table:
    """What is in effect: one generation, all of its bundles loaded. Never changed; the router swaps whole
    tables."""

    def __init__(
        self,
        generation: int,
        arms: Sequence[Arm] = (),
        bundles: Mapping[str, LoadedBundle] | None = None,
        rule: CaptureRule = CaptureRule(),  # noqa: B008
        asleep: Collection[str] = (),
    ) -> None:
        self.generation = generation
        self.arms = tuple(arms)
        self.bundles = dict(bundles or {})
        self.rule = rule
        self.asleep = frozenset(asleep)
        """Models that are loaded once somebody asks for them."""
        self.models = self.asleep | {arm.route.model for arm in arms}
        self._unnamed = self.arms if len(self.models) <= 1 and not self.asleep else None
        self._named: dict[tuple[str, str], list[Arm]] = {}
        for arm in arms:
            for version in ("", str(arm.route.version)):
                self._named.setdefault((arm.route.model, version), []).append(arm)

    def named(self, model: str, version: str = "") -> Sequence[Arm]:
        """The arms of a model, or of one of its versions; NotThere when none is routed, NotLoaded."""
        if found := self._named.get((model, version)):
            return found
        if model in self.asleep:
            raise NotLoaded(model)
        if not version or not (others := self._named.get((model, ""))):
            known = sorted(self.models)
            raise NotThere(f"there is no model {model[:100]!r} here. {nearest(model[:100], known)}")
        routed = ", ".join(sorted({str(arm.route.version) for arm in others}))
        raise NotThere(f"version {version[:40]!r} of {model!r} is not routed here; there is {routed}")

    def candidates(self, model: str = "", version: str = "") -> Sequence[Arm]:
        """Who may answer: none before the first model. Where several models are, one has to be named."""
        if not model and self._unnamed is not None:
            return self._unnamed
        if not self.models:
            return ()
        if not model and len(self.models) > 1:
            some = ", ".join(sorted(self.models)[:SHOWN_NAMES])
            raise Problem(
                "this server answers for several models: name one, as in POST /models/<model>/invocations or"
                f" /v2/models/<model>/infer; there are {some}"
            )
        return self.named(model or next(iter(self.models)), version)

    def pick(self, request_id: str, model: str = "", version: str = "", key: KeyOf = _no_key) -> Arm | None:
        """The arm of a request: by share, and the same for the same id or, where the routes name a key, the same
        value of it. None before the first model; NotThere for a model or version that is not routed.

        The first arm's share begins at 0: while it grows, a key moves to that arm at most once. Which keys come first
        differs from one newcomer to the next.
        """
        arms = self.candidates(model, version)
        if len(arms) <= 1:
            return arms[0] if arms else None
        value = key(arms) if arms[0].route.key else ""
        point = fraction(value, arms[0].name) if value else fraction(request_id)
        point *= sum(arm.route.share for arm in arms)
        for arm in arms:
            point -= arm.route.share
            if point < 0:
                return arm
        return max(arms, key=lambda arm: arm.route.share)


def answer(name: str, model: Predictor, rows: Rows) -> Outputs:
    """Ask a model; see `Arm.answer`."""
    batch = rows.batch
    try:
        outputs = model.predict(batch)
    except Exception as error:
        if why := _hard_to_answer(rows):
            raise Problem(f"{why}; {name} cannot answer it") from error
        raise ModelFailed(f"{name} failed on this request: {type(error).__name__}") from error
    if len(outputs.predictions) != batch.rows:
        raise ModelFailed(f"{name} answered {len(outputs.predictions)} rows of {batch.rows}")
    if not _is_finite(outputs):
        if why := _hard_to_answer(rows):
            raise Problem(f"{why}; {name} has no finite answer for it")
        raise ModelFailed(f"{name} answered with a number that is not finite")
    return outputs


def _hard_to_answer(rows: Rows) -> str:
    """A missing value, or one so large that its square is no longer finite in 32 bits; empty when there is none."""
    for name, values in rows.batch.columns().items():
        if (gaps := _gaps(values)).any():
            return f"column {name!r}, row {_row(gaps)}: a missing value"
    for name, values in rows.batch.columns().items():
        if values.dtype.kind == "f" and (beyond := np.abs(values) > LARGE).any():
            found = values.reshape(-1)[int(beyond.argmax())]
            return (
                f"column {name!r}, row {_row(beyond)}: expected a number in the range of float, got {found:g}"
            )
    return ""


def _gaps(values: Array) -> Array:
    if values.dtype.kind in "fM":
        return np.asarray(np.isnan(values) if values.dtype.kind == "f" else np.isnat(values))
    if values.dtype == object:
        return np.asarray(values == np.array(None), bool)
    return np.zeros(1, bool)


def _row(marked: Array) -> int:
    return int(marked.argmax()) // max(1, marked[:1].size)


def _is_finite(outputs: Outputs) -> bool:
    if not _finite(outputs.predictions) or (outputs.scores is not None and not _finite(outputs.scores)):
        return False
    return outputs.others is None or all(map(_finite, outputs.others.values()))


def _finite(values: Array) -> bool:
    if values.dtype.kind != "f":
        return True
    if values.size <= 32:  # numpy's own check costs more than the model on a row or two
        return all(map(math.isfinite, values.ravel().tolist()))
    return bool(np.isfinite(values).all())
