"""What is drawn of a version, beside the facts on its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mlplatform.domain.card import CardFacts
from mlplatform.domain.verdict import Measurement
from mlplatform.stats.diagnosis import Confusion, Reliable, Residuals


@dataclass(frozen=True)
class Beside:
    """A metric of a version and of its rival on the same rows."""

    own: Measurement
    rival: Measurement | None = None
    difference: Measurement | None = None
    """Own less the rival's, with a 95 % interval."""
    said: str = ""
    """Of the difference: `better`, `worse`, `cannot tell`."""


@dataclass(frozen=True)
class CloseLook:
    """What the saved answers of an evaluation tell. What does not fit the task, or cannot be told, is empty."""

    metrics: tuple[Beside, ...] = ()
    confusion: Confusion | None = None
    reliability: tuple[Reliable, ...] = ()
    residuals: Residuals | None = None


Draw = Callable[[CardFacts, CloseLook], Mapping[str, str]]
"""Files of a version's report by name: one HTML page that needs nothing else, and the SVG on its card."""
