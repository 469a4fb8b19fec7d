"""What a version may cost: CPU time of a row, size on disk, memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Measurement, Verdict, worst
from mlplatform.plugins.gates.common import check_positive, measured
from mlplatform.ports.extensions import Need, Subject

_MB = 1_000_000


@dataclass(frozen=True)
class BudgetGate:
    """`{ use = "budget", cpu_times_incumbent = 1.5, size_mb = 50 }`: none of the given limits may be passed.

    cpu_times_incumbent: CPU time of one row over the incumbent's, measured in turns with it.
    cpu_us: CPU microseconds of one row, alone in its batch.
    size_mb: size of the model's files, in millions of bytes.
    memory_mb: peak resident memory of a process that serves it, in millions of bytes.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"cost"})

    cpu_times_incumbent: float | None = None
    cpu_us: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None

    def __post_init__(self) -> None:
        options = {field.name: getattr(self, field.name) for field in fields(self)}
        if all(value is None for value in options.values()):
            raise ValueError(f"at least one of {', '.join(options)} must be given")
        check_positive(**options)

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
            yield _within("size_mb", subject.manifest.size_bytes / _MB, self.size_mb, "MB")
        if self.memory_mb is not None:
            yield _within("memory_mb", cost.memory_bytes / _MB if cost else None, self.memory_mb, "MB")
        if self.cpu_us is not None:
            yield _within("cpu_us", cost.cpu_us if cost else None, self.cpu_us, "us")
        if self.cpu_times_incumbent is not None:
            yield self._ratio(subject, self.cpu_times_incumbent)

    def _ratio(self, subject: Subject, limit: float) -> Finding:
        name = "cpu_times_incumbent"
        if subject.incumbent is None:
            return Finding(
                "budget",
                Verdict.PASS,
                "there is no incumbent to compare CPU time with",
                (),
                f"{name} {limit:g}",
            )
        cost, other = subject.cost, subject.incumbent_cost
        ratio = cost.cpu_us / other.cpu_us if cost and other and other.cpu_us > 0 else None
        return _within(name, ratio, limit, "x")


def _within(name: str, value: float | None, limit: float, unit: str) -> Finding:
    numbers: tuple[Measurement, ...] = measured(name, value, unit=unit) if value is not None else ()
    if not numbers:
        return Finding("budget", Verdict.ERROR, f"{name} was not measured", (), f"{name} {limit:g}")
    verdict = Verdict.PASS if numbers[0].value <= limit else Verdict.FAIL
    word = "within" if verdict is Verdict.PASS else "above"
    because = f"{name} is {numbers[0].value:.3g}, {word} {limit:g}"
    return Finding("budget", verdict, because, numbers, f"{name} {limit:g}")
