"""Counters of one worker, and their sum over all workers of a server.

Connections are spread over workers by the kernel, so a scrape reaches any of them: each writes its counters
to `workers/<pid>.metrics` about once a second, and the one that is asked adds the others' files to its own.
The parent adds up what ended workers had counted (`workers/parent.metrics`), so that no counter falls when
one dies. `exposition` writes the sum as text.
"""

from __future__ import annotations

import json
import os
import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mlplatform.domain.counts import BUCKETS_S as BUCKETS_S
from mlplatform.domain.counts import SHADOW
from mlplatform.serving.files import write_atomically

ROW_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0)
COUNTS = (
    "captured_rows",
    "swaps",
    "swap_failures",
    "model_loads",
    "model_load_failures",
    "model_evictions",
    "labels",
    "dropped_log_lines",
    "dropped_traces",
    "exported_traces",
)
"""Counters without a label, by attribute."""
PARENT_FILE = "parent.metrics"


class Histogram:
    """Values by bucket. To `add` one costs an append; buckets are filled when somebody looks."""

    __slots__ = ("_buckets", "_fresh", "_sum", "add", "bounds")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self._fresh = array("d")
        self.add: Callable[[float], None] = self._fresh.append
        self._buckets = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def fold(self) -> tuple[list[int], float]:
        """How many values fell into each bucket (the last is above all bounds), and their sum. Values may be added
        meanwhile, by any thread; only one folds."""
        if fresh := self._fresh[:]:
            import numpy as np  # the parent of the workers, which only merges, does without

            del self._fresh[: len(fresh)]
            places = np.searchsorted(self.bounds, fresh, side="left")
            counts = np.bincount(places, minlength=len(self._buckets)).tolist()
            self._buckets = [a + b for a, b in zip(self._buckets, counts, strict=True)]
            self._sum += float(np.sum(fresh))
        return self._buckets, self._sum

    def merge(self, buckets: Iterable[int], total: float) -> None:
        ours, _ = self.fold()
        self._buckets = [a + b for a, b in zip(ours, buckets, strict=True)]
        self._sum += total


class Series:
    """One (model, version, arm, protocol): requests by status, and how long they took."""

    __slots__ = ("_add", "_others", "durations", "label")

    def __init__(self, model: str, version: str, arm: str, protocol: str) -> None:
        self.label = (model, version, arm, protocol)
        self.durations = Histogram(BUCKETS_S)
        self._add = self.durations.add
        self._others: dict[int, int] = {}

    def count(self, status: int, seconds: float) -> None:
        self._add(seconds)
        if status != 200:
            self._others[status] = self._others.get(status, 0) + 1

    @property
    def statuses(self) -> dict[int, int]:
        buckets, _ = self.durations.fold()
        fine = sum(buckets) - sum(self._others.values())
        return {**({200: fine} if fine else {}), **self._others}

    @property
    def answered(self) -> int:
        return sum(n for status, n in self.statuses.items() if status < 400)

    @property
    def failed(self) -> int:
        return sum(n for status, n in self._others.items() if status >= 500)

    def merge(self, theirs: Mapping[str, Any]) -> None:
        for status, count in theirs["statuses"]:
            if status != 200:
                self._others[status] = self._others.get(status, 0) + count
        self.durations.merge(theirs["buckets"], theirs["sum_s"])


class ModelCalls:
    """One (model, version, arm): how often the model was called, for how many rows, and how long that took. A
    batch of several requests is one call."""

    __slots__ = ("_add_rows", "_add_seconds", "_many", "label", "seconds")

    def __init__(self, model: str, version: str, arm: str) -> None:
        self.label = (model, version, arm)
        self.seconds, self._many = Histogram(BUCKETS_S), Histogram(ROW_BUCKETS)
        self._add_seconds, self._add_rows = self.seconds.add, self._many.add

    def count(self, rows: int, seconds: float) -> None:
        self._add_seconds(seconds)
        if rows != 1:
            self._add_rows(rows)

    def rows(self) -> tuple[list[int], float]:
        """As `Histogram.fold`; calls for one row are those that nothing else is known of."""
        buckets, total = self._many.fold()
        ones = sum(self.seconds.fold()[0]) - sum(buckets)
        return [buckets[0] + ones, *buckets[1:]], total + ones

    def merge(self, theirs: Mapping[str, Any]) -> None:
        (buckets, total), (_, *many) = theirs["rows"], theirs["rows"][0]
        self.seconds.merge(*theirs["seconds"])
        self._many.merge([0, *many], total - buckets[0])


