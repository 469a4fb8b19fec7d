"""How often does the no-regression gate pass a model it should not, and how often one it should?

Draws pairs of models again and again and asks the gate's own statistics for a verdict at confidence 0.95:

- `equal`: as good as the incumbent, margin 0. `at margin`: the true loss equals the margin. Both should PASS in at
  most 6 %; in brackets the 95 % interval (Wilson) that comes from the number of pairs.
- `power`: as good as the incumbent, judged at the margin. `gain`: better by as much as the margin is, judged at 0.
- `cannot tell`: INCONCLUSIVE among equal models at the margin; `no bound`: of them, those where the rows allow none.
- `CPU ms`: of a pair, that is of drawing three tables and asking four times.

    python -m tests.bench.bench_gate_calibration [--pairs 2000] [--metric mae ...] [--n 100 ...]

Ends with 1 when a rate is above 6 % by more than chance.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from zlib import crc32

import numpy as np

from mlplatform.stats.compare import Comparison, no_worse, paired
from mlplatform.stats.estimate import Estimate, wilson
from mlplatform.stats.labels import Answers
from mlplatform.stats.metrics import METRICS

Pair = tuple[np.ndarray, Answers, Answers]
SIZES = (30, 100, 300, 1000)
LIMIT = 0.06
CHUNK = 100_000
CHUNKS_PER_ROW = 0.04
"""The true loss comes from 4,000 times as many rows as are compared: its error moves a rate by 0.2 points at most."""
HEAD = "| metric | data | n | margin | equal | at margin | power | gain | cannot tell | no bound | CPU ms |"


# ---- models


def binary(
    n: int, rng: np.random.Generator, worse: float, *, positives: float = 0.5, ties: bool = False
) -> Pair:
    """Two correlated scorers of a yes/no question; `worse` adds noise to the candidate. A row whose score is above the
    share of positives is called one.
    """
    y = (rng.random(n) < positives).astype(np.int64)
    shared = 1.6 * (y - positives) + rng.standard_normal(n) * 0.8
    offset = np.log(positives / (1 - positives))

    def answers(noise: float) -> Answers:
        p = 1 / (1 + np.exp(-(shared + rng.standard_normal(n) * noise + offset)))
        p = np.round(p, 1) * 0.98 + 0.01 if ties else p
        return Answers((p > positives).astype(np.int64), np.column_stack([1 - p, p]))

    return y, answers(0.6), answers(0.6 + worse)


def twins(n: int, rng: np.random.Generator, worse: float) -> Pair:
    """Two classifiers that differ in 4 % of the rows; where they do, a worse candidate errs more often."""
    y = rng.integers(0, 2, n)
    old = np.where(rng.random(n) < 0.2, 1 - y, y)
    right = rng.random(n) < 0.8 - worse * 0.6
    return y, Answers(old), Answers(np.where(rng.random(n) < 0.04, np.where(right, y, 1 - y), old))


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


def regression(
    n: int, rng: np.random.Generator, worse: float, *, heavy: bool = False, ties: bool = False
) -> Pair:
    """Two correlated regressors; `heavy`: lognormal target; `ties`: answers and target are whole numbers."""
    x, noise = rng.standard_normal((2, n))

    def made(values: np.ndarray) -> np.ndarray:
        return np.exp(values) if heavy else np.round(values) if ties else values

    old, new = (made(x + rng.standard_normal(n) * scale) for scale in (0.3, 0.3 + worse))
    return made(x + 0.5 * noise), Answers(old), Answers(new)


# ---- what is measured


@dataclass(frozen=True)
class Scenario:
    metric: str
    data: str
    draw: Callable[..., Pair]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> range:
        return range(5) if self.draw is several else range(2)

    @property
    def own_seed(self) -> int:
        return crc32(f"{self.metric}, {self.data}".encode())

    def pair(self, n: int, rng: np.random.Generator, worse: float) -> Pair:
        return self.draw(n, rng, worse, **self.options)

    def compared(self, pair: Pair, margin: float, seed: int) -> Comparison:
        return paired(self.metric, *pair, margin=margin, seed=seed, classes=self.classes)

    def true_loss(self, worse: float, n: int) -> float:
        metric, losses = METRICS[self.metric], []
        for seed in range(max(4, round(n * CHUNKS_PER_ROW))):
            y, old, new = self.pair(CHUNK, np.random.default_rng((1, seed)), worse)
            losses.append(metric.of(y, old, self.classes) - metric.of(y, new, self.classes))
        return float(np.mean(losses)) * (1 if metric.higher_is_better else -1)


@dataclass(frozen=True)
class Rates:
    """Shares of the pairs, by the names of the module's docstring."""

    margin: float
    equal: float
    at_margin: float
    power: float
    gain: float
    cannot_tell: float
    no_bound: float
    cost_ms: float


