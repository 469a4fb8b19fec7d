"""Tables on disk; what servers captured and what came true."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

import numpy as np

from mlplatform.domain.bundle import Column
from mlplatform.domain.truth import BadLabel
from mlplatform.stats.batch import Array, Columns, dense, take
from mlplatform.stats.profile import Profile
from mlplatform.stats.spec import ReferenceSpec


class Tables(Protocol):
    """Tables on disk and the identity of their rows."""

    def read(self, path: Path) -> dict[str, Array]: ...
    def write(self, path: Path, columns: Columns) -> None: ...

    def row_digests(self, columns: Columns, inputs: Sequence[Column]) -> Array:
        """(n,) uint64 over the features only; equal rows give equal digests, whatever width their numbers have."""

    def times(self, values: Array) -> Array | None:
        """A column as datetime64[us] in UTC, NaT where it has none; None when it does not hold times."""


@dataclass(frozen=True)
class Observed:
    """Captured rows joined with what is known of their truth, oldest first."""

    ids: Array
    """Prediction ids, `<request uuid>/<row>`."""
    times: Array
    """datetime64[us], UTC: the event's time where the policy names a column, else the prediction's."""
    versions: Array
    columns: Columns
    predictions: Array
    scores: Array | None
    truth: Array
    """(n,) object, as the version that answered would say it; None where the label is not known."""
    labelled: Array
    """(n,) bool"""
    refused: Mapping[int, int] = field(default_factory=dict)
    """By version: rows with a label that does not fit, which count as not labelled. Of all rows that were asked for,
    whichever are taken of them."""

    @property
    def rows(self) -> int:
        return len(self.ids)

    def take(self, rows: Array) -> Observed:
        """Some of the rows (a mask or positions). Versions may answer in different shapes; one version's are dense."""
        predictions = dense(self.predictions[rows])
        return Observed(
            ids=self.ids[rows],
            times=self.times[rows],
            versions=self.versions[rows],
            columns=take(self.columns, rows),
            predictions=np.empty(0) if predictions is None else predictions,
            scores=None if self.scores is None else dense(self.scores[rows]),
            truth=self.truth[rows],
            labelled=self.labelled[rows],
            refused=self.refused,
        )


@dataclass(frozen=True)
class Ingested:
    blocks: int
    rows: int
    set_aside: int
    """Damaged blocks moved to `damaged/`."""
    expired: int = 0
    """Rows that went because they are too old or too many."""


@dataclass(frozen=True)
class Retention:
    """What of the captured rows stays; what goes, goes in groups of up to some 10,000 rows."""

    since: datetime | None = None
    """Rows that were predicted before go."""
    size_bytes: int | None = None
    """On disk; the oldest go first."""


EVERYTHING = Retention()


@dataclass(frozen=True)
class Profiling:
    """How rows that are taken in are summed up at once, so that a window is a sum later."""

    spec_of: Callable[[str, int], ReferenceSpec | None]
    """The cells of a model's version; None where it has none, and its rows are not summed up."""
    time: str | None = None
    """Column of the event's time, by which windows are cut; None: the prediction's."""
    step: timedelta = timedelta(hours=1)
    """Windows that begin and end at multiples of it since 1970 are sums; others need rows too."""


@dataclass(frozen=True)
class Corrected:
    """How many labels of a version's rows were replaced."""

    model: str
    version: int
    labels: int


@dataclass(frozen=True)
class Labelled:
    matched: int
    pending: int
    """Ids that no captured row has yet."""
    repeated: int
    conflicting: int = 0
    """Ids that already have another label; the first one stays."""
    empty: int = 0
    """Nulls, which say nothing."""
    refused: int = 0
    """Labels that are not joined: they cannot be true of their row, or no prediction has such an id."""
    unknown_class: int = 0
    """Labels that are not joined: classes that the version does not know."""
    replaced: int = 0
    """Ids that have this label now instead of another."""
    bad: tuple[BadLabel, ...] = ()
    """Of the labels that are not joined the first ones."""
    corrected: tuple[Corrected, ...] = ()
    """Replaced labels of rows that were captured."""


@dataclass(frozen=True)
class Correction:
    """Who replaces labels, and when."""

    actor: str
    at: datetime


@dataclass(frozen=True)
class KeptAside:
    """Labels that do not fit their rows, which have no other."""

    labels: int = 0
    examples: tuple[BadLabel, ...] = ()


class Observations(Protocol):
    """What the servers captured and what came true."""

    def ingest(
        self, endpoint: str, keep: Retention = EVERYTHING, profiling: Profiling | None = None
    ) -> Ingested:
        """Blocks into Parquet segments; a block is deleted only once its segment is safe. Then what need not be kept
        goes, with its labels."""

    def label(self, endpoint: str, ids: Array, truth: Array, replacing: Correction | None = None) -> Labelled:
        """Join labels with their rows; those that do not fit the version that answered are kept aside. With `replacing`
        other labels that the rows had go, and are kept with who replaced them."""

    def span(self, endpoint: str, time: str | None) -> tuple[datetime, datetime] | None:
        """Times of the oldest and the newest captured row."""

    def read(
        self,
        endpoint: str,
        start: datetime | None = None,
        end: datetime | None = None,
        time: str | None = None,
        labelled: bool = False,
        model: str = "",
        shadow: bool = False,
        columns: bool = True,
    ) -> Observed:
        """Rows with start <= time < end; `time` names the event time's column. `labelled`: only those with a truth.
        `model`: only its rows, where several models answer at the endpoint. `shadow`: only the answers of a shadow,
        which have the ids of those that were given; without it none of them. Without `columns`: only what was answered
        and what came true."""

    def profile(
        self,
        endpoint: str,
        spec: ReferenceSpec,
        version: int,
        start: datetime | None = None,
        end: datetime | None = None,
        time: str | None = None,
        model: str = "",
    ) -> Profile:
        """A version's rows of that time, none of them a shadow's, in the cells of `spec`: as `profile` sums them up,
        whether they were when they were taken in or not. Columns that no row of the model has then are left out, and
        what is more than one value a row."""

    def pending(self, endpoint: str) -> int: ...

    def aside(self, endpoint: str) -> KeptAside: ...

    def copied(self, endpoint: str, into: Path) -> Observations:
        """As it is now, in an empty folder on the same disk: what is ingested or labelled there stays there."""
