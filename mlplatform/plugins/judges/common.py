"""What judges share."""

from __future__ import annotations

from mlplatform.domain.verdict import Finding, Measurement, Verdict


def wait_for(judge: str, have: int, wanted: int, what: str, seen: tuple[Measurement, ...] = ()) -> Finding:
    """Too little was seen yet: how much more is needed."""
    because = f"{have} of {wanted} {what}, {wanted - have} more to go"
    return Finding(judge, Verdict.INCONCLUSIVE, because, seen)


def demand_share(name: str, value: float) -> None:
    """Raises ValueError unless the option lies between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1")


def demand_count(name: str, value: int) -> None:
    """Raises ValueError unless the option is at least 1."""
    if value < 1:
        raise ValueError(f"{name} must be at least 1")
