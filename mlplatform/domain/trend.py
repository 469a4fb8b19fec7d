"""A metric over a model's versions, and which of the numbers can be compared: only those on the same rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mlplatform.domain.verdict import Measurement
from mlplatform.domain.version import Version


@dataclass(frozen=True)
class Rows:
    """Rows that versions were evaluated on."""

    digest: str
    source: str
    count: int


@dataclass(frozen=True)
class Point:
    """A version's newest evaluation."""

    version: Version
    place: str
    live: bool
    """Whether it answers: it holds the live stage."""
    value: Measurement | None = None
    """None where it was not evaluated, or its saved answers cannot tell this metric."""
    rows: str = ""
    """Name of the rows, among those of the trend."""
    at: datetime | None = None
    """When it was evaluated."""
    against_live: Measurement | None = None
    """Its value less the live version's, with a 95 % interval, on the newest rows that both answered."""
    said: str = ""
    """Of that difference: `better`, `worse`, `cannot tell`."""


@dataclass(frozen=True)
class Trend:
    model: str
    metric: str
    higher_is_better: bool
    points: tuple[Point, ...]
    """Oldest version first."""
    rows: Mapping[str, Rows]
    """By short name: A, B, ... Numbers of different rows cannot be compared."""

    @property
    def known(self) -> tuple[Point, ...]:
        return tuple(point for point in self.points if point.value)


def row_name(position: int) -> str:
    """A, B, ... Z, AA, AB ...

    >>> [row_name(0), row_name(25), row_name(26)]
    ['A', 'Z', 'AA']
    """
    name = ""
    position += 1
    while position:
        position, digit = divmod(position - 1, 26)
        name = chr(ord("A") + digit) + name
    return name
