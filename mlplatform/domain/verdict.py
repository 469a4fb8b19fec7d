"""What was seen, what was demanded, what follows: four verdicts, and the worst wins."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    """Ordered from best to worst; FAIL is worst because it was seen, ERROR could not look."""

    PASS = "PASS"
    INCONCLUSIVE = "INCONCLUSIVE"
    ERROR = "ERROR"
    FAIL = "FAIL"


_SLICE = re.compile(r"\S+ (?!gained )[^=]+=.*")
_SEVERITY = {verdict: rank for rank, verdict in enumerate(Verdict)}


@dataclass(frozen=True)
class Measurement:
    """A number that was measured, with its uncertainty where it has one."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None
    n: int | None = None
    unit: str = ""

    def __str__(self) -> str:
        interval = (
            f" [{self.low:.4g}, {self.high:.4g}]" if self.low is not None and self.high is not None else ""
        )
        size = f", n={self.n}" if self.n is not None else ""
        return f"{self.name} {self.value:.4g}{self.unit}{interval}{size}"


@dataclass(frozen=True)
class Finding:
    """A gate's answer: the verdict, one sentence why, and the numbers behind it."""

    gate: str
    verdict: Verdict
    because: str
    measurements: tuple[Measurement, ...] = ()
    limit: str = ""
    """What was demanded, as the policy writes it: `auc at_least 0.8`."""


@dataclass(frozen=True)
class Evaluation:
    """One bundle's measured answers to one table. Reused until an input changes or it expires."""

    id: str
    bundle_digest: str
    data_digest: str
    rows: int
    measurements: tuple[Measurement, ...]
    predictions_path: str
    """Where the answers lie (`.npz`), so that a pair of versions can be compared row by row."""
    at: datetime
    details: Mapping[str, Any] = field(default_factory=dict)


def slices_of(findings: Iterable[Finding]) -> list[Measurement]:
    """What gates measured on parts of the rows: `accuracy sex=Female`, not what was gained there."""
    found = {m.name: m for f in findings for m in f.measurements if _SLICE.fullmatch(m.name)}
    return list(found.values())


def rank(verdict: Verdict) -> int:
    """How bad a verdict is: 0 for PASS, largest for FAIL."""
    return _SEVERITY[verdict]


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict; PASS when there are no findings."""
    return worst_of(f.verdict for f in findings)


def worst_of(verdicts: Iterable[Verdict]) -> Verdict:
    return max(verdicts, key=rank, default=Verdict.PASS)
