"""What every Evaluator promises: the fake of the tests and the sandboxed child."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mlplatform.errors import ChildFailed
from mlplatform.evaluation.evaluator import ChildEvaluator
from mlplatform.ports.evaluation import Evaluator
from mlplatform.sandbox import Limits
from mlplatform.stats.batch import Columns, Outputs
from mlplatform.testing.bundles import make_log_bundle, make_onnx_bundle
from mlplatform.testing.fakes.evaluation import FakeEvaluator


@dataclass(frozen=True)
class World:
    """An evaluator with a healthy bundle (columns a, b, c), one whose answers are not finite, and one that is gone."""

    evaluator: Evaluator
    healthy: Path
    poisoned: Path
    missing: Path


def real(folder: Path) -> World:
    make_onnx_bundle(folder / "healthy")
    make_log_bundle(folder / "poisoned", sample=[-1.0, 2.0, 3.0])
    return World(
        ChildEvaluator(Limits(seconds=60)), folder / "healthy", folder / "poisoned", folder / "missing"
    )


def fake(folder: Path) -> World:
    def answer(columns: Columns) -> Outputs:
        positive = 1 / (1 + np.exp(-columns["a"] - columns["b"]))
        return Outputs((positive > 0.5).astype(np.int64), np.column_stack([1 - positive, positive]))

    evaluator = FakeEvaluator().teach(folder / "healthy", answer)
    evaluator.teach(
        folder / "poisoned", answer, problems=["predictions of 1 of 3 sample rows are not finite"]
    )
    return World(evaluator, folder / "healthy", folder / "poisoned", folder / "missing")


@pytest.fixture(params=[fake, real])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    make: Callable[[Path], World] = request.param
    return make(tmp_path)


def table(rows: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows)
    return {name: rng.normal(size=rows) for name in ("a", "b", "c", "a column that no model knows")}


def test_answers_one_row_for_each_in_their_order(world: World) -> None:
    columns = table(200)
    whole = world.evaluator.answer(world.healthy, columns)
    assert whole.predictions.shape == (200,)
    assert whole.scores is not None and whole.scores.shape == (200, 2)
    reverse = world.evaluator.answer(world.healthy, {name: values[::-1] for name, values in columns.items()})
    np.testing.assert_array_equal(reverse.predictions[::-1], whole.predictions)
    assert len(set(whole.predictions.tolist())) == 2


def test_the_same_table_gets_the_same_answers(world: World) -> None:
    first, second = (world.evaluator.answer(world.healthy, table(50)) for _ in range(2))
    np.testing.assert_array_equal(first.predictions, second.predictions)
    assert first.scores is not None and second.scores is not None
    np.testing.assert_array_equal(first.scores, second.scores)


def test_a_healthy_bundle_has_no_problems_and_measured_times(world: World) -> None:
    report = world.evaluator.serving_check(world.healthy)
    assert report.problems == ()
    assert report.latency_ms > 0 and report.start_ms > 0 and report.memory_bytes > 1_000_000


def test_a_poisoned_bundle_has_problems_in_words(world: World) -> None:
    (problem,) = world.evaluator.serving_check(world.poisoned).problems
    assert "not finite" in problem


def test_a_bundle_that_is_not_there_fails_in_one_line(world: World) -> None:
    with pytest.raises(ChildFailed) as caught:
        world.evaluator.answer(world.missing, table(5))
    assert "\n" not in str(caught.value)
    with pytest.raises(ChildFailed):
        world.evaluator.costs([world.healthy, world.missing])


def test_costs_come_one_for_each_bundle(world: World) -> None:
    first, second = world.evaluator.costs([world.healthy, world.poisoned])
    for cost in (first, second):
        assert 0 < cost.cpu_us < 100_000 and cost.memory_bytes > 1_000_000
        assert len(cost.rounds_us) >= 10 and min(cost.rounds_us) <= cost.cpu_us <= max(cost.rounds_us)
    assert world.evaluator.costs([]) == []


def test_latency_has_an_interval_and_says_how_much_the_calls_had_to_wait(world: World) -> None:
    latency = world.evaluator.latency(world.healthy)
    assert 0 < latency.low_ms <= latency.p99_ms <= latency.high_ms < 10_000
    assert latency.calls >= 400
    assert 0 <= latency.disturbed <= 1
    with pytest.raises(ChildFailed):
        world.evaluator.latency(world.missing)
