"""Bundles run in sandboxed children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlplatform.stats.batch import Columns, Outputs


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
    rounds_us: tuple[float, ...] = ()
    """Each round's, in the order they were measured: the n-th rounds of two bundles were neighbours."""


@dataclass(frozen=True)
class Latency:
    """Wall-clock time of one row, alone in its batch, over many calls in a child."""

    p99_ms: float
    low_ms: float
    high_ms: float
    """95 % interval of the 99th percentile; infinite with fewer calls than can tell."""
    calls: int
    disturbed: float
    """Share of calls that took clearly longer than the CPU time they used: they waited for a busy machine."""


class Evaluator(Protocol):
    """Runs bundles in sandboxed child processes."""

    def answer(self, bundle: Path, columns: Columns) -> Outputs:
        """Raises ChildFailed when the bundle does not load or answer."""

    def serving_check(self, bundle: Path) -> ServingReport: ...

    def costs(self, bundles: Sequence[Path]) -> list[Cost]: ...

    def latency(self, bundle: Path) -> Latency:
        """Raises ChildFailed when the bundle does not load or answer."""