class Metrics:
    """Every counter of one worker."""

    def __init__(self) -> None:
        self.id = f"{os.getpid()}-{time.time_ns()}"
        self.worker = "0"
        """Its number among the workers of the server; a worker that is started again keeps it."""
        self._series: dict[tuple[str, str, str, str], Series] = {}
        self._calls: dict[tuple[str, str, str], ModelCalls] = {}
        self.captured_rows = 0
        self.dropped_rows: dict[str, int] = {}
        self.dropped_values: dict[str, int] = {}
        self.shadows: dict[tuple[str, str, str], int] = {}
        self.swaps = 0
        self.swap_failures = 0
        self.model_loads = 0
        self.model_load_failures = 0
        self.model_evictions = 0
        self.generation = 0
        self.labels = 0
        self.dropped_log_lines = 0
        self.dropped_traces = 0
        self.exported_traces = 0
        self.look: Callable[[], dict[str, Any]] = dict
        """What is so now, in this worker; see `gauges`."""

    def series(self, model: str = "", version: str = "", arm: str = "", protocol: str = "") -> Series:
        """The counters of one arm and protocol; those of requests that reached no model have neither model nor arm."""
        key = (model, version, arm, protocol)
        if key not in self._series:
            self._series[key] = Series(*key)
        return self._series[key]

    def calls(self, model: str, version: str, arm: str) -> ModelCalls:
        """The counters of one arm's model."""
        key = (model, version, arm)
        if key not in self._calls:
            self._calls[key] = ModelCalls(*key)
        return self._calls[key]

    def drop(self, reason: str, rows: int) -> None:
        self.dropped_rows[reason] = self.dropped_rows.get(reason, 0) + rows

    def drop_values(self, reason: str, values: int) -> None:
        """Values that are missing in rows that were captured."""
        self.dropped_values[reason] = self.dropped_values.get(reason, 0) + values

    def drop_log_line(self) -> None:
        self.dropped_log_lines += 1

    def shadow(self, model: str, version: str, outcome: str, rows: int = 1) -> None:
        """Rows that a shadow answered too (`agree`, `disagree`), could not answer (`failed`) or was not asked for
        because it is behind (`skipped`)."""
        key = (model, version, outcome)
        self.shadows[key] = self.shadows.get(key, 0) + rows

    def counts(self) -> dict[str, int]:
        """Per `<model>@<version>` answered and failed requests, over all protocols and all arms
        but the shadow's, whose answers nobody gets."""
        out: dict[str, int] = {}
        for (model, version, arm, _), series in self._series.items():
            if model and arm != SHADOW:
                name = f"{model}@{version}"
                out[name] = out.get(name, 0) + series.answered
                if series.failed:
                    out[f"{name}:failed"] = out.get(f"{name}:failed", 0) + series.failed
        return out

    def all_series(self) -> list[Series]:
        return sorted(self._series.values(), key=lambda s: s.label)

    def all_calls(self) -> list[ModelCalls]:
        return sorted(self._calls.values(), key=lambda c: c.label)

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "series": [_series(series) for series in self._series.values()],
            "calls": [
                {"label": c.label, "seconds": c.seconds.fold(), "rows": c.rows()}
                for c in self._calls.values()
            ],
            "dropped_rows": dict(self.dropped_rows),
            "dropped_values": dict(self.dropped_values),
            "shadows": [[*key, rows] for key, rows in self.shadows.items()],
            **{name: getattr(self, name) for name in COUNTS},
            "now": {"worker": self.worker, "generation": self.generation, **self.look()},
        }

    def add(self, other: Mapping[str, Any]) -> None:
        """Add another worker's counters."""
        for theirs in other["series"]:
            self.series(*theirs["label"]).merge(theirs)
        for theirs in other["calls"]:
            self.calls(*theirs["label"]).merge(theirs)
        for reason, rows in other["dropped_rows"].items():
            self.drop(reason, rows)
        for reason, values in other["dropped_values"].items():
            self.drop_values(reason, values)
        for model, version, outcome, rows in other["shadows"]:
            self.shadow(model, version, outcome, rows)
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + other[name])


def _series(series: Series) -> dict[str, Any]:
    statuses = list(series.statuses.items())
    buckets, sum_s = series.durations.fold()
    return {"label": series.label, "statuses": statuses, "buckets": buckets, "sum_s": sum_s}


class Total:
    """What the workers of a server counted, those too that have ended, and what is so now in each that runs."""

    def __init__(self) -> None:
        self.counters = Metrics()
        self.now: list[dict[str, Any]] = []
        """One a worker: its number, the generation it serves, and what `Metrics.look` saw."""
        self.restarts = 0
        self.workers = 1
        """As many should run."""


def total(own: Mapping[str, Any], files: Iterable[Path]) -> Total:
    """A worker's own counters and those in the others' files. A file that is just being replaced is left
    out."""
    out = Total()
    _take(out, own)
    parent: Path | None = None
    found: dict[str, dict[str, Any]] = {}
    for path in files:
        if path.name == PARENT_FILE:
            parent = path
        elif document := _read(path):
            found[str(document["id"])] = document
    # Last: a worker's file goes only after the parent has added it to its own.
    if parent is not None and (kept := _read(parent)):
        out.counters.add(kept)
        out.restarts, out.workers = kept["restarts"], kept["workers"]
        for taken in kept["taken"]:
            found.pop(taken, None)
    for document in found.values():
        _take(out, document)
    out.now.sort(key=lambda now: int(now["worker"]))
    return out


def _take(out: Total, document: Mapping[str, Any]) -> None:
    out.counters.add(document)
    out.now.append(document["now"])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) and "id" in document else None


class Ended:
    """What workers that have ended had counted, kept by the parent for those that run."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder = folder / "workers"
        self._counters = Metrics()
        self._workers = workers
        self._restarts = 0
        self._dropped_lines = 0
        self._left: dict[str, Path] = {}
        self._write()

    def resize(self, workers: int) -> None:
        """So many should run from now on."""
        self._workers = workers
        self._write()

    def count_dropped(self, lines: int) -> None:
        """So many lines of all processes did not reach the log so far."""
        if lines != self._dropped_lines:
            self._counters.dropped_log_lines += lines - self._dropped_lines
            self._dropped_lines = lines
            self._write()

    def take(self, pid: int, died: bool = True) -> None:
        """Add the worker's file to ours, then remove it; on a full disk it stays until the next. A restart is counted
        where it `died`: one that was replaced did its work."""
        self._restarts += died
        file = self._folder / f"{pid}.metrics"
        if (document := _read(file)) is not None:
            self._counters.add(document)
            self._left[document["id"]] = file
        self._write()

    def _write(self) -> None:
        document = {**self._counters.to_dict(), "restarts": self._restarts, "workers": self._workers}
        document["taken"] = list(self._left)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self._folder / PARENT_FILE, json.dumps(document).encode())
            for file in self._left.values():
                file.unlink(missing_ok=True)
            self._left.clear()
        except OSError:
            return
