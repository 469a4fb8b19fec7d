"""The 99th percentile of single rows' times, and whether the machine was quiet enough to believe it. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlplatform.ports.evaluation import Latency
from mlplatform.stats.quantile import quantile_interval

WAITED_US, WAITED_SHARE = 20.0, 0.1
"""A call that took longer than its own CPU time by more than both waited: for a core, for memory, for a disk."""


def judged(wall_us: Sequence[float], cpu_us: Sequence[float]) -> Latency:
    """From the wall-clock and the CPU time of each call, in microseconds; ValueError for what are no times."""
    wall, cpu = np.asarray(wall_us, np.float64), np.asarray(cpu_us, np.float64)
    if (
        wall.ndim != 1
        or wall.shape != cpu.shape
        or not len(wall)
        or not (np.isfinite(wall) & (wall >= 0)).all()
    ):
        raise ValueError("its times are no times")
    p99 = quantile_interval(wall, 0.99)
    waited = wall - cpu
    disturbed = float(((waited > WAITED_US) & (waited > WAITED_SHARE * wall)).mean())
    return Latency(p99.value / 1e3, p99.low / 1e3, p99.high / 1e3, len(wall), disturbed)
