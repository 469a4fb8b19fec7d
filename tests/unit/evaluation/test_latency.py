"""A latency counts calls that had to wait, and refuses what are no times."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlplatform.evaluation.latency import judged


def test_calls_that_took_longer_than_their_own_cpu_time_had_to_wait() -> None:
    cpu = np.full(1000, 200.0)
    wall = cpu + 5.0
    assert judged(wall.tolist(), cpu.tolist()).disturbed == 0.0
    wall[:20] += 4000.0
    assert judged(wall.tolist(), cpu.tolist()).disturbed == 0.02


def test_a_model_that_uses_several_cores_did_not_wait() -> None:
    assert judged([100.0] * 1000, [350.0] * 1000).disturbed == 0.0


def test_the_percentile_is_in_milliseconds_with_its_interval() -> None:
    times = np.arange(1, 1001, dtype=float)
    found = judged(times.tolist(), times.tolist())
    assert found.p99_ms == pytest.approx(0.99, abs=0.001) and found.calls == 1000
    assert found.low_ms < found.p99_ms < found.high_ms


@pytest.mark.parametrize("wall", [[], [1.0, math.nan], [-1.0, 1.0], [1.0]])
def test_what_are_no_times_is_refused(wall: list[float]) -> None:
    with pytest.raises(ValueError, match="no times"):
        judged(wall, [1.0, 1.0])
