"""OpenTelemetry spans of requests, where `OTEL_EXPORTER_OTLP_ENDPOINT` names a collector.

The event loop decides whether a request is sampled and puts it into a bounded queue; a thread makes its spans and
sends them. A collector that is slow or gone costs spans, which are counted, never a request.

Imported only when tracing is on: the SDK and its exporter are 20 MB.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags, get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mlplatform.serving.calls import Request, Response
from mlplatform.serving.dataplane import Answer
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.requests import header, labels_of, route_of

QUEUED = 2048
"""Requests that wait for the thread; more are dropped and counted."""
BATCH = 512
"""Spans of one message to the collector."""
SEND_SECONDS = 1.0
STOP_SECONDS = 3.0
SAMPLED = TraceFlags(TraceFlags.SAMPLED)


class Step(NamedTuple):
    name: str
    started_at_ns: int
    ended_at_ns: int


class Finished(NamedTuple):
    """A sampled request, as the event loop leaves it to the thread."""

    trace_id: int
    parent: SpanContext | None
    trace_state: Any
    started_at_ns: int
    ended_at_ns: int
    name: str
    attributes: Mapping[str, Any]
    steps: tuple[Step, ...]
    failed: bool


class Tracer:
    """Belongs to an event loop, but for its thread."""

    def __init__(self, service: str, version: str, metrics: Metrics) -> None:
        os.environ.setdefault("OTEL_SERVICE_NAME", service)
        resource = Resource.create({"service.version": version, "process.pid": os.getpid()})
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._resource = resource
        self._sampler = provider.sampler  # as OTEL_TRACES_SAMPLER says
        self._exporter = OTLPSpanExporter()
        self._scope = InstrumentationScope("mlplatform.serving", version)
        self._propagator = TraceContextTextMapPropagator()
        self._ids = RandomIdGenerator()
        self._metrics = metrics
        self._queue: deque[Finished] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="traces", daemon=True)
        self._thread.start()

    def seen(self, request: Request, response: Response, answer: Answer) -> None:
        """Queue an answered request, if it is sampled."""
        context, parent = self._parent(request)
        trace_id = parent.trace_id if parent else self._ids.generate_trace_id()
        name = f"{request.method} {(route := route_of(request.path))}"
        result = self._sampler.should_sample(context, trace_id, name, SpanKind.SERVER)
        if result.decision is not Decision.RECORD_AND_SAMPLE:
            return
        if len(self._queue) >= QUEUED:
            self._metrics.dropped_traces += 1
            return
        epoch_ns = time.time_ns() - time.perf_counter_ns()
        self._queue.append(
            Finished(
                trace_id,
                parent,
                result.trace_state,
                epoch_ns + int((answer.arrived or answer.started) * 1e9),
                epoch_ns + time.perf_counter_ns(),
                name,
                _attributes(request, response, answer, route),
                _steps(answer, epoch_ns),
                response.status >= 500,
            )
        )

    def close(self) -> None:
        """Send what waits, for a few seconds at most."""
        self._stop.set()
        self._thread.join(STOP_SECONDS)

    def _parent(self, request: Request) -> tuple[Context | None, SpanContext | None]:
        if not (traceparent := header(request.headers, b"traceparent")):
            return None, None
        carrier = {"traceparent": traceparent.decode("latin-1")}
        if state := header(request.headers, b"tracestate"):
            carrier["tracestate"] = state.decode("latin-1")
        context = self._propagator.extract(carrier)
        parent = get_current_span(context).get_span_context()
        return (context, parent) if parent.is_valid else (None, None)

    # --- in the thread --------------------------------------------------------------------------------------

    def _work(self) -> None:
        while not self._stop.wait(SEND_SECONDS):
            self._send()
        self._send()
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    def _send(self) -> None:
        while self._queue:
            spans: list[ReadableSpan] = []
            requests = 0
            while self._queue and len(spans) < BATCH:
                spans += self._spans(self._queue.popleft())
                requests += 1
            if self._exporter.export(spans) is SpanExportResult.SUCCESS:
                self._metrics.exported_traces += requests
            else:
                self._metrics.dropped_traces += requests

    def _spans(self, done: Finished) -> list[ReadableSpan]:
        """The request's span and one for each step of it."""
        server = self._span(
            done,
            Step(done.name, done.started_at_ns, done.ended_at_ns),
            done.parent,
            kind=SpanKind.SERVER,
            attributes=done.attributes,
            status=Status(StatusCode.ERROR if done.failed else StatusCode.UNSET),
        )
        return [server, *(self._span(done, step, server.get_span_context()) for step in done.steps)]

    def _span(self, done: Finished, step: Step, parent: SpanContext | None, **more: Any) -> ReadableSpan:
        context = SpanContext(done.trace_id, self._ids.generate_span_id(), False, SAMPLED, done.trace_state)
        return ReadableSpan(
            step.name,
            context,
            parent,
            self._resource,
            start_time=step.started_at_ns,
            end_time=step.ended_at_ns,
            instrumentation_scope=self._scope,
            **more,
        )


def _steps(answer: Answer, epoch_ns: int) -> tuple[Step, ...]:
    """What a request went through; it may wait twice, for the loop and for its model. Steps below a microsecond
    are left out."""
    decoded, began = answer.decoded or answer.ended, answer.began or answer.ended
    answered = answer.answered or answer.ended
    times = (
        ("queue", answer.arrived or answer.started, answer.started),
        ("decode", answer.started, decoded),
        ("queue", decoded, began),
        ("predict", began, answered),
        ("encode", answered, answer.ended),
    )
    return tuple(
        Step(name, epoch_ns + int(start * 1e9), epoch_ns + int(end * 1e9))
        for name, start, end in times
        if end - start > 1e-6
    )


def _attributes(request: Request, response: Response, answer: Answer, route: str) -> dict[str, Any]:
    """As OpenTelemetry's conventions for HTTP servers name them; nothing of what was sent."""
    attributes: dict[str, Any] = {
        "http.request.method": request.method,
        "http.route": route,
        "http.response.status_code": response.status,
        "url.path": route,
        "url.scheme": "https" if request.tls else "http",
        "mlplatform.request_id": answer.request_id,
        **{f"mlplatform.{name}": value for name, value in labels_of(request, answer).items()},
    }
    if response.status >= 500:
        attributes["error.type"] = str(response.status)
    return attributes
