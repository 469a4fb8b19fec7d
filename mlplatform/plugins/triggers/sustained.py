"""sustained: one bad window may be chance, several of the last few are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mlplatform.domain.watch import Window, sustained


@dataclass(frozen=True)
class SustainedTrigger:
    """Fires when `k` of the last `of` windows that could be judged alarmed on something that may retrain."""

    k: int = 3
    of: int = 5

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError("k must be at least 1")
        if self.of < self.k:
            raise ValueError(f"of must be at least k ({self.k})")

    def fires(self, windows: Sequence[Window]) -> str:
        """The reason, or ""."""
        return sustained(windows, self.k, self.of) if windows else ""