SCENARIOS = (
    *(Scenario(m, "balanced", binary) for m in ("accuracy", "balanced_accuracy", "f1", "auc", "log_loss", "brier")),
    *(
        Scenario(m, "2 % positive", binary, {"positives": 0.02})
        for m in ("accuracy", "balanced_accuracy", "f1", "auc", "log_loss", "brier")
    ),
    Scenario("accuracy", "ties", twins),
    Scenario("f1", "ties", twins),
    Scenario("auc", "ties", binary, {"ties": True}),
    Scenario("auc", "ties, 2 % positive", binary, {"ties": True, "positives": 0.02}),
    Scenario("accuracy", "five classes", several),
    Scenario("auc", "five classes", several),
    *(Scenario(m, "normal", regression) for m in ("mae", "rmse", "r2")),
    *(Scenario(m, "lognormal", regression, {"heavy": True}) for m in ("mae", "rmse", "r2")),
    Scenario("mae", "ties", regression, {"ties": True}),
)  # fmt: skip


def rates(scenario: Scenario, n: int, pairs: int, worse: float = 0.6) -> Rates:
    """Verdicts over that many pairs, the same ones whenever it is asked."""
    margin, start = scenario.true_loss(worse, n), time.process_time()
    seen = np.zeros(6)
    for seed in range(pairs):
        rng = np.random.default_rng((scenario.own_seed, n, seed))
        y, old, new = scenario.pair(n, rng, worse)
        even = scenario.pair(n, rng, 0.0)
        at_margin = no_worse(scenario.compared((y, old, new), margin, seed))
        gain = no_worse(scenario.compared((y, new, old), 0.0, seed))
        equal = scenario.compared(even, 0.0, seed)
        # resampled bounds do not depend on the margin: the same ones serve twice
        found = equal if equal.test == "bootstrap" else scenario.compared(even, margin, seed)
        verdict = no_worse(found, margin)
        passed = [word == "pass" for word in (no_worse(equal), at_margin, verdict, gain)]
        seen += [*passed, verdict == "inconclusive", bool(found.doubt)]
    cost_ms = (time.process_time() - start) * 1e3 / pairs
    return Rates(margin, *(seen / pairs).tolist(), cost_ms)


# ---- the table


def measure(task: tuple[int, int, int]) -> tuple[Scenario, int, Rates]:
    place, n, pairs = task
    return SCENARIOS[place], n, rates(SCENARIOS[place], n, pairs)


def row(scenario: Scenario, n: int, found: Rates, pairs: int) -> str:
    def bounded(rate: float) -> str:
        low, high = 100 * _interval(rate, pairs).low, 100 * _interval(rate, pairs).high
        return f"{rate:.1%} [{low:.1f}, {high:.1f}]"

    rest = (found.power, found.gain, found.cannot_tell, found.no_bound)
    cells = [scenario.metric, scenario.data, str(n), f"{found.margin:.4f}"]
    cells += [bounded(found.equal), bounded(found.at_margin), *(f"{share:.0%}" for share in rest)]
    return f"| {' | '.join([*cells, f'{found.cost_ms:.1f}'])} |"


def surely_above(rate: float, pairs: int) -> bool:
    return _interval(rate, pairs).low > LIMIT


def _interval(rate: float, pairs: int) -> Estimate:
    return wilson(round(rate * pairs), pairs)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs", type=int, default=2_000, help="pairs of models a scenario; 400 for a quick look"
    )
    parser.add_argument(
        "--metric", action="append", choices=sorted(METRICS), help="may be repeated; default: all"
    )
    parser.add_argument("--n", action="append", type=int, help=f"rows; may be repeated; default: {SIZES}")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    asked = parser.parse_args(arguments)
    wanted = [i for i, s in enumerate(SCENARIOS) if not asked.metric or s.metric in asked.metric]
    tasks = [(place, n, asked.pairs) for place in wanted for n in asked.n or SIZES]
    start, above, judged = time.perf_counter(), 0, 0
    print(HEAD + "\n|" + " --- |" * (HEAD.count("|") - 1))
    with ProcessPoolExecutor(asked.workers) as pool:
        for scenario, n, found in pool.map(measure, tasks):
            print(row(scenario, n, found, asked.pairs), flush=True)
            above += sum(surely_above(rate, asked.pairs) for rate in (found.equal, found.at_margin))
            judged += 2
    took = time.perf_counter() - start
    print(f"\n{asked.pairs} pairs each, {took:.0f} s; {above} of {judged} rates are surely above {LIMIT:.0%}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
