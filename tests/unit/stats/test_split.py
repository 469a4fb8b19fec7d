"""Hits of two sides that share requests by chance: false alarms at whatever moment one looks, and what is found."""

from __future__ import annotations

import numpy as np
import pytest

from mlplatform.errors import UsageError
from mlplatform.stats.split import Shared, difference, hits_exceed, log_capital

ALPHA, MARGIN = 0.05, 0.01
SHARES = (0.05, 0.25, 0.5)
STEP = 4000
"""Requests of a step, of both sides."""


def alarm_at(rng: np.random.Generator, rates: np.ndarray, more: float, alpha: float = ALPHA) -> int | None:
    """Requests of the newcomer until the first alarm over three steps, looked at after every 100 of both; None: never.

    rates: the other's rate at each request; the newcomer refuses `more` on top.
    """
    done: list[Shared] = []
    for step, share in enumerate(SHARES):
        newcomer = rng.random(STEP) < share
        hit = rng.random(STEP) < rates[step * STEP : (step + 1) * STEP] + more * newcomer
        n, hits = np.cumsum(newcomer), np.cumsum(hit & newcomer)
        others = np.cumsum(hit & ~newcomer)
        for last in range(99, STEP, 100):
            part = Shared(share, int(n[last]), int(hits[last]), int(last + 1 - n[last]), int(others[last]))
            if log_capital([*done, part], MARGIN) >= -np.log(alpha):
                return sum(p.n for p in done) + part.n
        done.append(part)
    return None


def rates_of(kind: str) -> np.ndarray:
    """What share of requests the incumbent refuses, over the three steps."""
    n = len(SHARES) * STEP
    flood = np.where(np.arange(n) < STEP, 0.0, 0.4)  # clients that begin to send nonsense as the share grows
    return {"none": np.zeros(n), "some": np.full(n, 0.05), "many": np.full(n, 0.4), "a flood": flood}[kind]


@pytest.mark.parametrize("kind", ["none", "some", "many", "a flood"])
@pytest.mark.parametrize("more", [0.0, MARGIN])
def test_versions_that_refuse_alike_alarm_in_at_most_alpha_of_the_rollouts(kind: str, more: float) -> None:
    rng, runs = np.random.default_rng(11), 100
    alarms = [alarm_at(rng, rates_of(kind), more) is not None for _ in range(runs)]
    assert np.mean(alarms) <= ALPHA + 2 * np.sqrt(ALPHA * (1 - ALPHA) / runs)


@pytest.mark.parametrize(("kind", "half_by"), [("none", 80), ("some", 250), ("a flood", 600)])
def test_a_tenth_more_refusals_are_found_soon(
    kind: str, half_by: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(12)
    found = [alarm_at(rng, rates_of(kind), 0.1, alpha=0.01 / 6) for _ in range(60)]
    assert None not in found
    half, most = np.quantile([at for at in found if at is not None], [0.5, 0.95])
    with capsys.disabled():
        print(
            f"\nrefusals of {kind}, 10 % more: half of the runs found after {half:.0f}, 95 % after {most:.0f} requests"
        )
    assert half <= half_by


def test_a_flood_that_comes_while_the_share_is_larger_is_no_difference() -> None:
    """Pooled over the steps the newcomer would refuse twice as large a share."""
    quiet, flood = Shared(0.05, 100, 0, 1900, 0), Shared(0.5, 1000, 300, 1000, 300)
    assert difference([quiet, flood]) == 0
    assert not hits_exceed([quiet, flood], MARGIN, ALPHA).breached


def test_the_lower_bound_agrees_with_the_breach() -> None:
    parts = [Shared(0.05, 100, 10, 1900, 19)]
    found = hits_exceed(parts, MARGIN, ALPHA)
    assert found.breached
    assert MARGIN < found.low < found.difference == pytest.approx(0.09)
    assert not hits_exceed(parts, found.low + 0.001, ALPHA).breached


def test_no_requests_breach_nothing() -> None:
    for parts in ([], [Shared(0.05, 0, 0, 0, 0)]):
        assert (hits_exceed(parts, MARGIN, ALPHA).breached, difference(parts)) == (False, 0.0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_share_of_none_or_all_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        hits_exceed([Shared(share, 1, 0, 1, 0)], MARGIN, ALPHA)
