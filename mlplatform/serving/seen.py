"""What is told of single requests: always of those that failed or were slow, of each where access lines or traces are
on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from mlplatform.serving import logs
from mlplatform.serving.calls import Request, Response
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.requests import labels_of, route_of, trace_id

if TYPE_CHECKING:
    from mlplatform.serving.dataplane import Answer
    from mlplatform.serving.traces import Tracer

SLOW_US = 1_000_000
"""A request that takes longer gets a line."""


class Seen:
    """Called by the app once a request is answered; where not `every`, only for one that failed or was slow."""

    def __init__(self, access: bool = False, tracer: Tracer | None = None, slow_us: int = SLOW_US) -> None:
        self.every = access or tracer is not None
        self._access = access
        self._tracer = tracer
        self._slow_us = slow_us

    def __call__(
        self,
        request: Request,
        response: Response,
        answer: Answer | None = None,
        problem: Exception | None = None,
    ) -> None:
        """`answer`, where predictions were asked for; `problem`, where a page failed."""
        latency_us = answer.latency_us if answer else 0
        if response.status >= 500:
            why = logs.failure(problem) if problem else (answer and answer.failure) or {}
            fields = {**_fields(request, response, answer), **why}
            logs.limited("request-failed", _line(request, response, answer), "error", fields)
        elif latency_us > self._slow_us:
            fields = _fields(request, response, answer)
            logs.limited("slow-request", f"{_line(request, response, answer)}: slow", "warning", fields)
        if self._access:
            fields = _fields(request, response, answer) | {"client.address": request.client}
            logs.access(_line(request, response, answer), fields)
        if self._tracer is not None and answer is not None:
            self._tracer.seen(request, response, answer)

    def close(self) -> None:
        """Send spans that wait; takes a few seconds where the collector is gone."""
        if self._tracer is not None:
            self._tracer.close()


def traced(environment: Mapping[str, str]) -> bool:
    """Whether OpenTelemetry's variables ask for traces."""
    named = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporter = environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() or "otlp"
    return any(environment.get(name) for name in named) and not off and exporter == "otlp"


def tracer(service: str, version: Callable[[], str], metrics: Metrics) -> Tracer | None:
    """None where no traces are asked for, or the SDK is not there."""
    if not traced(os.environ):
        return None
    try:
        from mlplatform.serving.traces import Tracer
    except ImportError as error:
        said = "traces are asked for, and OpenTelemetry is not installed: pip install 'mlplatform[traces]'"
        logs.event("traces-off", said, "error", **logs.failure(error))
        return None
    return Tracer(service, version(), metrics)


def _line(request: Request, response: Response, answer: Answer | None) -> str:
    line = f"{request.method} {route_of(request.path)} {response.status}"
    if answer is None:
        return line
    by = f" by {answer.arm.name}" if answer.arm else ""
    return f"{line}{by} in {answer.latency_us / 1000:.1f} ms, request {answer.request_id}"


def _fields(request: Request, response: Response, answer: Answer | None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "event.outcome": "success" if response.status < 400 else "failure",
        "http.request.method": request.method,
        "http.request.body.bytes": len(request.body),
        "http.response.status_code": response.status,
        "http.response.body.bytes": len(response.body),
        "url.path": route_of(request.path),
    }
    if trace := trace_id(request.headers):
        fields["trace.id"] = trace
    if answer is not None:
        fields |= {"http.request.id": answer.request_id, "event.duration": answer.latency_us * 1000}
        fields |= {f"labels.{name}": value for name, value in labels_of(request, answer).items()}
    return fields
