"""Observations in memory. They keep the promises of the real ones, and nothing on disk."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.counts import SHADOW
from mlplatform.domain.joining import SHOWN_MISTAKES, Place, sort_labels
from mlplatform.domain.truth import BadLabel, Misfit, Rules, anything
from mlplatform.errors import UsageError
from mlplatform.ports.data import (
    EVERYTHING,
    Corrected,
    Correction,
    Ingested,
    KeptAside,
    Labelled,
    Observed,
    Profiling,
    Retention,
)
from mlplatform.stats.batch import Array
from mlplatform.stats.given import read_given
from mlplatform.stats.profile import Profile, profile
from mlplatform.stats.spec import ReferenceSpec
from mlplatform.testing.fakes.rows import Row, check_time, event_us, moment, observed, rows_of
from mlplatform.testing.fakes.tables import objects, us

EXAMPLES = 5


@dataclass
class _Endpoint:
    blocks: list[Mapping[str, Array]] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)
    inbox: list[tuple[str, Any]] = field(default_factory=list)
    aside: dict[str, tuple[Any, Place]] = field(default_factory=dict)
    earlier: list[tuple[str, Any, Any, Correction]] = field(default_factory=list)
    """Labels that were replaced: id, old, new, by whom."""

    @property
    def places(self) -> dict[str, Place]:
        """Of a row that a shadow answered too the place of the answer that was given."""
        ordered = sorted(self.rows, key=lambda row: row.arm != SHADOW)
        return {row.id: (row.model, row.version) for row in ordered}


@dataclass
class FakeObservations:
    """Port `Observations`. `capture` and `post` stand for the server: a block of rows, labels by HTTP."""

    endpoints: dict[str, _Endpoint] = field(default_factory=dict)
    rules: Rules = anything

    def capture(self, endpoint: str, block: Mapping[str, Array]) -> None:
        """A block in the form that servers write (`mlplatform.serving.capture.recorder`)."""
        self._at(endpoint).blocks.append(block)

    def post(self, endpoint: str, ids: Sequence[str], truth: Sequence[Any]) -> None:
        self._at(endpoint).inbox.extend(zip(ids, truth, strict=True))

    def ingest(
        self, endpoint: str, keep: Retention = EVERYTHING, profiling: Profiling | None = None
    ) -> Ingested:
        """What is in memory takes no space and need not be summed up: of `keep` only age counts."""
        place = self._at(endpoint)
        rows = [row for block in place.blocks for row in rows_of(block)]
        blocks = len(place.blocks)
        place.rows.extend(rows)
        place.blocks.clear()
        self._arrived(place, {row.id for row in rows})
        posted = list(place.inbox)
        place.inbox.clear()
        if posted:
            self.label(endpoint, np.array([i for i, _ in posted], object), objects([t for _, t in posted]))
        return Ingested(blocks, len(rows), 0, _expire(place, keep.since))

    def label(self, endpoint: str, ids: Array, truth: Array, replacing: Correction | None = None) -> Labelled:
        if len(ids) != len(truth):
            raise UsageError(what=f"{len(ids)} ids but {len(truth)} labels")
        place, given = self._at(endpoint), read_given(ids, truth)
        found = sort_labels(given.labels, place.places, place.labels, self.rules, replacing is not None)
        place.labels |= found.joined
        place.aside = {n: kept for n, kept in (place.aside | found.aside).items() if n not in found.matched}
        if replacing is not None:
            joined = found.joined
            place.earlier += [(name, old, joined[name], replacing) for name, old in found.outdated.items()]
        counts = found.counts
        return Labelled(
            counts["matched"],
            counts["pending"],
            counts["repeated"],
            counts["conflicting"],
            given.empty,
            counts["refused"] + given.refused,
            counts["unknown_class"],
            counts["replaced"],
            tuple(sorted([*given.bad, *found.bad], key=lambda one: one.row)[:SHOWN_MISTAKES]),
            tuple(Corrected(*place, count) for place, count in sorted(found.corrected.items())),
        )

    def span(self, endpoint: str, time: str | None) -> tuple[datetime, datetime] | None:
        times = self.read(endpoint, time=time).times
        return (moment(times[0]), moment(times[-1])) if len(times) else None

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
        place = self._at(endpoint)
        check_time(place.rows, time)
        low = -np.inf if start is None else us(start)
        high = np.inf if end is None else us(end)
        chosen = [(event_us(row, time), row) for row in place.rows]
        chosen = [(at, row) for at, row in chosen if low <= at < high and model in ("", row.model)]
        chosen = [(at, row) for at, row in chosen if (row.arm == SHADOW) == shadow]
        truth, refused = self._truth(place, [row for _, row in chosen])
        if labelled:
            chosen = [(at, row) for at, row in chosen if row.id in truth]
        chosen.sort(key=lambda pair: pair[0])
        seen = replace(observed(chosen, truth), refused=refused)
        return seen if columns else replace(seen, columns={})

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
        seen = self.read(endpoint, start, end, time, model=model)
        mine = seen.take(seen.versions == version)
        columns = {name: values for name, values in mine.columns.items() if name in spec.columns}
        columns = {name: values for name, values in columns.items() if _is_plain(values)}
        cells = ReferenceSpec({name: column for name, column in spec.columns.items() if name in columns})
        return Profile(mine.rows, profile(cells, columns).columns)

    def _truth(self, place: _Endpoint, rows: Sequence[Row]) -> tuple[dict[str, Any], dict[int, int]]:
        """Labels as their rules read them, and how many do not fit, by version."""
        truth, refused = dict[str, Any](), Counter[int](row.version for row in rows if row.id in place.aside)
        for row in (row for row in rows if row.id in place.labels):
            rule, label = self.rules(row.model, row.version), place.labels[row.id]
            read = rule.read(label) if rule else label
            if isinstance(read, Misfit):
                refused[row.version] += 1
            else:
                truth[row.id] = read
        return truth, dict(refused)

    def pending(self, endpoint: str) -> int:
        place = self._at(endpoint)
        return len(place.labels.keys() - {row.id for row in place.rows})

    def copied(self, endpoint: str, into: Path) -> FakeObservations:
        return FakeObservations(copy.deepcopy(self.endpoints), self.rules)

    def aside(self, endpoint: str) -> KeptAside:
        place, examples = self._at(endpoint), []
        for name, (label, at) in sorted(place.aside.items())[:EXAMPLES]:
            rule = self.rules(*at)
            read = rule.read(label) if rule else label
            examples.append(
                BadLabel.of(0, name, label, read.expected if isinstance(read, Misfit) else "nothing else")
            )
        return KeptAside(len(place.aside), tuple(examples))

    def _arrived(self, place: _Endpoint, new: set[str]) -> None:
        """Labels that waited for rows meet their rule, and those that were kept aside meet it again."""
        waiting = {name: place.labels.pop(name) for name in new & place.labels.keys()}
        given = waiting | {name: label for name, (label, _) in place.aside.items()}
        found = sort_labels([(0, n, label) for n, label in given.items()], place.places, {}, self.rules)
        place.labels |= found.matched
        place.aside = found.aside

    def _at(self, endpoint: str) -> _Endpoint:
        return self.endpoints.setdefault(endpoint, _Endpoint())


# ---- helpers


def _expire(place: _Endpoint, since: datetime | None) -> int:
    old = {row.id for row in place.rows if since is not None and row.time_us < us(since)}
    place.rows = [row for row in place.rows if row.id not in old]
    place.labels = {name: label for name, label in place.labels.items() if name not in old}
    place.aside = {name: kept for name, kept in place.aside.items() if name not in old}
    return len(old)


def _is_plain(values: Array) -> bool:
    """One value a row, no tensor and no bytes."""
    return values.ndim == 1 and not any(isinstance(value, np.ndarray | bytes) for value in values.tolist())
