"""What a version may cost: CPU time and wall-clock time of a row, size on disk, memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from mlplatform.domain.verdict import Finding, Measurement, Verdict, worst
from mlplatform.plugins.gates.common import check_positive, measured
from mlplatform.ports.evaluation import Cost, Latency
from mlplatform.ports.extensions import Need, Subject
from mlplatform.stats.estimate import Estimate
from mlplatform.stats.quantile import quantile_interval

_MB = 1_000_000
BUSY_CALLS = 0.005
"""Share of disturbed calls above which a machine is busy: half of the slowest percent that a p99 is about."""


@dataclass(frozen=True)
class BudgetGate:
    """`{ use = "budget", cpu_times_incumbent = 1.5, size_mb = 50 }`: none of the given limits may be passed.

    CPU times are medians over rounds with a 95 % interval; when that lies around the limit the gate cannot tell. So it
    is with `p99_ms`, and when it seems too long on a machine that was busy with something else: more than one in 200
    calls took longer than the CPU time it used. A time within the limit counts on a busy machine, too, which only
    makes rows slower.

    cpu_times_incumbent: CPU time of one row over the incumbent's, measured in turns with it.
    cpu_us: CPU microseconds of one row, alone in its batch.
    p99_ms: milliseconds within which 99 of 100 rows are answered, each alone in its batch, without the network.
    size_mb: size of the model's files, in millions of bytes.
    memory_mb: peak resident memory of a process that serves it, in millions of bytes.
    """

    cpu_times_incumbent: float | None = None
    cpu_us: float | None = None
    p99_ms: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None

    def __post_init__(self) -> None:
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        if all(value is None for value in options.values()):
            raise ValueError(f"at least one of {', '.join(options)} must be given")
        check_positive(**options)

    @property
    def needs(self) -> frozenset[Need]:
        """Only what is limited is measured."""
        cost = any(value is not None for value in (self.cpu_times_incumbent, self.cpu_us, self.memory_mb))
        found: list[Need] = ["cost"] if cost else []
        return frozenset([*found, "latency"] if self.p99_ms is not None else found)

    def judge(self, subject: Subject) -> Finding:
        parts = list(self._parts(subject))
        verdict = worst(parts)
        # Only what made the verdict; a passed budget says all.
        because = "; ".join(part.because for part in parts if part.verdict is verdict)
        numbers = tuple(number for part in parts for number in part.measurements)
        return Finding("budget", verdict, because, numbers, ", ".join(part.limit for part in parts))

    def _parts(self, subject: Subject) -> Iterator[Finding]:
        cost = subject.cost
        if self.size_mb is not None:
            yield _within("size_mb", _exactly(subject.manifest.size_bytes / _MB), self.size_mb, "MB")
        if self.memory_mb is not None:
            memory = _exactly(cost.memory_bytes / _MB) if cost else None
            yield _within("memory_mb", memory, self.memory_mb, "MB")
        if self.cpu_us is not None:
            yield _within("cpu_us", _rounds(cost), self.cpu_us, "us")
        if self.cpu_times_incumbent is not None:
            yield self._ratio(subject, self.cpu_times_incumbent)
        if self.p99_ms is not None:
            yield _p99(subject.latency, self.p99_ms)

    def _ratio(self, subject: Subject, limit: float) -> Finding:
        name = "cpu_times_incumbent"
        if subject.incumbent is None:
            because = "there is no incumbent to compare CPU time with"
            return Finding("budget", Verdict.PASS, because, (), f"{name} {limit:g}")
        return _within(name, _times(subject.cost, subject.incumbent_cost), limit, "x")


def _exactly(value: float) -> Estimate:
    return Estimate(value, value, value, 1, 1.0)


def _rounds(cost: Cost | None) -> Estimate | None:
    """The median round; an evaluator that tells no rounds is taken at its word."""
    if cost is None:
        return None
    return quantile_interval(cost.rounds_us, 0.5) if cost.rounds_us else _exactly(cost.cpu_us)


def _times(cost: Cost | None, other: Cost | None) -> Estimate | None:
    """The median over rounds of one's CPU time over the other's, neighbour by neighbour."""
    if cost is None or other is None or other.cpu_us <= 0:
        return None
    pairs = list(zip(cost.rounds_us, other.rounds_us, strict=False))
    if not pairs or any(theirs <= 0 for _, theirs in pairs):
        return _exactly(cost.cpu_us / other.cpu_us)
    return quantile_interval([ours / theirs for ours, theirs in pairs], 0.5)


def _within(name: str, value: Estimate | None, limit: float, unit: str) -> Finding:
    numbers = _numbers(name, value, unit)
    if value is None or not numbers:
        return Finding("budget", Verdict.ERROR, f"{name} was not measured", (), f"{name} {limit:g}")
    because = f"{name} is {value.value:.3g}{_interval(value)}"
    verdict, word = Verdict.INCONCLUSIVE, "around"
    if value.high <= limit:
        verdict, word = Verdict.PASS, "within"
    elif value.low > limit:
        verdict, word = Verdict.FAIL, "above"
    again = "; measure again on a quieter machine" if verdict is Verdict.INCONCLUSIVE else ""
    return Finding("budget", verdict, f"{because}, {word} {limit:g}{again}", numbers, f"{name} {limit:g}")


def _p99(latency: Latency | None, limit: float) -> Finding:
    if latency is None:
        return _within("p99_ms", None, limit, "ms")
    value = Estimate(latency.p99_ms, latency.low_ms, latency.high_ms, latency.calls, 0.95)
    found = _within("p99_ms", value, limit, "ms")
    if found.verdict is Verdict.PASS:
        return found
    seen = f"p99_ms is {value.value:.3g}{_interval(value)} against {limit:g}, but "
    if latency.disturbed > BUSY_CALLS:
        because = (
            f"{seen}the machine was busy: {latency.disturbed:.1%} of {latency.calls} calls had to wait; "
            "measure again on a quieter one"
        )
    elif found.verdict is Verdict.INCONCLUSIVE and math.isinf(value.high):
        because = f"{seen}{latency.calls} calls, all there was time for, are too few to tell"
    else:
        return found
    return Finding("budget", Verdict.INCONCLUSIVE, because, found.measurements, found.limit)


def _interval(value: Estimate) -> str:
    return "" if value.low == value.high else f" [{value.low:.3g}, {value.high:.3g}] over {value.n}"


def _numbers(name: str, value: Estimate | None, unit: str) -> tuple[Measurement, ...]:
    if value is None:
        return ()
    if value.low == value.high:
        return measured(name, value.value, unit=unit)
    low, high = (end if math.isfinite(end) else math.nan for end in (value.low, value.high))
    return measured(name, value.value, low, high, value.n, unit)
