"""`GET /metrics`: the counters of all workers as Prometheus text 0.0.4, or as OpenMetrics 1.0 where a scraper asks.

`FAMILIES` is every metric there is; docs/operations.md has it as a table.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

from mlplatform.serving.metrics import BUCKETS_S, ROW_BUCKETS, Total
from mlplatform.serving.processes import Process

TEXT = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = b"application/openmetrics-text; version=1.0.0; charset=utf-8"
DROPPED = ("disk", "error", "full", "slow")
"""Why a row was not captured."""
ARM = ("model", "version", "arm")


class Family(NamedTuple):
    kind: str
    labels: tuple[str, ...]
    help: str


FAMILIES: dict[str, Family] = {
    "mlplatform_requests_total": Family(
        "counter", (*ARM, "protocol", "status"), "Requests for a prediction, by what answered and its status."
    ),
    "mlplatform_request_duration_seconds": Family(
        "histogram", (*ARM, "protocol"), "From the read body to the written answer."
    ),
    "mlplatform_predict_duration_seconds": Family(
        "histogram", ARM, "One call of the model, for all the requests that it answers together."
    ),
    "mlplatform_batch_rows": Family("histogram", ARM, "Rows of one call of the model."),
    "mlplatform_requests_in_flight": Family(
        "gauge", (), "Requests that wait for a batch, a thread or their model."
    ),
    "mlplatform_queued_requests": Family(
        "gauge", ARM, "Requests that wait until a thread calls their model."
    ),
    "mlplatform_captured_rows_total": Family("counter", (), "Rows written to capture blocks."),
    "mlplatform_dropped_rows_total": Family(
        "counter", ("reason",), "Rows that could not be captured, by reason."
    ),
    "mlplatform_dropped_values_total": Family(
        "counter", ("reason",), "Tensors and bytes that captured rows go without, by reason."
    ),
    "mlplatform_labels_total": Family("counter", (), "Labels received."),
    "mlplatform_shadow_rows_total": Family(
        "counter", ("model", "version", "outcome"), "Rows that a shadow was asked for, by what came of it."
    ),
    "mlplatform_swaps_total": Family("counter", (), "Routes documents put into effect, once a worker."),
    "mlplatform_swap_failures_total": Family(
        "counter", (), "Routes documents that could not be put into effect, once a worker."
    ),
    "mlplatform_routes_generation": Family(
        "gauge", (), "Generation of the routes document in effect, the lowest of all workers."
    ),
    "mlplatform_routes_rejected_generation": Family(
        "gauge", (), "Generation of a newer document that a worker could not put into effect; 0 for none."
    ),
    "mlplatform_workers_behind": Family(
        "gauge", (), "Workers that could not put the newest routes document into effect, readable or not."
    ),
    "mlplatform_route_share_ratio": Family(
        "gauge", ARM, "Share of its model's requests that an arm is given."
    ),
    "mlplatform_models_asleep": Family(
        "gauge", (), "Models that are loaded once somebody asks for them, the highest number of all workers."
    ),
    "mlplatform_model_failing": Family(
        "gauge",
        ("model",),
        "1 for a model that a worker could not load, or whose newer part is not in effect.",
    ),
    "mlplatform_model_loads_total": Family("counter", (), "Models loaded because somebody asked for them."),
    "mlplatform_model_load_failures_total": Family(
        "counter", (), "Models that did not load when somebody asked for them."
    ),
    "mlplatform_model_evictions_total": Family("counter", (), "Models put to sleep to make room for others."),
    "mlplatform_models": Family("gauge", (), "Models in service, the lowest number of all workers."),
    "mlplatform_bundle_workers": Family(
        "gauge", ("model", "version"), "Workers that have loaded a version, in service or warm."
    ),
    "mlplatform_bundle_size_bytes": Family(
        "gauge", ("model", "version"), "Size of a loaded version's files."
    ),
    "mlplatform_workers": Family("gauge", (), "Workers that should run."),
    "mlplatform_workers_running": Family("gauge", (), "Workers that run and have loaded what they are told."),
    "mlplatform_worker_restarts_total": Family("counter", (), "Workers that ended and were started again."),
    "mlplatform_disk_free_bytes": Family("gauge", (), "Free space where captured requests are written."),
    "mlplatform_disk_size_bytes": Family(
        "gauge", (), "Size of the disk that captured requests are written to."
    ),
    "mlplatform_dropped_log_lines_total": Family(
        "counter",
        (),
        "Lines that did not reach the log: too many of a kind in a second, or it is not writable.",
    ),
    "mlplatform_traces_total": Family(
        "counter",
        ("outcome",),
        "Sampled requests whose spans the collector took, or that were dropped as it is behind or gone.",
    ),
    "mlplatform_build_info": Family("gauge", ("version", "python"), "The server's program; always 1."),
    "process_cpu_seconds_total": Family("counter", ("worker",), "User and system CPU time of a worker."),
    "process_resident_memory_bytes": Family("gauge", ("worker",), "Resident memory of a worker."),
    "process_start_time_seconds": Family("gauge", ("worker",), "When a worker started, since 1970 UTC."),
    "process_open_fds": Family("gauge", ("worker",), "Open file descriptors of a worker."),
    "process_max_fds": Family("gauge", ("worker",), "Most file descriptors a worker may open."),
}


class Host(NamedTuple):
    """What the scraped worker sees of the machine."""

    processes: dict[str, Process]
    """By number of the worker; the one that starts workers is `parent`."""
    disk_free_bytes: int
    disk_size_bytes: int
    version: str
    python: str


class Sample(NamedTuple):
    values: Sequence[str]
    """Of the labels."""
    value: float
    """Of a histogram the sum."""
    buckets: Sequence[tuple[object, int]] = ()
    """Upper bounds and cumulated counts."""


def exposition(total: Total, host: Host, openmetrics: bool = False) -> bytes:
    """Every family, those too that have no sample yet."""
    found = {**_counted(total), **_seen(total), **_host(host)}
    lines: list[str] = []
    for name, family in FAMILIES.items():
        shown, kind = name, family.kind
        if openmetrics:
            shown = name.removesuffix("_total") if kind == "counter" else name
            if name == "mlplatform_build_info":
                shown, kind = name.removesuffix("_info"), "info"
        lines += [f"# HELP {shown} {family.help}", f"# TYPE {shown} {kind}"]
        for sample in found[name]:
            lines += _lines(name, family.labels, sample)
    if openmetrics:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode()


def wants_openmetrics(accept: bytes) -> bool:
    """Whether an Accept header names OpenMetrics 1.0 (Prometheus prefers it)."""
    return b"application/openmetrics-text" in accept and b"version=1.0.0" in accept


def _counted(total: Total) -> dict[str, Iterable[Sample]]:
    counters = total.counters
    series, calls = counters.all_series(), counters.all_calls()
    dropped = {**dict.fromkeys(DROPPED, 0), **counters.dropped_rows}
    spans = {"dropped": counters.dropped_traces, "exported": counters.exported_traces}
    return {
        "mlplatform_requests_total": [
            Sample((*s.label, str(status)), count)
            for s in series
            for status, count in sorted(s.statuses.items())
        ],
        "mlplatform_request_duration_seconds": _histograms(
            (s.label, BUCKETS_S, s.durations.fold()) for s in series
        ),
        "mlplatform_predict_duration_seconds": _histograms(
            (c.label, BUCKETS_S, c.seconds.fold()) for c in calls
        ),
        "mlplatform_batch_rows": _histograms((c.label, ROW_BUCKETS, c.rows()) for c in calls),
        "mlplatform_captured_rows_total": _one(counters.captured_rows),
        "mlplatform_dropped_rows_total": _by_label(dropped),
        "mlplatform_dropped_values_total": _by_label({"large": 0, **counters.dropped_values}),
        "mlplatform_labels_total": _one(counters.labels),
        "mlplatform_shadow_rows_total": [Sample(key, n) for key, n in sorted(counters.shadows.items())],
        "mlplatform_swaps_total": _one(counters.swaps),
        "mlplatform_swap_failures_total": _one(counters.swap_failures),
        "mlplatform_dropped_log_lines_total": _one(counters.dropped_log_lines),
        "mlplatform_traces_total": _by_label(spans),
        "mlplatform_model_loads_total": _one(counters.model_loads),
        "mlplatform_model_load_failures_total": _one(counters.model_load_failures),
        "mlplatform_model_evictions_total": _one(counters.model_evictions),
        "mlplatform_worker_restarts_total": _one(total.restarts),
        "mlplatform_workers": _one(total.workers),
    }


def _seen(total: Total) -> dict[str, Iterable[Sample]]:
    now = total.now
    shares: dict[tuple[str, ...], float] = {}
    queued: Counter[tuple[str, ...]] = Counter()
    for *arm, share, waiting in (arm for one in now for arm in one.get("arms", ())):
        shares[tuple(arm)] = share
        queued[tuple(arm)] += waiting
    loaded: Counter[tuple[str, str]] = Counter()
    sizes: dict[tuple[str, str], int] = {}
    for model, version, size_bytes in (bundle for one in now for bundle in one.get("bundles", ())):
        loaded[model, version] += 1
        sizes[model, version] = size_bytes
    failing = {model for one in now for model in one.get("failing", ())}
    return {
        "mlplatform_requests_in_flight": _one(sum(one.get("in_flight", 0) for one in now)),
        "mlplatform_queued_requests": [Sample(key, n) for key, n in sorted(queued.items())],
        "mlplatform_routes_generation": _one(min((one["generation"] for one in now), default=0)),
        "mlplatform_routes_rejected_generation": _one(
            max((one.get("rejected") or 0 for one in now), default=0)
        ),
        "mlplatform_workers_behind": _one(sum(one.get("behind", False) for one in now)),
        "mlplatform_route_share_ratio": [Sample(key, share) for key, share in sorted(shares.items())],
        "mlplatform_models_asleep": _one(max((len(one.get("asleep", ())) for one in now), default=0)),
        "mlplatform_model_failing": [Sample((model,), 1) for model in sorted(failing)],
        "mlplatform_models": _one(min((one.get("models", 0) for one in now), default=0)),
        "mlplatform_bundle_workers": [Sample(key, n) for key, n in sorted(loaded.items())],
        "mlplatform_bundle_size_bytes": [Sample(key, n) for key, n in sorted(sizes.items())],
        "mlplatform_workers_running": _one(len(now)),
    }


def _host(host: Host) -> dict[str, Iterable[Sample]]:
    found = sorted(host.processes.items())
    return {
        "mlplatform_disk_free_bytes": _one(host.disk_free_bytes),
        "mlplatform_disk_size_bytes": _one(host.disk_size_bytes),
        "mlplatform_build_info": [Sample((host.version, host.python), 1)],
        "process_cpu_seconds_total": [Sample((name,), p.cpu_s) for name, p in found],
        "process_resident_memory_bytes": [Sample((name,), p.resident_bytes) for name, p in found],
        "process_start_time_seconds": [Sample((name,), p.started_at_s) for name, p in found],
        "process_open_fds": [Sample((name,), p.open_files) for name, p in found],
        "process_max_fds": [Sample((name,), p.max_files) for name, p in found],
    }


def _one(value: float) -> list[Sample]:
    return [Sample((), value)]


def _by_label(values: dict[str, int]) -> list[Sample]:
    return [Sample((label,), value) for label, value in sorted(values.items())]


def _histograms(
    found: Iterable[tuple[Sequence[str], Sequence[float], tuple[list[int], float]]],
) -> Iterator[Sample]:
    """Of those that nothing was counted in there is none."""
    for values, bounds, (buckets, total) in found:
        if any(buckets):
            yield Sample(values, total, tuple(zip((*bounds, "+Inf"), accumulate(buckets), strict=True)))


def _lines(name: str, names: Sequence[str], sample: Sample) -> Iterator[str]:
    labels = ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, sample.values, strict=True))
    shown = f"{{{labels}}}" if labels else ""
    if not sample.buckets:
        yield f"{name}{shown} {sample.value}"
        return
    for bound, count in sample.buckets:
        yield f'{name}_bucket{{{labels},le="{bound}"}} {count}'
    yield f"{name}_sum{shown} {sample.value}"
    yield f"{name}_count{shown} {sample.buckets[-1][1]}"


def _escape(value: Any) -> str:
    return str(value).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
