"""Spans, as a collector gets them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from mlplatform.serving import traces
from mlplatform.serving.calls import Request, Response
from mlplatform.serving.dataplane import Answer
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.traces import Tracer
from tests.collector import Collector, attributes, running_collector

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OPTIONS = (
    "OTEL_SERVICE_NAME",
    "OTEL_TRACES_SAMPLER",
    "OTEL_TRACES_SAMPLER_ARG",
    "OTEL_EXPORTER_OTLP_TIMEOUT",
)
Open = Callable[..., Tracer]


@pytest.fixture
def collector() -> Iterator[Collector]:
    with running_collector() as collector:
        yield collector


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def opened(collector: Collector, metrics: Metrics, monkeypatch: pytest.MonkeyPatch) -> Open:
    for name in OPTIONS:
        monkeypatch.setenv(name, "")  # so that what the tracer sets is taken back
        monkeypatch.delenv(name)

    def open_tracer(endpoint: str = collector.url, **options: str) -> Tracer:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        for name, value in options.items():
            monkeypatch.setenv(name, value)
        return Tracer("churn", "1.2.3", metrics)

    return open_tracer


def ask(tracer: Tracer, status: int = 200, flags: str = "", times: int = 1) -> None:
    """Requests that took 1 ms to arrive, 2 to decode, 3 to wait, 4 to predict, 5 to encode."""
    for _ in range(times):
        answer = Answer("01890a5d-ac96-774b-bcce-b302099a8057", "v2", time.perf_counter() - 0.014)
        answer.arrived = answer.started - 0.001
        answer.decoded, answer.began = answer.started + 0.002, answer.started + 0.005
        answer.answered, answer.ended = answer.started + 0.009, answer.started + 0.014
        headers = [(b"traceparent", f"00-{TRACE}-{PARENT}-{flags}".encode())] if flags else []
        request = Request("POST", "/v2/models/churn/infer", b"card=4111", headers, b"4111")
        tracer.seen(request, Response(status, [], b"{}"), answer)


def test_a_request_is_a_server_span_with_its_steps_below(
    collector: Collector, opened: Open, metrics: Metrics
) -> None:
    tracer = opened()
    ask(tracer)
    tracer.close()
    (span,) = collector.of_kind_server()
    assert span.name == "POST /v2/models/{model}/infer"
    assert attributes(span) == {
        "http.request.method": "POST",
        "http.route": "/v2/models/{model}/infer",
        "http.response.status_code": 200,
        "url.path": "/v2/models/{model}/infer",
        "url.scheme": "http",
        "mlplatform.request_id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "mlplatform.protocol": "v2",
    }
    steps = collector.children(span)
    took_ms = [(s.name, round((s.end_time_unix_nano - s.start_time_unix_nano) / 1e6)) for s in steps]
    assert took_ms == [("queue", 1), ("decode", 2), ("queue", 3), ("predict", 4), ("encode", 5)]
    assert steps[0].start_time_unix_nano == span.start_time_unix_nano
    assert steps[-1].end_time_unix_nano <= span.end_time_unix_nano
    assert {s.trace_id for s in steps} == {span.trace_id}
    assert abs(span.end_time_unix_nano - time.time_ns()) < 60e9
    assert span.parent_span_id == b""
    assert collector.paths == {"/v1/traces"}
    assert collector.resources[0]["service.name"] == "churn"
    assert (metrics.exported_traces, metrics.dropped_traces) == (1, 0)


def test_a_trace_that_the_client_began_goes_on(collector: Collector, opened: Open) -> None:
    tracer = opened()
    ask(tracer, flags="01")
    ask(tracer, flags="00")  # whoever began it does not sample it
    ask(tracer, flags="zz")  # none that is right: a trace of its own
    tracer.close()
    first, second = collector.of_kind_server()
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == (TRACE, PARENT)
    assert second.trace_id.hex() != TRACE
    assert second.parent_span_id == b""


def test_a_failed_request_is_an_error(collector: Collector, opened: Open) -> None:
    tracer = opened()
    ask(tracer, status=500)
    ask(tracer, status=400)
    tracer.close()
    failed, refused = collector.of_kind_server()
    assert (failed.status.code, attributes(failed)["error.type"]) == (2, "500")
    assert refused.status.code == 0


@pytest.mark.parametrize(
    ("sampler", "argument", "low", "high"),
    [("always_off", "", 0, 0), ("traceidratio", "0.25", 50, 160), ("parentbased_always_on", "", 400, 400)],
)
def test_sampled_is_as_the_variables_say(
    collector: Collector, opened: Open, sampler: str, argument: str, low: int, high: int
) -> None:
    tracer = opened(OTEL_TRACES_SAMPLER=sampler, OTEL_TRACES_SAMPLER_ARG=argument)
    ask(tracer, times=400)
    tracer.close()
    assert low <= len(collector.of_kind_server()) <= high


def test_a_service_that_the_variables_name_is_called_so(collector: Collector, opened: Open) -> None:
    tracer = opened(OTEL_SERVICE_NAME="scoring")
    ask(tracer)
    tracer.close()
    assert collector.resources[0]["service.name"] == "scoring"


def test_what_does_not_fit_or_cannot_be_sent_is_dropped_and_counted(
    collector: Collector, opened: Open, metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(traces, "QUEUED", 10)
    monkeypatch.setattr(traces, "SEND_SECONDS", 60.0)
    tracer = opened()
    ask(tracer, times=15)
    assert metrics.dropped_traces == 5
    collector.status = 400
    tracer.close()
    assert (metrics.exported_traces, metrics.dropped_traces) == (0, 15)


def test_a_collector_that_is_gone_holds_nothing_up(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces, "STOP_SECONDS", 0.2)
    tracer = opened(endpoint="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1")
    start = time.monotonic()
    ask(tracer, times=100)
    assert time.monotonic() - start < 0.5
    tracer.close()
    assert time.monotonic() - start < 2
