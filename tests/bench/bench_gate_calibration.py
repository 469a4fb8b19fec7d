"""How often does the no-regression gate pass a candidate it should not?

Draws pairs of models again and again and prints, per scenario, two rates that should be about 5 % and at
most 6 %: "at margin" - the candidate's true loss equals the margin, and it passes; "equal" - it is as good
as the incumbent, and is called better. Then the power: a candidate as good as the incumbent passes at the
stated margin.

    python tests/bench/bench_gate_calibration.py [PAIRS]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mlplatform.stats.compare import no_worse, paired
from mlplatform.stats.labels import Answers
from mlplatform.stats.metrics import METRICS

Pair = tuple[np.ndarray, Answers, Answers]
POPULATION = 2_000_000


def binary(
    n: int, rng: np.random.Generator, worse: float, *, positives: float = 0.5, ties: bool = False
) -> Pair:
    """Two correlated scorers of a yes/no question; `worse` adds noise to the candidate."""
    y = (rng.random(n) < positives).astype(np.int64)
    shared = 1.6 * (y - positives) + rng.standard_normal(n) * 0.8
    offset = np.log(positives / (1 - positives))

    def answers(noise: float) -> Answers:
        p = 1 / (1 + np.exp(-(shared + rng.standard_normal(n) * noise + offset)))
        p = np.round(p, 1) * 0.98 + 0.01 if ties else p
        return Answers((p > 0.5).astype(np.int64), np.column_stack([1 - p, p]))

    return y, answers(0.6), answers(0.6 + worse)


def several(n: int, rng: np.random.Generator, worse: float, *, classes: int = 5) -> Pair:
    """Two correlated classifiers of several classes of unequal size."""
    shares = np.arange(1, classes + 1) / np.arange(1, classes + 1).sum()
    y = rng.choice(classes, n, p=shares)
    shared = rng.standard_normal((n, classes)) + 2.5 * np.eye(classes)[y]

    def answers(noise: float) -> Answers:
        powers = np.exp(shared + rng.standard_normal((n, classes)) * noise)
        p = powers / powers.sum(axis=1, keepdims=True)
        return Answers(p.argmax(axis=1), p)

    return y, answers(0.6), answers(0.6 + worse)


def regression(n: int, rng: np.random.Generator, worse: float, *, heavy: bool = False) -> Pair:
    """Two correlated regressors; `heavy`: lognormal target."""
    x = rng.standard_normal(n)
    noise = rng.standard_normal(n)
    y = np.exp(x + 0.5 * noise) if heavy else x + 0.5 * noise

    def answers(scale: float) -> Answers:
        guess = x + rng.standard_normal(n) * scale
        return Answers(np.exp(guess) if heavy else guess)

    return y, answers(0.3), answers(0.3 + worse)


@dataclass(frozen=True)
class Scenario:
    metric: str
    n: int
    name: str
    draw: Callable[..., Pair]
    options: dict[str, object]


def scenarios() -> list[Scenario]:
    found = []
    for n in (30, 100, 1000):
        for metric in ("accuracy", "balanced_accuracy", "f1", "auc", "log_loss", "brier"):
            found.append(Scenario(metric, n, "balanced", binary, {}))
            found.append(Scenario(metric, n, "10 % positive", binary, {"positives": 0.1}))
        found.append(Scenario("auc", n, "ties", binary, {"ties": True}))
        found.append(Scenario("auc", n, "ties, 10 % positive", binary, {"ties": True, "positives": 0.1}))
        found += [Scenario(metric, n, "five classes", several, {}) for metric in ("accuracy", "f1", "auc")]
        found += [Scenario(metric, n, "normal", regression, {}) for metric in ("mae", "rmse", "r2")]
        found.append(Scenario("mae", n, "lognormal", regression, {"heavy": True}))
    return found


def true_loss(scenario: Scenario, worse: float) -> float:
    metric = METRICS[scenario.metric]
    y, incumbent, candidate = scenario.draw(POPULATION, np.random.default_rng(1), worse, **scenario.options)
    loss = metric.of(y, incumbent) - metric.of(y, candidate)
    return loss if metric.higher_is_better else -loss


def rates(scenario: Scenario, pairs: int, worse: float) -> tuple[float, float, float, float]:
    margin = true_loss(scenario, worse)
    at_margin = better = equal_passes = 0
    for seed in range(pairs):
        rng = np.random.default_rng((7, seed))
        y, old, new = scenario.draw(scenario.n, rng, worse, **scenario.options)
        options = {"seed": seed, "classes": range(5) if scenario.draw is several else range(2)}
        at_margin += no_worse(paired(scenario.metric, y, old, new, margin=margin, **options)) == "pass"
        y, old, new = scenario.draw(scenario.n, rng, 0.0, **scenario.options)
        equal = paired(scenario.metric, y, old, new, margin=margin, **options)
        better += equal.low > 0
        equal_passes += no_worse(equal) == "pass"
    return margin, at_margin / pairs, better / pairs, equal_passes / pairs


def main(pairs: int) -> None:
    noise = 200 * (0.05 * 0.95 / pairs) ** 0.5
    print(f"{pairs} pairs; limit 6 %; two standard errors at 5 %: {noise:.1f} points")
    heads = f"{'metric':18s}{'n':>6s}  {'data':22s}{'margin':>8s}"
    print(heads + f"{'at margin':>11s}{'equal':>8s}{'power':>8s}{'ms':>7s}")
    for scenario in scenarios():
        start = time.perf_counter()
        margin, at_margin, better, power = rates(scenario, pairs, worse=0.6)
        cost_ms = (time.perf_counter() - start) * 1e3 / (2 * pairs)
        line = f"{scenario.metric:18s}{scenario.n:6d}  {scenario.name:22s}{margin:8.4f}"
        print(line + f"{at_margin:11.1%}{better:8.1%}{power:8.1%}{cost_ms:7.1f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2_000)
