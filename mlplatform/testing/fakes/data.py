"""Observations in memory. They keep the promises of the real ones, and nothing on disk."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.counts import SHADOW
from mlplatform.errors import UnknownName, UsageError
from mlplatform.ports.data import EVERYTHING, Ingested, Labelled, Observed, Profiling, Retention
from mlplatform.stats.batch import Array
from mlplatform.stats.profile import Profile, profile
from mlplatform.stats.spec import ReferenceSpec, is_null
from mlplatform.stats.uneven import Uneven
from mlplatform.testing.fakes.tables import as_stored, as_us, objects, us


@dataclass(frozen=True)
class _Row:
    id: str
    time_us: int
    model: str
    arm: str
    version: int
    columns: Mapping[str, Any]
    prediction: Any
    scores: Array | None


@dataclass
class _Endpoint:
    blocks: list[Mapping[str, Array]] = field(default_factory=list)
    rows: list[_Row] = field(default_factory=list)
    labels: dict[str, Any] = field(default_factory=dict)
    inbox: list[tuple[str, Any]] = field(default_factory=list)


@dataclass
class FakeObservations:
    """Port `Observations`. `capture` and `post` stand for the server: a block of rows, labels by HTTP."""

    endpoints: dict[str, _Endpoint] = field(default_factory=dict)

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
        rows = [row for block in place.blocks for row in _rows(block)]
        blocks = len(place.blocks)
        place.rows.extend(rows)
        place.blocks.clear()
        posted = list(place.inbox)
        place.inbox.clear()
        if posted:
            self.label(endpoint, np.array([i for i, _ in posted], object), objects([t for _, t in posted]))
        return Ingested(blocks, len(rows), 0, _expire(place, keep.since))

    def label(self, endpoint: str, ids: Array, truth: Array) -> Labelled:
        if len(ids) != len(truth):
            raise UsageError(what=f"{len(ids)} ids but {len(truth)} labels")
        place = self._at(endpoint)
        there = {row.id for row in place.rows}
        counts = {"matched": 0, "pending": 0, "repeated": 0, "conflicting": 0}
        for name, label in zip(ids.tolist(), truth.tolist(), strict=True):
            if is_null(label):
                continue
            if name in place.labels:
                known = _key(place.labels[name]) == _key(label)
                counts["repeated" if known else "conflicting"] += 1
                continue
            place.labels[name] = label
            counts["matched" if name in there else "pending"] += 1
        return Labelled(**counts)

    def span(self, endpoint: str, time: str | None) -> tuple[datetime, datetime] | None:
        times = self.read(endpoint, time=time).times
        return (_moment(times[0]), _moment(times[-1])) if len(times) else None

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
        _check_time(place.rows, time)
        low = -np.inf if start is None else us(start)
        high = np.inf if end is None else us(end)
        chosen = [(_event_us(row, time), row) for row in place.rows]
        chosen = [(us, row) for us, row in chosen if low <= us < high and model in ("", row.model)]
        chosen = [(us, row) for us, row in chosen if (row.arm == SHADOW) == shadow]
        if labelled:
            chosen = [(us, row) for us, row in chosen if row.id in place.labels]
        chosen.sort(key=lambda pair: pair[0])
        seen = _observed(chosen, place.labels)
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

    def pending(self, endpoint: str) -> int:
        place = self._at(endpoint)
        return len(place.labels.keys() - {row.id for row in place.rows})

    def copied(self, endpoint: str, into: Path) -> FakeObservations:
        return FakeObservations(copy.deepcopy(self.endpoints))

    def _at(self, endpoint: str) -> _Endpoint:
        return self.endpoints.setdefault(endpoint, _Endpoint())


# ---- helpers


def _expire(place: _Endpoint, since: datetime | None) -> int:
    old = {row.id for row in place.rows if since is not None and row.time_us < us(since)}
    place.rows = [row for row in place.rows if row.id not in old]
    place.labels = {name: label for name, label in place.labels.items() if name not in old}
    return len(old)


def _rows(block: Mapping[str, Array]) -> Iterator[_Row]:
    columns: dict[str, Array] = {}
    block = _with_uneven(block)
    for prefix in ("ctx:", "in:"):
        for key in (key for key in block if key.startswith(prefix)):
            columns[key.removeprefix(prefix)] = block[key]
    for i in range(len(block["request"])):
        values = {name: array[i] for name, array in columns.items()}
        values = {name: _gap(block.get(f"null:{name}"), i, value) for name, value in values.items()}
        scores = block["scores"][i] if "scores" in block else None
        request = bytes(block["request"][i]).decode()
        name = f"{request}/{int(block['row'][i])}"
        model, version = str(block["model"][i]), int(block["version"][i])
        arm = str(block["arm"][i]) if "arm" in block else ""
        yield _Row(
            name, int(block["time_us"][i]), model, arm, version, values, block["prediction"][i], scores
        )


def _with_uneven(block: Mapping[str, Array]) -> dict[str, Array]:
    """Bytes, and tensors of any length, one object a row."""
    out = {name: values for name, values in block.items() if not name.startswith("flat:")}
    for name in (key.removeprefix("flat:") for key in block if key.startswith("flat:")):
        ends = out.pop(f"ends:{name}")
        gaps = out.pop(f"null:{name}", np.zeros(len(ends), bool))
        rows = Uneven(block[f"flat:{name}"], ends, gaps, out.pop(f"shape:{name}", None)).rows()
        out[f"in:{name}"] = rows
    return out


def _gap(mask: Array | None, i: int, value: Any) -> Any:
    if mask is None or not mask[i]:
        return value
    return np.nan if isinstance(value, np.number | np.bool_) else None


def _observed(chosen: Sequence[tuple[int, _Row]], labels: Mapping[str, Any]) -> Observed:
    rows = [row for _, row in chosen]
    names = list(dict.fromkeys(name for row in rows for name in row.columns))
    given = [row.scores for row in rows if row.scores is not None]
    return Observed(
        ids=np.array([row.id for row in rows], object),
        times=np.array([us for us, _ in chosen], np.int64).astype("datetime64[us]"),
        versions=np.array([row.version for row in rows], np.int32),
        columns={name: as_stored(_column([row.columns.get(name) for row in rows])) for name in names},
        predictions=_stacked([row.prediction for row in rows]),
        scores=_stacked([row.scores for row in rows]) if given else None,
        truth=objects([labels.get(row.id) for row in rows]),
        labelled=np.array([row.id in labels for row in rows], np.bool_),
    )


def _column(values: Sequence[Any]) -> Array:
    """Tensors of one shape as one array."""
    bulk = [isinstance(value, np.ndarray | bytes) for value in values]
    if not any(bulk):
        return np.array(values)
    shapes = {np.shape(value) if isinstance(value, np.ndarray) else None for value in values}
    return np.stack(values) if len(shapes) == 1 and None not in shapes else objects(values)


def _stacked(values: Sequence[Any]) -> Array:
    if len({np.shape(value) for value in values}) > 1 or any(value is None for value in values):
        return objects(values)
    return as_stored(np.array(values)) if values else np.empty(0, object)


def _is_plain(values: Array) -> bool:
    """One value a row, no tensor and no bytes."""
    return values.ndim == 1 and not any(isinstance(value, np.ndarray | bytes) for value in values.tolist())


def _check_time(rows: Sequence[_Row], time: str | None) -> None:
    if not time or not rows:
        return
    values = [row.columns[time] for row in rows if time in row.columns]
    if not values:
        raise UnknownName("captured column", time, {name for row in rows for name in row.columns})
    if all(as_us(value) is None for value in values):
        raise UsageError(what=f"the captured column {time!r} does not hold times")


def _event_us(row: _Row, time: str | None) -> int:
    us = as_us(row.columns.get(time)) if time else None
    return row.time_us if us is None else us


def _moment(value: np.datetime64) -> datetime:
    naive: datetime = value.astype("datetime64[us]").item()
    return naive.replace(tzinfo=UTC)


def _key(label: Any) -> str:
    if isinstance(label, bool):
        return str(int(label))
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)
