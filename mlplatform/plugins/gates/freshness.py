"""How old the version and the rows it is judged on may be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import ClassVar

from mlplatform.domain.duration import duration, rough
from mlplatform.domain.verdict import Finding, Verdict, worst
from mlplatform.plugins.gates.common import measured
from mlplatform.ports.extensions import Need, Subject

SKEW = timedelta(minutes=5)
"""How far ahead of ours another machine's clock may be."""


@dataclass(frozen=True)
class FreshnessGate:
    """`{ use = "freshness", max_age = "30d", data_max_age = "7d" }`: neither the version nor the evidence is stale.

    max_age: since the version was registered; a compressed version is as old as the one that it was made of.
    data_max_age: since the newest row of the evaluation: by the column that `[data] time` names, for captured rows
    without one by the time of the prediction. A holdout has times when it has that column.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    max_age: str | None = None
    data_max_age: str | None = None

    def __post_init__(self) -> None:
        if self.max_age is None and self.data_max_age is None:
            raise ValueError("max_age or data_max_age must be given")
        for name in ("max_age", "data_max_age"):
            _check_age(name, getattr(self, name))

    def judge(self, subject: Subject) -> Finding:
        parts = list(self._parts(subject))
        verdict = worst(parts)
        because = "; ".join(part.because for part in parts if part.verdict is verdict)
        numbers = tuple(number for part in parts for number in part.measurements)
        return Finding("freshness", verdict, because, numbers, ", ".join(part.limit for part in parts))

    def _parts(self, subject: Subject) -> Iterator[Finding]:
        if self.max_age is not None:
            yield _aged("max_age", subject.version.ref, subject.trained_at, self.max_age, subject.now)
        if self.data_max_age is not None:
            newest = f"the newest row of the {subject.data}"
            yield _aged("data_max_age", newest, subject.newest_row, self.data_max_age, subject.now)


def _check_age(name: str, age: str | None) -> None:
    if age is None:
        return
    try:
        positive = duration(age).total_seconds() > 0
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if not positive:
        raise ValueError(f"{name} must be longer than nothing")


def _aged(option: str, what: str, since: datetime | None, limit: str, now: datetime | None) -> Finding:
    demanded = f"{option} {limit}"
    if since is None or now is None:
        because = f"{what} has no time: name its column in [data] time, and keep it in the rows"
        return Finding("freshness", Verdict.ERROR, because, (), demanded)
    age = now - since
    if age < -SKEW:
        because = f"{what} is {rough(-age)} ahead of the clock, so that its age cannot be told"
        return Finding("freshness", Verdict.ERROR, because, (), demanded)
    verdict = Verdict.PASS if age <= duration(limit) else Verdict.FAIL
    word = "within" if verdict is Verdict.PASS else "more than"
    because = f"{what} is {rough(max(age, timedelta()))} old, {word} {limit}"
    numbers = measured(f"{option}_days", age.total_seconds() / 86400, unit="d")
    return Finding("freshness", verdict, because, numbers, demanded)
