"""Prometheus text, read by Prometheus' own parsers."""

from __future__ import annotations

import json
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from mlplatform.domain.counts import Counted
from mlplatform.serving.exposition import FAMILIES, Host, exposition, wants_openmetrics
from mlplatform.serving.metrics import BUCKETS_S, PARENT_FILE, Ended, Histogram, Metrics, Total, total
from mlplatform.serving.processes import Process

HOST = Host({"0": Process(1.5e9, 2.5, 90_000_000, 12, 1024)}, 10**9, 10**10, "1.2.3", "3.11.2")
ARM = ("2", "digits", "live")
"""Values of labels come sorted below."""


def samples(found: Total) -> dict[tuple[str, ...], float]:
    values = {}
    for family in parse(exposition(found, HOST).decode()):
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            values[(sample.name, *sorted(sample.labels.values()))] = sample.value
    return values


def alone(metrics: Metrics) -> Total:
    return total(metrics.to_dict(), [])


def busy(worker: str = "0") -> Metrics:
    metrics = Metrics()
    metrics.worker = worker
    series = metrics.series("digits", "2", "live", "v2")
    for seconds in (0.00005, 0.0004, 0.3, 99.0):
        series.count(200, seconds)
    series.count(400, 0.001)
    series.count(500, 0.001)
    metrics.series(protocol="v2").count(503, 0.001)
    metrics.calls("digits", "2", "live").count(3, 0.0002)
    metrics.captured_rows = 4
    metrics.drop("full", 3)
    metrics.shadow("digits", "3", "disagree", 2)
    metrics.generation, metrics.swap_failures = 7, 2
    arms, bundles = [["digits", "2", "live", 1.0, 3]], [["digits", "2", 1000]]
    metrics.look = lambda: {
        "rejected": 8,
        "behind": True,
        "arms": arms,
        "bundles": bundles,
        "models": 1,
        "in_flight": 5,
    }
    return metrics


def test_counters_and_labels_read_as_prometheus_does() -> None:
    found = samples(alone(busy()))
    assert found[("mlplatform_requests_total", "2", "200", "digits", "live", "v2")] == 4
    assert found[("mlplatform_requests_total", "2", "500", "digits", "live", "v2")] == 1
    assert found[("mlplatform_requests_total", "", "", "", "503", "v2")] == 1
    assert found[("mlplatform_captured_rows_total",)] == 4
    assert found[("mlplatform_dropped_rows_total", "full")] == 3
    assert found[("mlplatform_dropped_rows_total", "disk")] == 0
    assert found[("mlplatform_shadow_rows_total", "3", "digits", "disagree")] == 2
    assert found[("mlplatform_routes_generation",)] == 7
    assert found[("mlplatform_swap_failures_total",)] == 2


def test_what_is_so_now_and_the_machine_are_gauges() -> None:
    found = samples(alone(busy()))
    assert found[("mlplatform_routes_rejected_generation",)] == 8
    assert found[("mlplatform_workers_behind",)] == 1
    assert found[("mlplatform_route_share_ratio", *ARM)] == 1
    assert found[("mlplatform_bundle_workers", "2", "digits")] == 1
    assert found[("mlplatform_bundle_size_bytes", "2", "digits")] == 1000
    assert found[("mlplatform_requests_in_flight",)] == 5
    assert found[("mlplatform_queued_requests", *ARM)] == 3
    assert found[("mlplatform_models",)] == 1
    assert found[("mlplatform_disk_free_bytes",)] == 1e9
    assert found[("process_resident_memory_bytes", "0")] == 9e7
    assert found[("process_cpu_seconds_total", "0")] == 2.5
    assert found[("mlplatform_build_info", "1.2.3", "3.11.2")] == 1


def test_histograms_are_cumulative_and_complete() -> None:
    found = samples(alone(busy()))
    name = "mlplatform_request_duration_seconds"
    assert found[(f"{name}_bucket", "0.0001", *ARM, "v2")] == 1
    assert found[(f"{name}_bucket", "0.0005", *ARM, "v2")] == 2
    assert found[(f"{name}_bucket", "+Inf", *ARM, "v2")] == 6
    assert found[(f"{name}_count", *ARM, "v2")] == 6
    assert 99.3 < found[(f"{name}_sum", *ARM, "v2")] < 99.4
    assert found[("mlplatform_predict_duration_seconds_bucket", "0.00025", *ARM)] == 1
    assert found[("mlplatform_batch_rows_sum", *ARM)] == 3
    assert found[("mlplatform_batch_rows_bucket", "2", "2.0", "digits", "live")] == 0


def test_a_value_on_a_bound_is_in_its_bucket_as_prometheus_defines_it() -> None:
    histogram = Histogram(BUCKETS_S)
    histogram.add(0.0001)
    histogram.add(0.00011)
    assert histogram.fold()[0][:3] == [1, 1, 0]
    assert histogram.fold()[0][:3] == [1, 1, 0]


