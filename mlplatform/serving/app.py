"""The ASGI callable of one worker: requests in, answers out, and what happens around them."""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlplatform.serving import metrics as prometheus
from mlplatform.serving.decode import Rows
from mlplatform.serving.ids import uuid7
from mlplatform.serving.labels import Inbox
from mlplatform.serving.metrics import Metrics
from mlplatform.serving.predictor import Arm, Table
from mlplatform.serving.problems import (
    ModelFailed,
    NotThere,
    Problem,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
    WrongMethod,
)
from mlplatform.serving.protocols import mlflow
from mlplatform.serving.recorder import FLUSH_SECONDS, Recorder
from mlplatform.serving.routes import Router, StatusFile
from mlplatform.stats.batch import Outputs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

MAX_BODY_BYTES = 16_000_000
LARGE_BODY_BYTES = 256_000
"""A body above this is decoded in a thread, so that others are answered meanwhile."""
_JSON: Header = (b"content-type", b"application/json")
_TEXT: Header = (b"content-type", b"text/plain; charset=utf-8")
_PAGES = {"/ping": "GET", "/health": "GET", "/version": "GET", "/metrics": "GET", "/labels": "POST"}


class ClientGone(Exception):
    """The connection ended before the request did; nobody waits for an answer."""


class App:
    """One worker's server. Everything but models, disk writes and large bodies happens on the event loop."""

    def __init__(self, folder: Path, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.metrics = Metrics()
        self.recorder = Recorder(folder / "capture", self.metrics)
        self.router = Router(folder, self.metrics, on_swap=self._swapped)
        self._max_body_bytes = max_body_bytes
        self._unrouted = self.metrics.series()
        self._status = StatusFile(folder)
        self._inbox = Inbox(folder / "inbox")
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="work")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="status")
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/invocations" and scope["method"] == "POST":
                await self._invocations(scope, receive, send)
            else:
                await self._page(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    # --- predictions ----------------------------------------------------------------------------------------

    async def _invocations(self, scope: Message, receive: Receive, send: Send) -> None:
        request_id = uuid7()
        headers = [_JSON, (b"mlplatform-request-id", request_id.encode())]
        series = self._unrouted
        answered: tuple[Arm, Rows, Outputs] | None = None
        start = time.perf_counter()
        try:
            content_type, body = await self._body(scope["headers"], receive)
            start = time.perf_counter()
            arm = self.router.table.pick(request_id)
            if arm is None:
                raise Unavailable("no model is in service yet")
            series = arm.series
            headers.append(arm.header)
            rows, outputs = await self._answer(arm, content_type, body)
            status, payload = 200, mlflow.encode(outputs)
            answered = (arm, rows, outputs)
        except ClientGone:
            return
        except Exception as error:
            problem = _problem(error)
            status, payload = problem.status, problem.body()
        seconds = time.perf_counter() - start
        series.count(status, seconds)
        await _send(send, status, headers, payload)
        if answered is not None:
            self._record(request_id, *answered, latency_us=int(seconds * 1e6))

    async def _answer(self, arm: Arm, content_type: bytes, body: bytes) -> tuple[Rows, Outputs]:
        decode = arm.invocations.decode
        if len(body) > LARGE_BODY_BYTES:
            rows = await self._away(decode, content_type, body)
        else:
            rows = decode(content_type, body)
        if arm.leaves_loop(rows.batch.rows):
            return rows, await self._away(arm.answer, rows)
        return rows, arm.answer(rows)

    def _record(self, request_id: str, arm: Arm, rows: Rows, outputs: Outputs, latency_us: int) -> None:
        try:
            self.recorder.record(arm, request_id, rows, outputs, latency_us)
        except Exception as error:  # the answer is out: what cannot be captured is counted
            self.metrics.drop("error", rows.batch.rows)
            traceback.print_exception(error)

    # --- everything else ------------------------------------------------------------------------------------

    async def _page(self, scope: Message, receive: Receive, send: Send) -> None:
        try:
            _check_method(scope["path"], scope["method"])
            content_type, payload = await self._content(scope, receive)
            status = 200
            if scope["path"] == "/health" and not self.router.table.arms:
                status = 503
        except ClientGone:
            return
        except Exception as error:
            problem = _problem(error)
            status, content_type, payload = problem.status, _JSON, problem.body()
        await _send(send, status, [content_type], payload, with_body=scope["method"] != "HEAD")

    async def _content(self, scope: Message, receive: Receive) -> tuple[Header, bytes]:
        match scope["path"]:
            case "/ping":
                return _TEXT, b"\n"
            case "/health":
                return _JSON, self._health()
            case "/version":
                return _TEXT, _version().encode()
            case "/metrics":
                counters = prometheus.total(self.metrics, self._status.others())
                return (b"content-type", prometheus.CONTENT_TYPE), prometheus.exposition(counters)
            case _:
                return _JSON, await self._labels(scope, receive)

    async def _labels(self, scope: Message, receive: Receive) -> bytes:
        content_type, body = await self._body(scope["headers"], receive)
        if mlflow.media_type(content_type) != "json":
            raise UnsupportedMediaType("content type text/csv: labels are taken as application/json")
        count = await self._away(self._inbox.put, body)
        self.metrics.labels += count
        return json.dumps({"accepted": count}).encode()

    def _health(self) -> bytes:
        router = self.router
        return json.dumps(
            {
                "status": "ok" if router.table.arms else "no model",
                "generation": router.table.generation,
                "models": [
                    {"model": arm.name, "arm": arm.route.arm, "share": arm.route.share}
                    for arm in router.table.arms
                ],
                "rejected": router.rejected,
                "error": router.error,
            }
        ).encode()

    async def _body(self, headers: Iterable[Header], receive: Receive) -> tuple[bytes, bytes]:
        """Content type and body. A body that is too large is refused before it is read."""
        content_type = b""
        for name, value in headers:
            if name == b"content-type":
                content_type = value
            elif name == b"content-length" and int(value) > self._max_body_bytes:
                raise self._too_large()
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise UnsupportedMediaType("content encoding: expected a body that is not compressed")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        if not message.get("more_body"):
            return content_type, message["body"]
        parts, size = [message["body"]], len(message["body"])
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message["body"])
            size += len(message["body"])
            if size > self._max_body_bytes:
                raise self._too_large()
        return content_type, b"".join(parts)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is too large: at most {self._max_body_bytes} bytes are taken")

    async def _away(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    # --- life -----------------------------------------------------------------------------------------------

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        """Load the document that is there, then follow it."""
        await self.router.look()
        await self._report()
        self._tasks = [
            asyncio.create_task(self.router.follow(self._report_soon)),
            asyncio.create_task(self._tick()),
        ]

    async def stop(self) -> None:
        """Called when no request is in flight: captures reach the disk, the status file goes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.router.close()
        await self._away(self.recorder.close)
        await self._report()
        self._disk.shutdown()
        self._pool.shutdown()
        self._status.remove()

    def _swapped(self, table: Table) -> None:
        self.recorder.configure(table.rule)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.recorder.flush()
            await self._report()

    def _report_soon(self) -> None:
        self._tasks.append(asyncio.create_task(self._report()))
        self._tasks = [task for task in self._tasks if not task.done()]

    async def _report(self) -> None:
        counters = json.dumps(self.metrics.to_dict()).encode()
        write = self._status.write
        await asyncio.get_running_loop().run_in_executor(self._disk, write, self.router.status(), counters)


def _problem(error: Exception) -> Problem:
    """What the client is told; our own mistakes and the model's are also written to the log."""
    if not isinstance(error, Problem):
        traceback.print_exception(error)
        return ModelFailed(f"the server failed on this request: {type(error).__name__}")
    if isinstance(error, ModelFailed):
        print(f"error: {error}" + (f": {error.__cause__}" if error.__cause__ else ""), flush=True)
    return error


def _check_method(path: str, method: str) -> None:
    if path == "/invocations":
        raise WrongMethod("/invocations takes POST")
    if path not in _PAGES:
        raise NotThere(f"there is no {path[:100]!r}; known: /invocations, {', '.join(_PAGES)}")
    if method != _PAGES[path] and not (method == "HEAD" and _PAGES[path] == "GET"):
        raise WrongMethod(f"{path} takes {_PAGES[path]}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mlplatform")
    except PackageNotFoundError:
        return "0+source"


async def _send(
    send: Send, status: int, headers: list[Header], payload: bytes, with_body: bool = True
) -> None:
    headers.append((b"content-length", b"%d" % len(payload)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload if with_body else b""})
