"""Counters of one worker, and their sum over all workers as Prometheus text.

Connections are spread over workers by the kernel, so a scrape reaches any of them: each writes its counters
to `workers/<pid>.metrics` about once a second, and the one that is asked adds the others' files to its own.
The files of workers that ended stay until the server ends, so that no counter falls.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterable
from pathlib import Path
from typing import Any

BUCKETS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class Series:
    """One (model, version, arm, protocol): requests by status, and how long they took."""

    __slots__ = ("buckets", "label", "statuses", "sum_s")

    def __init__(self, model: str, version: str, arm: str, protocol: str) -> None:
        self.label = (model, version, arm, protocol)
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def count(self, status: int, seconds: float) -> None:
        statuses = self.statuses
        statuses[status] = statuses.get(status, 0) + 1
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds

    @property
    def answered(self) -> int:
        return sum(n for status, n in self.statuses.items() if status < 400)

    @property
    def failed(self) -> int:
        return sum(n for status, n in self.statuses.items() if status >= 500)


class Metrics:
    """Every counter of one worker."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str, str], Series] = {}
        self.captured_rows = 0
        self.dropped_rows: dict[str, int] = {}
        self.swaps = 0
        self.swap_failures = 0
        self.generation = 0
        self.labels = 0

    def series(self, model: str = "", version: str = "", arm: str = "", protocol: str = "") -> Series:
        """The counters of one arm and protocol; those of requests that reached no model have neither model nor arm."""
        key = (model, version, arm, protocol)
        if key not in self._series:
            self._series[key] = Series(*key)
        return self._series[key]

    def drop(self, reason: str, rows: int) -> None:
        self.dropped_rows[reason] = self.dropped_rows.get(reason, 0) + rows

    def counts(self) -> dict[str, int]:
        """Per `<model>@<version>` answered and failed requests, over all arms and
        protocols."""
        out: dict[str, int] = {}
        for (model, version, *_), series in self._series.items():
            if model:
                name = f"{model}@{version}"
                out[name] = out.get(name, 0) + series.answered
                if series.failed:
                    out[f"{name}:failed"] = out.get(f"{name}:failed", 0) + series.failed
        return out

    def to_dict(self) -> dict[str, Any]:
        return {
            "series": [
                {
                    "label": s.label,
                    "statuses": list(s.statuses.items()),
                    "buckets": list(s.buckets),
                    "sum_s": s.sum_s,
                }
                for s in self._series.values()
            ],
            "captured_rows": self.captured_rows,
            "dropped_rows": self.dropped_rows,
            "swaps": self.swaps,
            "swap_failures": self.swap_failures,
            "generation": self.generation,
            "labels": self.labels,
        }

    def add(self, other: dict[str, Any]) -> None:
        """Add another worker's counters; the generation of all is the lowest that one of them serves."""
        for theirs in other["series"]:
            ours = self.series(*theirs["label"])
            for status, count in theirs["statuses"]:
                ours.statuses[status] = ours.statuses.get(status, 0) + count
            ours.buckets = [a + b for a, b in zip(ours.buckets, theirs["buckets"], strict=True)]
            ours.sum_s += theirs["sum_s"]
        for reason, rows in other["dropped_rows"].items():
            self.drop(reason, rows)
        for name in ("captured_rows", "swaps", "swap_failures", "labels"):
            setattr(self, name, getattr(self, name) + other[name])


def total(own: Metrics, files: Iterable[Path]) -> Metrics:
    """A worker's own counters and those in the others' files. A file that is just being replaced is left
    out."""
    out = Metrics()
    out.generation = own.generation
    out.add(own.to_dict())
    for path in files:
        try:
            out.add(json.loads(path.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return out


def exposition(metrics: Metrics) -> bytes:
    """Prometheus text format 0.0.4."""
    lines: list[str] = []
    series = sorted(metrics._series.values(), key=lambda s: s.label)
    _head(
        lines,
        "mlplatform_requests_total",
        "counter",
        "Requests for a prediction, by what answered and its status.",
    )
    for s in series:
        for status, count in sorted(s.statuses.items()):
            lines.append(f'mlplatform_requests_total{{{_labels(s)},status="{status}"}} {count}')
    _head(
        lines, "mlplatform_request_duration_seconds", "histogram", "From the read body to the written answer."
    )
    for s in series:
        _histogram(lines, s)
    _head(lines, "mlplatform_captured_rows_total", "counter", "Rows written to capture blocks.")
    lines.append(f"mlplatform_captured_rows_total {metrics.captured_rows}")
    _head(lines, "mlplatform_dropped_rows_total", "counter", "Rows that could not be captured, by reason.")
    for reason in sorted({"full", "disk", "slow", *metrics.dropped_rows}):
        dropped = metrics.dropped_rows.get(reason, 0)
        lines.append(f'mlplatform_dropped_rows_total{{reason="{reason}"}} {dropped}')
    _head(lines, "mlplatform_labels_total", "counter", "Labels received.")
    lines.append(f"mlplatform_labels_total {metrics.labels}")
    _head(lines, "mlplatform_swaps_total", "counter", "Routes documents put into effect.")
    lines.append(f"mlplatform_swaps_total {metrics.swaps}")
    _head(
        lines,
        "mlplatform_swap_failures_total",
        "counter",
        "Routes documents that could not be put into effect.",
    )
    lines.append(f"mlplatform_swap_failures_total {metrics.swap_failures}")
    _head(lines, "mlplatform_routes_generation", "gauge", "Generation of the routes document in effect here.")
    lines.append(f"mlplatform_routes_generation {metrics.generation}")
    return ("\n".join(lines) + "\n").encode()


def _head(lines: list[str], name: str, kind: str, text: str) -> None:
    lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _histogram(lines: list[str], series: Series) -> None:
    name, labels, seen = "mlplatform_request_duration_seconds", _labels(series), 0
    for bound, count in zip((*BUCKETS_S, "+Inf"), series.buckets, strict=True):
        seen += count
        lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {seen}')
    lines += [f"{name}_sum{{{labels}}} {series.sum_s}", f"{name}_count{{{labels}}} {seen}"]


def _labels(series: Series) -> str:
    names = zip(("model", "version", "arm", "protocol"), series.label, strict=True)
    return ",".join(f'{name}="{_escape(value)}"' for name, value in names)


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
