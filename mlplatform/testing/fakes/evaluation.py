"""An evaluator without processes: models are Python functions, costs are numbers that a test sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mlplatform.errors import ChildFailed
from mlplatform.ports.evaluation import Cost, Latency, ServingReport
from mlplatform.stats.batch import Columns, Outputs

Model = Callable[[Columns], Outputs]


@dataclass(frozen=True)
class FakeModel:
    """How a bundle behaves. `problems`: what its serving check finds."""

    answer: Model
    problems: tuple[str, ...] = ()
    cpu_us: float = 10.0
    memory_bytes: int = 50_000_000
    latency_ms: float = 0.1


@dataclass
class FakeEvaluator:
    """Answers for the bundles it was taught, by folder; any other bundle fails as a broken one does.

    >>> import numpy as np
    >>> evaluator = FakeEvaluator().teach(Path("b"), lambda columns: Outputs(columns["x"] > 0))
    >>> evaluator.answer(Path("b"), {"x": np.array([1, -1])}).predictions.tolist()
    [True, False]
    """

    models: dict[Path, FakeModel] = field(default_factory=dict)
    default: FakeModel | None = None
    """For bundles that nobody taught."""
    asked: list[Path] = field(default_factory=list)
    """Bundles that answered a table, in order: whether an evaluation was measured or came from the cache."""

    def teach(
        self,
        bundle: Path,
        answer: Model,
        problems: Sequence[str] = (),
        cpu_us: float = 10.0,
        memory_bytes: int = 50_000_000,
    ) -> FakeEvaluator:
        self.models[bundle] = FakeModel(answer, tuple(problems), cpu_us, memory_bytes)
        return self

    def answer(self, bundle: Path, columns: Columns) -> Outputs:
        self.asked.append(bundle)
        return self._model(bundle, "answers a table").answer(columns)

    def serving_check(self, bundle: Path) -> ServingReport:
        model = self.models.get(bundle, self.default)
        if model is None:
            return ServingReport(("it does not load: no such bundle",), 0.0, 0.0, 0)
        return ServingReport(model.problems, 1.0, model.latency_ms, model.memory_bytes)

    def costs(self, bundles: Sequence[Path]) -> list[Cost]:
        models = [self._model(bundle, "measures the cost") for bundle in bundles]
        return [Cost(model.cpu_us, model.memory_bytes, (model.cpu_us,) * 15) for model in models]

    def latency(self, bundle: Path) -> Latency:
        ms = self._model(bundle, "measures the latency of a row").latency_ms
        return Latency(ms, ms, ms, 1000, 0.0)

    def _model(self, bundle: Path, doing: str) -> FakeModel:
        model = self.models.get(bundle, self.default)
        if model is None:
            raise ChildFailed(doing=doing, ending="an error", cause=f"no bundle at {bundle}")
        return model
