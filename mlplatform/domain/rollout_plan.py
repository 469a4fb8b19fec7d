"""How a version comes into service, and what may take it back, as `policy.toml` says it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlplatform.domain.duration import duration
from mlplatform.domain.steps import ALL_AT_ONCE, Bake, mistakes, read_steps
from mlplatform.domain.use import Use

SECRET_KEYS = ("header:authorization", "header:proxy-authorization", "header:cookie")


@dataclass(frozen=True)
class RolloutPlan:
    """How a version comes to answer all requests of a stage that has an endpoint and a version in it."""

    steps: tuple[str, ...] = ALL_AT_ONCE
    """From the first to `"100%"`: `"shadow:10m"` (it answers beside the live version, nobody gets its answers), then
    growing shares of the requests, each with the time that it bakes: `"5%:10m"`. `["100%"]` is all at once."""
    key: str = ""
    """A feature, a context column (`[data] context`) or `header:NAME`: requests with the same value stay on the same
    version while its share grows. Without it, or where it is missing, the request's id decides."""
    judge: tuple[Use, ...] = ()
    """Asked while a step bakes and before the next: FAIL takes the version back, INCONCLUSIVE pauses."""
    alpha: float = 0.01
    """Chance over the whole rollout of taking back a version that keeps within the limits, shared by the judges."""

    def __post_init__(self) -> None:
        wrong = list(mistakes(self.steps))
        if len(self.steps) > 1 and not self.judge:
            wrong.append(
                "steps advance by themselves, and nobody judges them: add for example"
                ' judge = [{ use = "error_rate", at_most = 0.01 }]'
            )
        if self.judge and len(self.steps) == 1:
            wrong.append(
                'judge: all at once leaves nothing to judge before; add a step, for example "5%:10m",'
                " or use probation"
            )
        if not re.fullmatch(r"(header:[A-Za-z0-9][A-Za-z0-9\-_]*|(?!header:).*)", self.key):
            wrong.append(f"key {self.key!r}: write a column's name or for example header:x-customer")
        if self.key.lower() in SECRET_KEYS:
            wrong.append(f"key {self.key!r}: that is a secret of the client's; name what says who asks")
        if not 0 < self.alpha < 0.5:
            wrong.append("alpha must be between 0 and 0.5")
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def key_column(self) -> str:
        """The column that `key` names; empty where it names none."""
        return "" if self.key.startswith("header:") else self.key

    @property
    def bakes(self) -> tuple[Bake, ...]:
        return read_steps(self.steps)


@dataclass(frozen=True)
class Probation:
    """How long the old version stays warm after a switch, and what takes the new one back."""

    lasts: str = "14d"
    """How long the version before stays warm."""
    or_labels: int = 5000
    """Ends earlier, once so many labelled rows were seen."""
    error_rate: float = 0.01
    """Share of requests that may fail; a sequential test takes the version back above it."""
    refusals: float = 0.05
    """By how much the share of requests that it refuses (4xx) may lie above what the version before had refused up to
    the switch."""
    quality_drop: float = 0.05
    """How much more often than the version before it may err, on the same labelled rows."""
    alpha: float = 0.01
    """Chance over the whole probation of taking back a version that keeps within the limits."""

    def __post_init__(self) -> None:
        duration(self.lasts)
        if not 0 < self.alpha < 0.5:
            raise ValueError("alpha must be between 0 and 0.5")
        shares = (self.error_rate, self.refusals, self.quality_drop)
        if not all(0 <= share <= 1 for share in shares) or self.or_labels < 1:
            raise ValueError(
                "error_rate, refusals and quality_drop must be between 0 and 1, or_labels at least 1"
            )
