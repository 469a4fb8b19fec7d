"""Does the bundle load and answer its own sample as its signature says?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from mlplatform.domain.verdict import Finding, Verdict
from mlplatform.plugins.gates.common import check_positive, measured
from mlplatform.ports.extensions import Need, Subject


@dataclass(frozen=True)
class ServingCheckGate:
    """`{ use = "serving_check" }`: in a sandboxed child answers are finite, of the declared shape and type,
    not constant, and the same for a row alone and in a batch.

    latency_ms: the longest median time of one row, if that is limited too.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"serving"})

    latency_ms: float | None = None

    def __post_init__(self) -> None:
        check_positive(latency_ms=self.latency_ms)

    def judge(self, subject: Subject) -> Finding:
        report = subject.serving
        if report is None:
            return Finding("serving_check", Verdict.ERROR, "the serving check was not run", (), self._limit)
        numbers = (
            *measured("latency_ms", report.latency_ms, unit="ms"),
            *measured("start_ms", report.start_ms, unit="ms"),
            *measured("memory_mb", report.memory_bytes / 1e6, unit="MB"),
        )
        if report.problems:
            return Finding("serving_check", Verdict.FAIL, "; ".join(report.problems), numbers, self._limit)
        because = f"the sample is answered, a row in {report.latency_ms:.3g} ms"
        if self.latency_ms is not None and not report.latency_ms <= self.latency_ms:
            return Finding(
                "serving_check",
                Verdict.FAIL,
                f"{because}, above {self.latency_ms:g} ms",
                numbers,
                self._limit,
            )
        return Finding("serving_check", Verdict.PASS, because, numbers, self._limit)

    @property
    def _limit(self) -> str:
        return "" if self.latency_ms is None else f"latency_ms {self.latency_ms:g}"
