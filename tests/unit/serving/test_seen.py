"""What is told of single requests, and what is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlplatform.serving import logs
from mlplatform.serving.calls import Request, Response
from mlplatform.serving.dataplane import Answer, as_problem
from mlplatform.serving.requests import route_of, trace_id
from mlplatform.serving.seen import Seen, traced

SECRET = "4111-1111"
TRACE = b"0af7651916cd43dd8448eb211c80319c"


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> logs.Log:
    log = logs.Log()
    log.style = "json"
    monkeypatch.setattr(logs, "_log", log)
    return log


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def request(path: str = "/invocations") -> Request:
    headers = [
        (b"authorization", f"Bearer {SECRET}".encode()),
        (b"traceparent", b"00-" + TRACE + b"-b7ad6b7169203331-01"),
    ]
    body = json.dumps({"inputs": [[SECRET]]}).encode()
    return Request("POST", path, f"card={SECRET}".encode(), headers, body, "192.0.2.7")


def answer(status: int, latency_us: int = 1500) -> Answer:
    answer = Answer("01890a5d-ac96-774b-bcce-b302099a8057", "mlflow", 0.0)
    answer.status, answer.latency_us = status, latency_us
    if status >= 500:
        answer.failure = logs.failure(as_problem(ValueError(f"could not convert {SECRET}")))
    return answer


def test_a_failed_request_is_told_with_its_id_and_cause_and_nothing_of_what_was_sent(
    capfd: pytest.CaptureFixture[str],
) -> None:
    seen = Seen()
    assert not seen.every
    seen(request(), Response(500, [], b"{}"), answer(500))
    (line,) = lines(capfd)
    assert line["event.action"] == "request-failed"
    assert line["log.level"] == "error"
    assert line["http.request.id"] == "01890a5d-ac96-774b-bcce-b302099a8057"
    assert line["http.response.status_code"] == 500
    assert line["error.type"] == "ValueError"
    assert line["event.duration"] == 1_500_000
    assert line["trace.id"] == TRACE.decode()
    assert line["labels.protocol"] == "mlflow"
    assert SECRET not in json.dumps(line)


def test_a_slow_request_is_told_and_others_are_not(capfd: pytest.CaptureFixture[str]) -> None:
    seen = Seen(slow_us=1000)
    seen(request(), Response(200, [], b"{}"), answer(200, 999))
    seen(request(), Response(400, [], b"{}"), answer(400, 999))
    seen(request(), Response(200, [], b"{}"), answer(200, 1001))
    (line,) = lines(capfd)
    assert line["event.action"] == "slow-request"
    assert line["event.outcome"] == "success"


def test_access_lines_are_of_every_request_where_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    seen = Seen(access=True)
    assert seen.every
    seen(request("/ping"), Response(200, [], b"\n"))
    seen(request(f"/v2/models/{SECRET}/infer"), Response(404, [], b"{}"), answer(404))
    seen(request(f"/{SECRET}"), Response(404, [], b"{}"))
    logs.flush()
    found = lines(capfd)
    assert [line["url.path"] for line in found] == ["/ping", "/v2/models/{model}/infer", "-"]
    assert [line["event.action"] for line in found] == ["request"] * 3
    assert found[0]["client.address"] == "192.0.2.7"
    assert found[0]["http.response.body.bytes"] == 1
    assert SECRET not in json.dumps(found)


def test_paths_are_told_by_their_pattern() -> None:
    assert route_of("/v2/models/churn") == "/v2/models/{model}"
    assert route_of("/v2/models/churn/ready") == "/v2/models/{model}/ready"
    assert route_of("/v2/models/churn/versions/3/infer") == "/v2/models/{model}/versions/{version}/infer"
    assert route_of("/models/churn/invocations") == "/models/{model}/invocations"
    assert route_of("/metrics") == "/metrics"
    assert route_of("/v2/models/churn/nope") == "-"
    assert route_of("/etc/passwd") == "-"


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"00-abc",
        b"00-" + b"0" * 32 + b"-b7ad6b7169203331-01",
        b"00-" + b"G" * 32 + b"-" + b"1" * 16 + b"-01",
    ],
)
def test_a_traceparent_that_is_none_has_no_id(value: bytes) -> None:
    assert trace_id([(b"traceparent", value)]) == ""


@pytest.mark.parametrize(
    ("environment", "asked"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_traces_are_on_where_a_collector_is_named(environment: dict[str, str], asked: bool) -> None:
    assert traced(environment) is asked
