"""The protocols that the data plane speaks, by the name that metrics show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlplatform.domain.routes import Route
from mlplatform.serving.calls import Codec
from mlplatform.serving.decode import RowDecoder
from mlplatform.serving.problems import Problem
from mlplatform.serving.protocols import mlflow, v2


@dataclass(frozen=True)
class Spoken:
    """How a protocol reads and writes, and how it tells a problem."""

    codec: Callable[[RowDecoder, Route], Codec]
    error: Callable[[Problem], bytes]


PROTOCOLS = {
    "mlflow": Spoken(lambda rows, route: mlflow.InvocationCodec(rows), Problem.body),
    "v2": Spoken(lambda rows, route: v2.InferCodec(rows, route.model, str(route.version)), v2.error),
}
