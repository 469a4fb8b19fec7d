"""One worker's answers: requests that a transport brought, to pages and the data plane and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from mlplatform.domain.limits import RequestLimits
from mlplatform.serving import logs, scrape
from mlplatform.serving.access import DETAILED, Access
from mlplatform.serving.bodies import essence_of
from mlplatform.serving.calls import Call, Eventually, Header, Request, Response
from mlplatform.serving.capture.recorder import FLUSH_SECONDS
from mlplatform.serving.dataplane import Answer, DataPlane, Later, as_problem
from mlplatform.serving.exposition import OPENMETRICS, TEXT, wants_openmetrics
from mlplatform.serving.inflight import InFlight
from mlplatform.serving.models.routes import StatusFile
from mlplatform.serving.pages import JSON, Page, Pages
from mlplatform.serving.paths import Place, find, protocol_of
from mlplatform.serving.problems import NotLoaded, Problem, UnsupportedMediaType
from mlplatform.serving.protocols.table import PROTOCOLS
from mlplatform.serving.requests import header
from mlplatform.serving.seen import SLOW_US, Seen

_JSON_TYPE: Header = (b"content-type", JSON)
_BINARY_TYPE: Header = (b"content-type", b"application/octet-stream")
_INVOCATIONS = Place("/invocations")


class App:
    """Everything but models that take long, disk writes and large bodies happens on the event loop."""

    def __init__(
        self,
        folder: Path,
        limits: RequestLimits = RequestLimits(),  # noqa: B008
        access: Access | None = None,
        seen: Seen | None = None,
    ) -> None:
        self.plane = DataPlane(folder)
        self.pages = Pages(self.plane)
        self.seen = seen or Seen()
        self._access = access or Access(folder, demanded=False)
        self._flight = InFlight(limits)
        self._status = StatusFile(folder)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="status")
        self._tasks: list[asyncio.Task[None]] = []
        self.plane.metrics.look = partial(scrape.now, self.plane.router, self._flight)
        self.gate = self._access.gate if self._access.demanded else None
        """Asked by the transport before it reads a body that is still on its way."""
        self.pages.guarded = self._access.demanded
        self.pages.health.append(self._access.health)

    # --- requests -------------------------------------------------------------------------------------------

    def respond(self, request: Request) -> Response | Eventually:
        """At once, where no thread is needed. Never raises for what a client sent."""
        if request.path == "/invocations" and request.method == "POST":
            return self._predict("mlflow", request, _INVOCATIONS)
        try:
            place = self._place(request)
            if place.page == "infer":
                return self._predict(protocol_of(request.path), request, place)
            self._check(request, place)
            if place.page == "/labels":
                return self._labels(request)
            if place.page == "/metrics":
                return self._later(request, self._scrape(request))
            page = self.pages.get(place, self._sees_details(request, place))
        except NotLoaded as asleep:
            request.body = b""  # nothing of it is wanted while the model loads
            return self._later(request, self._when_awake(request, place, asleep.model))
        except Exception as error:
            return self._refused(request, error)
        return self._page(request, page)

    def refuse(self, problem: Problem, path: str) -> Response:
        """The response to what the transport could not bring in."""
        answer = self.plane.refuse(protocol_of(path), problem)
        return Response(answer.status, _headers(answer), answer.payload)

    def _predict(self, protocol: str, request: Request, place: Place) -> Response | Eventually:
        try:
            self._check(request, place)
            call = _call(request)
            call.model, call.version = place.model, place.version
            sharing = place.model if len(self.plane.router.table.models) > 1 else ""
            self._flight.admit(sharing, len(request.body))
        except Exception as error:
            return self._answered(request, self.plane.refuse(protocol, error))
        found = self.plane.predict(protocol, call)
        if isinstance(found, Answer):
            return self._answered(request, found)
        return self._follow(request, found, sharing)

    def _follow(self, request: Request, later: Later, model: str) -> Eventually:
        held = model, len(request.body)
        eventually = self._flight.begin(
            lambda late: self._answered(request, self.plane.give_up(later, late)), *held
        )

        def there(answer: Answer) -> None:
            if self._flight.end(eventually, *held):
                eventually.settle(self._answered(request, answer))

        later.then(there)
        return eventually

    def _answered(self, request: Request, answer: Answer) -> Response:
        response = Response(answer.status, _headers(answer), answer.payload)
        if self.seen.every or answer.status >= 500 or answer.latency_us > SLOW_US:
            response.after = partial(self._tell, request, response, answer)
        elif answer.rows is not None:
            response.after = partial(self.plane.record, answer)
        return response

    def _tell(self, request: Request, response: Response, answer: Answer) -> None:
        self.plane.record(answer)
        self.seen(request, response, answer)

    def _check(self, request: Request, place: Place) -> None:
        """Raises Unauthorized or Forbidden."""
        if self._access.demanded:
            here = self.plane.router.table.models
            self._access.check(request.headers, place.page, place.model, here)

    def _sees_details(self, request: Request, place: Place) -> bool:
        here = self.plane.router.table.models
        return place.page not in DETAILED or self._access.sees_details(request.headers, here)

    def _place(self, request: Request) -> Place:
        try:
            return find(request.path, request.method)
        except Problem:
            if self._access.demanded:
                self._access.holder(request.headers)  # nobody else is told what is here
            raise

    # --- pages ----------------------------------------------------------------------------------------------

    def _page(self, request: Request, page: Page, error: Exception | None = None) -> Response:
        response = Response(page.status, [(b"content-type", page.content_type)], page.content)
        if self.seen.every or (error is not None and page.status >= 500):
            response.after = partial(self.seen, request, response, None, error)
        return response

    def _refused(self, request: Request, error: Exception) -> Response:
        problem = as_problem(error)
        page = Page(PROTOCOLS[protocol_of(request.path)].error(problem), status=problem.status)
        response = self._page(request, page, error)
        response.headers += _facts(problem)
        return response

    def _labels(self, request: Request) -> Eventually:
        if essence_of(content_type := _call(request).content_type) != "application/json":
            shown = content_type.decode("latin-1")[:80] or "none"
            raise UnsupportedMediaType(f"content type {shown}: expected application/json, in UTF-8")
        self._flight.admit(body_bytes=len(request.body))
        return self._later(request, self._keep(request))

    def _later(self, request: Request, work: Coroutine[Any, Any, Response]) -> Eventually:
        held = "", len(request.body)
        eventually = self._flight.begin(lambda late: self._refused(request, late), *held)

        def done(task: asyncio.Task[Response]) -> None:
            if self._flight.end(eventually, *held):
                eventually.settle(task.result())

        asyncio.ensure_future(work).add_done_callback(done)
        return eventually

    async def _when_awake(self, request: Request, place: Place, model: str) -> Response:
        """A page about a model that has to be loaded first."""
        try:
            await self.plane.router.wake(model)
            page = self.pages.get(place)
        except Exception as error:
            return self._refused(request, error)
        return self._page(request, page)

    async def _scrape(self, request: Request) -> Response:
        openmetrics = wants_openmetrics(header(request.headers, b"accept"))
        counters = self.plane.metrics.to_dict()
        counters["now"]["in_flight"] -= 1  # this request
        await self._report(counters)  # so that whoever is asked next, or takes our place, tells no less
        given = (counters, self._status.others(), self.plane.folder, openmetrics)
        try:
            content = await asyncio.get_running_loop().run_in_executor(None, scrape.page, *given)
        except Exception as error:
            return self._refused(request, error)
        return self._page(request, Page(content, OPENMETRICS if openmetrics else TEXT))

    async def _keep(self, request: Request) -> Response:
        try:
            accepted = await self.plane.keep_labels(request.body)
        except Exception as error:
            return self._refused(request, error)
        return self._page(request, Page(json.dumps({"accepted": accepted}).encode()))

    # --- life -----------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Load the document that is there, then follow it."""
        self._access.look()
        await self.plane.router.look()
        await self._report()
        self._tasks = [
            asyncio.create_task(self.plane.router.follow(self._report_soon)),
            asyncio.create_task(self._access.follow(self._report_soon)),
            asyncio.create_task(self._tick()),
        ]

    async def stop(self) -> None:
        """Called when no request is in flight: captures reach the disk, the status file goes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.plane.close()
        await self._report()
        self._disk.submit(logs.flush)
        self._disk.submit(self.seen.close)
        self._disk.shutdown()
        self._status.remove()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.plane.recorder.flush()
            self._disk.submit(logs.flush)
            await self._report()

    def _report_soon(self) -> None:
        self._tasks.append(asyncio.create_task(self._report()))
        self._tasks = [task for task in self._tasks if not task.done()]

    async def _report(self, counters: dict[str, Any] | None = None) -> None:
        counters, status = counters or self.plane.metrics.to_dict(), self.plane.router.status()
        await asyncio.get_running_loop().run_in_executor(self._disk, self._status.write, status, counters)


def _call(request: Request) -> Call:
    """The body, and the headers that say how to read it."""
    call = Call(request.body)
    call.arrived, call.headers = request.arrived, request.headers
    for name, value in request.headers:
        if name == b"content-type":
            call.content_type = value
        elif name == b"inference-header-content-length":
            call.json_length = value
        elif name == b"content-encoding" and value.lower() != b"identity":
            raise UnsupportedMediaType("content encoding: expected a body that is not compressed")
    return call


def _headers(answer: Answer) -> list[Header]:
    headers = [_JSON_TYPE, (b"mlplatform-request-id", answer.request_id.encode())]
    if answer.arm is not None:
        headers.append(answer.arm.header)
    if answer.json_length:
        headers[0] = _BINARY_TYPE
        headers.append((b"inference-header-content-length", b"%d" % answer.json_length))
    if answer.problem is not None:
        headers += _facts(answer.problem)
    queue, decode, predict, encode = answer.timing
    timing = _TIMING % (queue / 1e3, decode / 1e3, predict / 1e3, encode / 1e3)
    headers.append((b"server-timing", timing))
    return headers


_TIMING = b"queue;dur=%.3f, decode;dur=%.3f, predict;dur=%.3f, encode;dur=%.3f"
"""Milliseconds."""


def _facts(problem: Problem) -> list[Header]:
    """What a problem says in headers."""
    facts = problem.facts
    return [(header, str(facts[fact]).encode("latin-1")) for fact, header in _FACTS.items() if fact in facts]


_FACTS = {"allow": b"allow", "retry_after": b"retry-after", "authenticate": b"www-authenticate"}
