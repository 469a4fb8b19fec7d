"""A loaded bundle that answers, and the choice among several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import CaptureRule, Route
from mlplatform.errors import nearest
from mlplatform.ports.extensions import Predictor
from mlplatform.serving.decode import RowDecoder, Rows
from mlplatform.serving.ids import fraction
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.problems import ModelFailed, NotThere, Problem
from mlplatform.serving.protocols.table import PROTOCOLS
from mlplatform.serving.protocols.tensors import Described
from mlplatform.serving.values import FLOAT32_MAX
from mlplatform.stats.batch import Array, Batch, Outputs

INLINE_LIMIT_US = 300.0
"""A prediction that is expected to take longer leaves the event loop; a thread costs 20 to 30 us, so short
ones stay."""


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


class Arm:
    """A bundle as a route uses it."""

    def __init__(self, route: Route, bundle: LoadedBundle, rule: CaptureRule, metrics: Metrics) -> None:
        self.route = route
        self.bundle = bundle
        self.name = f"{route.model}@{route.version}"
        self.header = (b"mlplatform-model", self.name.encode())
        self.rows = RowDecoder(bundle.manifest.inputs, rule.context)
        self.codecs = {name: spoken.codec(self.rows, route) for name, spoken in PROTOCOLS.items()}
        labels = (route.model, str(route.version), route.arm)
        self.series = {name: metrics.series(*labels, name) for name in PROTOCOLS}

    def leaves_loop(self, rows: int) -> bool:
        return self.bundle.base_us + self.bundle.row_us * rows > INLINE_LIMIT_US

    def answer(self, rows: Rows) -> Outputs:
        """Checked answers. ModelFailed when the model fails or answers with something that is no finite
        number; Problem when that is because of a missing or huge value in the request."""
        return answer(self.name, self.bundle.model, rows)


class Table:
    """What is in effect: one generation, all of its bundles loaded. Never changed; the router swaps whole
    tables."""

    def __init__(
        self,
        generation: int,
        arms: Sequence[Arm] = (),
        bundles: Mapping[str, LoadedBundle] | None = None,
        rule: CaptureRule = CaptureRule(),  # noqa: B008
    ) -> None:
        self.generation = generation
        self.arms = tuple(arms)
        self.bundles = dict(bundles or {})
        self.rule = rule
        self._named: dict[tuple[str, str], list[Arm]] = {}
        for arm in arms:
            for version in ("", str(arm.route.version)):
                self._named.setdefault((arm.route.model, version), []).append(arm)

    def named(self, model: str, version: str = "") -> Sequence[Arm]:
        """The arms of a model, or of one of its versions; NotThere when none is routed."""
        if found := self._named.get((model, version)):
            return found
        if not version or not (others := self._named.get((model, ""))):
            known = sorted({arm.route.model for arm in self.arms})
            raise NotThere(f"there is no model {model[:100]!r} here. {nearest(model[:100], known)}")
        routed = ", ".join(sorted({str(arm.route.version) for arm in others}))
        raise NotThere(f"version {version[:40]!r} of {model!r} is not routed here; there is {routed}")

    def pick(self, request_id: str, model: str = "", version: str = "") -> Arm | None:
        """The arm of a request: by share, and the same for the same id. None before the first model; NotThere for
        a model or version that is not routed."""
        arms: Sequence[Arm] = self.arms
        if model and arms:
            arms = self.named(model, version)
        if len(arms) <= 1:
            return arms[0] if arms else None
        point = fraction(request_id) * sum(arm.route.share for arm in arms)
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
        if rows.missing:
            raise Problem(f"{name} cannot answer rows with missing values; send every column") from error
        raise ModelFailed(f"{name} failed on this request: {type(error).__name__}") from error
    if len(outputs.predictions) != batch.rows:
        raise ModelFailed(f"{name} answered {len(outputs.predictions)} rows of {batch.rows}")
    if not (_finite(outputs.predictions) and (outputs.scores is None or _finite(outputs.scores))):
        if rows.missing:
            raise Problem(f"{name} has no finite answer for rows with missing values; send every column")
        if extreme := _extreme(batch):
            raise Problem(f"{extreme}; {name} has no finite answer for it")
        raise ModelFailed(f"{name} answered with a number that is not finite")
    return outputs


def _extreme(batch: Batch) -> str:
    """A value that is no longer finite where a model computes with 32 bits; empty when there is none."""
    for name, values in batch.columns().items():
        if values.dtype.kind == "f" and (beyond := np.abs(values) > FLOAT32_MAX).any():
            row = int(beyond.argmax())
            return f"column {name!r}, row {row}: expected a number in the range of float, got {values[row]}"
    return ""


def _finite(values: Array) -> bool:
    if values.dtype.kind != "f":
        return True
    if values.size <= 32:  # numpy's own check costs more than the model on a row or two
        return all(map(math.isfinite, values.ravel().tolist()))
    return bool(np.isfinite(values).all())
