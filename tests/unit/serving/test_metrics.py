"""Prometheus text, read by Prometheus' own parser."""

from __future__ import annotations

import json
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families as parse

from mlplatform.serving.metrics import Metrics, exposition, total


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    found = {}
    for family in parse(exposition(metrics).decode()):
        assert family.documentation
        assert family.type in ("counter", "gauge", "histogram")
        for sample in family.samples:
            found[(sample.name, *sorted(sample.labels.values()))] = sample.value
    return found


def busy() -> Metrics:
    metrics = Metrics()
    series = metrics.series("digits", "2", "live", "v2")
    for seconds in (0.00005, 0.0004, 0.3, 99.0):
        series.count(200, seconds)
    series.count(400, 0.001)
    series.count(500, 0.001)
    metrics.series(protocol="v2").count(503, 0.001)
    metrics.captured_rows = 4
    metrics.drop("full", 3)
    metrics.generation, metrics.swap_failures = 7, 2
    return metrics


def test_counters_and_labels_read_as_prometheus_does() -> None:
    found = samples(busy())
    assert found[("mlplatform_requests_total", "2", "200", "digits", "live", "v2")] == 4
    assert found[("mlplatform_requests_total", "2", "500", "digits", "live", "v2")] == 1
    assert found[("mlplatform_requests_total", "", "", "", "503", "v2")] == 1
    assert found[("mlplatform_captured_rows_total",)] == 4
    assert found[("mlplatform_dropped_rows_total", "full")] == 3
    assert found[("mlplatform_dropped_rows_total", "disk")] == 0
    assert found[("mlplatform_routes_generation",)] == 7
    assert found[("mlplatform_swap_failures_total",)] == 2


def test_the_histogram_is_cumulative_and_complete() -> None:
    found = samples(busy())
    name = "mlplatform_request_duration_seconds"
    assert found[(f"{name}_bucket", "0.0001", "2", "digits", "live", "v2")] == 1
    assert found[(f"{name}_bucket", "0.0005", "2", "digits", "live", "v2")] == 2
    assert found[(f"{name}_bucket", "+Inf", "2", "digits", "live", "v2")] == 6
    assert found[(f"{name}_count", "2", "digits", "live", "v2")] == 6
    assert 99.3 < found[(f"{name}_sum", "2", "digits", "live", "v2")] < 99.4


def test_names_with_quotes_and_newlines_are_escaped() -> None:
    metrics = Metrics()
    metrics.series('we"ird\\na\nme', "1", "live").count(200, 0.1)
    (family,) = [f for f in parse(exposition(metrics).decode()) if f.name == "mlplatform_requests"]
    assert family.samples[0].labels["model"] == 'we"ird\\na\nme'


def test_the_counters_of_all_workers_are_added_and_damaged_files_left_out(tmp_path: Path) -> None:
    (tmp_path / "1.metrics").write_text(json.dumps(busy().to_dict()))
    (tmp_path / "2.metrics").write_text('{"series": ')
    (tmp_path / "3.metrics").write_text("{}")
    found = samples(total(busy(), sorted(tmp_path.glob("*.metrics"))))
    assert found[("mlplatform_requests_total", "2", "200", "digits", "live", "v2")] == 8
    assert found[("mlplatform_dropped_rows_total", "full")] == 6
    assert found[("mlplatform_routes_generation",)] == 7


def test_answered_and_failed_are_counted_per_version_over_all_arms() -> None:
    metrics = busy()
    metrics.series("digits", "2", "canary").count(200, 0.1)
    assert metrics.counts() == {"digits@2": 5, "digits@2:failed": 1}
