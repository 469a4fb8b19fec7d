"""Something that is not as the ledger says, and what brings it back in line."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Difference:
    """Something that is not as the ledger says."""

    model: str
    what: str
    repair: str
    """What reconcile does about it; for a difference that it cannot repair, what a person can do."""
    mend: Callable[[], None] | None = None


def bound(function: Callable[..., object], *args: object) -> Callable[[], None]:
    """A mend: the function with its arguments, whatever it returns."""

    def mend() -> None:
        function(*args)

    return mend