def test_openmetrics_is_what_its_parser_takes() -> None:
    text = exposition(alone(busy()), HOST, openmetrics=True).decode()
    families = {family.name: family for family in parse_openmetrics(text)}
    assert {f"{name}_total" if f.type == "counter" else name for name, f in families.items()} == {
        name.removesuffix("_info") for name in FAMILIES
    }
    assert families["mlplatform_build"].type == "info"
    assert families["mlplatform_requests"].samples[0].name == "mlplatform_requests_total"


def test_openmetrics_is_given_to_those_who_ask_for_it() -> None:
    prometheus = (
        b"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
        b"text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
    )
    assert wants_openmetrics(prometheus)
    assert not wants_openmetrics(b"*/*")
    assert not wants_openmetrics(b"text/plain;version=1.0.0")


def test_names_with_quotes_and_newlines_are_escaped() -> None:
    metrics = Metrics()
    metrics.series('we"ird\\na\nme', "1", "live").count(200, 0.1)
    text = exposition(alone(metrics), HOST).decode()
    (family,) = [f for f in parse(text) if f.name == "mlplatform_requests"]
    assert family.samples[0].labels["model"] == 'we"ird\\na\nme'


def test_the_counters_of_all_workers_are_added_and_damaged_files_left_out(tmp_path: Path) -> None:
    (tmp_path / "1.metrics").write_text(json.dumps(busy("1").to_dict()))
    (tmp_path / "2.metrics").write_text('{"series": ')
    (tmp_path / "3.metrics").write_text("{}")
    found = samples(total(busy().to_dict(), sorted(tmp_path.glob("*.metrics"))))
    assert found[("mlplatform_requests_total", "2", "200", "digits", "live", "v2")] == 8
    assert found[("mlplatform_batch_rows_count", *ARM)] == 2
    assert found[("mlplatform_dropped_rows_total", "full")] == 6
    assert found[("mlplatform_routes_generation",)] == 7
    assert found[("mlplatform_requests_in_flight",)] == 10
    assert found[("mlplatform_bundle_workers", "2", "digits")] == 2
    assert found[("mlplatform_bundle_size_bytes", "2", "digits")] == 1000
    assert found[("mlplatform_workers_running",)] == 2


def test_a_worker_that_lags_behind_is_seen(tmp_path: Path) -> None:
    behind = busy("1")
    behind.generation = 6
    behind.look = dict
    (tmp_path / "1.metrics").write_text(json.dumps(behind.to_dict()))
    found = samples(total(busy().to_dict(), tmp_path.glob("*.metrics")))
    assert found[("mlplatform_routes_generation",)] == 6
    assert found[("mlplatform_models",)] == 0


def test_no_counter_falls_and_none_counts_twice_when_workers_end(tmp_path: Path) -> None:
    files = tmp_path / "workers"
    ended = Ended(tmp_path, workers=2)
    key = ("mlplatform_requests_total", "2", "200", "digits", "live", "v2")
    for restarts in (1, 2, 3):
        file = files / f"{restarts}.metrics"
        content = json.dumps(busy().to_dict())
        file.write_text(content)
        before = samples(total(busy().to_dict(), files.glob("*.metrics")))
        ended.take(restarts)
        assert not file.exists()
        now = samples(total(busy().to_dict(), files.glob("*.metrics")))
        assert now[key] == before[key] == 4 + restarts * 4
        assert now[("mlplatform_worker_restarts_total",)] == restarts
        assert now[("mlplatform_workers",)] == 2
        file.write_text(content)  # as a scrape sees it between the parent's writing and removing
        assert samples(total(busy().to_dict(), files.glob("*.metrics")))[key] == now[key]
        file.unlink()
    assert [path.name for path in files.iterdir()] == [PARENT_FILE]


def test_answered_and_failed_are_counted_per_version_over_all_arms() -> None:
    metrics = busy()
    metrics.series("digits", "2", "canary").count(200, 0.1)
    assert metrics.counts() == {"digits@2": 5, "digits@2:failed": 1}


def test_the_control_plane_reads_what_a_version_answered_failed_and_refused(tmp_path: Path) -> None:
    metrics = Metrics()
    for arm in ("live", "shadow"):
        for status in (200, 200, 400, 422, 429, 500, 504):
            metrics.series("digits", "2", arm, "v2").count(status, 0.001)
    metrics.series(protocol="v2").count(401, 0.001)  # before a version was chosen
    Ended(tmp_path, workers=1)
    parent = json.loads((tmp_path / "workers" / PARENT_FILE).read_text())
    found = Counted.read([json.loads(json.dumps(metrics.to_dict())), parent])
    for counts in (found.of("digits", 2), found.of_shadow("digits", 2)):
        assert (counts.answered, counts.refused, counts.failed, counts.asked) == (2, 2, 3, 7)
    assert found.server == parent["id"]
    Ended(tmp_path, workers=1)
    again = json.loads((tmp_path / "workers" / PARENT_FILE).read_text())
    assert Counted.read([again]).server not in ("", found.server)
