"""Tests that may be looked at after every row, and stopped at any time.

`start` / `update` / `verdict`: is the error rate above a baseline? A bet against "the rate is at most the
baseline" whose capital, if that is true, ever exceeds 1 / alpha with probability at most alpha, over the
whole stream (Ville's inequality; Waudby-Smith and Ramdas 2023, "Estimating means of bounded random
variables by betting"). For probation.

`start_detector` / `watch`: did the rate rise somewhere in an endless stream? A mixture Shiryaev-Roberts
e-detector (Shin, Ramdas and Rinaldo 2022): quiet streams alarm after at least `run_length` rows on average.

Both states are small frozen records of plain numbers: store them, go on later with the same result.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from mlplatform.errors import UsageError
from mlplatform.stats.arrays import Array, Floats

BETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7)
"""Each bet expects a rate of baseline + bet * (1 - baseline), and keeps 1 - bet of its capital at a right
answer.
"""
CHUNK = 65_536


@dataclass(frozen=True)
class SequentialState:
    """A bet in progress: rows and errors so far, and the highest log capital they ever made."""

    baseline: float
    alpha: float
    n: int = 0
    errors: float = 0.0
    peak_log_e: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        return cls(**data)


@dataclass(frozen=True)
class SequentialVerdict:
    """breached: the capital reached 1 / alpha at some row. e_value: the capital now. low: lower bound of
    the rate, valid at every row at once, at confidence 1 - alpha.
    """

    e_value: float
    breached: bool
    n: int
    rate: float
    low: float


def error_rate_exceeds(errors: Array, baseline: float, alpha: float = 0.05) -> SequentialVerdict:
    """Is the mean of errors (0 to 1 each, in order of arrival) above `baseline`?

    A loss between 0 and 1 counts as that share of an error: by the concavity of the logarithm the capital is never
    more than that of a bet on the loss itself, so the guarantee holds for every bounded loss.

    >>> error_rate_exceeds(np.ones(8), baseline=0.2, alpha=0.01).breached
    True
    """
    return verdict(update(start(baseline, alpha), errors))


def count_exceeds(errors: float, n: int, baseline: float, alpha: float = 0.05) -> SequentialVerdict:
    """Is the rate above `baseline`, where only the numbers so far are known? Ask as often as you like, of growing
    numbers: the capital of the bet depends on them alone, not on the order of the rows.

    >>> count_exceeds(3, 1_000_000, baseline=0.01, alpha=0.01).breached
    False
    """
    state = start(baseline, alpha)
    if not n:
        return verdict(state)
    now = float(log_capital(np.array([n]), np.array([errors]), state.baseline)[0])
    return verdict(replace(state, n=n, errors=float(errors), peak_log_e=max(0.0, now)))


def worse_exceeds(new: Array, old: Array, drop: float, alpha: float = 0.05) -> SequentialVerdict:
    """Does `new` lose more often than `old`, on the same rows in order of arrival, by more than `drop` of the rows?

    Ties count half: splitting them between the two outcomes only lowers the capital of the bet, so the test stays
    valid.
    """
    return error_rate_exceeds((np.sign(np.asarray(new) - np.asarray(old)) + 1) / 2, (drop + 1) / 2, alpha)


def start(baseline: float, alpha: float = 0.05) -> SequentialState:
    """A fresh bet. baseline: the rate still acceptable, in (0, 1); alpha: chance of a false alarm, ever."""
    _check_share("baseline", baseline)
    _check_share("alpha", alpha)
    return SequentialState(float(baseline), float(alpha))


def update(state: SequentialState, errors: Array) -> SequentialState:
    """Go on with more rows. The same rows in other portions give the same state."""
    errors = _losses(errors)
    n, wrong, peak = state.n, state.errors, state.peak_log_e
    for first in range(0, len(errors), CHUNK):
        part = errors[first : first + CHUNK]
        so_far = wrong + np.cumsum(part)
        peak = max(
            peak, float(log_capital(np.arange(n + 1, n + len(part) + 1), so_far, state.baseline).max())
        )
        n, wrong = n + len(part), float(so_far[-1])
    return replace(state, n=n, errors=wrong, peak_log_e=peak)


def verdict(state: SequentialState) -> SequentialVerdict:
    """What the rows seen so far prove."""
    now = float(log_capital(np.array([state.n]), np.array([state.errors]), state.baseline)[0])
    breached = state.peak_log_e >= -math.log(state.alpha)
    rate = state.errors / state.n if state.n else math.nan
    return SequentialVerdict(math.exp(min(now, 700.0)), breached, state.n, rate, _lower_bound(state))


def log_capital(n: Array, errors: Array, baseline: float) -> Floats:
    """Log of the mean capital of all bets after n rows with so many errors, starting from 1."""
    up, down = _log_factors(baseline)
    return log_mean(np.multiply.outer(errors, up) + np.multiply.outer(n - errors, down))


# ---- change somewhere in a stream


@dataclass(frozen=True)
class DetectorState:
    """A detector in progress: log capital per bet, rows so far, and the row (from 0) of the first alarm."""

    baseline: float
    run_length: float
    log_capital: tuple[float, ...]
    n: int = 0
    alarm_at: int | None = None

    @property
    def alarmed(self) -> bool:
        return self.alarm_at is not None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "log_capital": [x if math.isfinite(x) else None for x in self.log_capital]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        capital = tuple(-math.inf if x is None else float(x) for x in data["log_capital"])
        return cls(**{**data, "log_capital": capital})


def start_detector(baseline: float, run_length: float = 10_000.0) -> DetectorState:
    """A detector of a rise above `baseline`. run_length: rows between false alarms, on average at least."""
    _check_share("baseline", baseline)
    if not run_length > 1:
        raise UsageError(what=f"run_length must be above 1 row, it is {run_length}")
    return DetectorState(float(baseline), float(run_length), (-math.inf,) * len(BETS))


def watch(state: DetectorState, errors: Array) -> DetectorState:
    """Go on with more rows: R = (1 + R) * L, row by row. After an alarm start a new detector."""
    errors = _zeros_and_ones(errors)
    for first in range(0, len(errors), CHUNK):
        state = _watch_chunk(state, errors[first : first + CHUNK])
    return state


# ---- helpers


def _watch_chunk(state: DetectorState, errors: Array) -> DetectorState:
    """The recursion in closed form: R_t = exp(S_t) (R_0 + sum of exp(-S_i) over i < t)."""
    up, down = _log_factors(state.baseline)
    sums = np.cumsum(np.where(errors[:, None] == 1, up, down), axis=0)
    before = np.vstack([np.zeros(len(BETS)), sums[:-1]])
    inner = np.logaddexp.accumulate(np.vstack([state.log_capital, -before]), axis=0)[1:]
    capital = sums + inner
    alarms = np.flatnonzero(log_mean(capital) >= math.log(state.run_length))
    alarm_at = state.alarm_at
    if alarm_at is None and len(alarms):
        alarm_at = state.n + int(alarms[0])
    return replace(state, log_capital=tuple(capital[-1].tolist()), n=state.n + len(errors), alarm_at=alarm_at)


def _lower_bound(state: SequentialState) -> float:
    """The smallest baseline that this many errors would not have breached: by bisection, capital falls as
    it rises.
    """
    n, errors = np.array([state.n]), np.array([state.errors])
    if state.errors == 0:
        return 0.0
    low, high = 0.0, state.errors / state.n
    for _ in range(50):
        middle = (low + high) / 2
        breached = middle > 0 and float(log_capital(n, errors, middle)[0]) >= -math.log(state.alpha)
        low, high = (middle, high) if breached or middle == 0 else (low, middle)
    return low


def _log_factors(baseline: float) -> tuple[Floats, Floats]:
    bets = np.asarray(BETS)
    return np.log((baseline + bets * (1 - baseline)) / baseline), np.log1p(-bets)


def log_mean(logs: Floats) -> Floats:
    """Log of the mean capital, from the log capital of each bet."""
    top = logs.max(axis=-1)
    return np.asarray(top + np.log(np.exp(logs - top[..., None]).mean(axis=-1)))


def _zeros_and_ones(errors: Array) -> Array:
    values = np.asarray(errors)
    if values.ndim != 1 or not np.isin(values, (0, 1)).all():
        raise UsageError(what="errors must be a list of 0 (right) and 1 (wrong)")
    return values.astype(np.int64)


def _losses(errors: Array) -> Floats:
    values = np.asarray(errors, np.float64)
    if values.ndim != 1 or not ((values >= 0) & (values <= 1)).all():
        raise UsageError(what="errors must be a list of numbers from 0 (right) to 1 (wrong)")
    return values


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise UsageError(what=f"{name} must lie between 0 and 1, it is {value}")
