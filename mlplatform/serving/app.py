"""The ASGI callable of one worker: HTTP to the data plane and back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from mlplatform.serving.bodies import essence_of
from mlplatform.serving.calls import Call
from mlplatform.serving.dataplane import Answer, DataPlane, as_problem
from mlplatform.serving.pages import JSON, Page, Pages
from mlplatform.serving.paths import Place, find, protocol_of
from mlplatform.serving.problems import TooLarge, UnsupportedMediaType
from mlplatform.serving.protocols.table import PROTOCOLS
from mlplatform.serving.recorder import FLUSH_SECONDS
from mlplatform.serving.routes import StatusFile

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Header = tuple[bytes, bytes]

MAX_BODY_BYTES = 16_000_000
_JSON_TYPE: Header = (b"content-type", JSON)
_BINARY_TYPE: Header = (b"content-type", b"application/octet-stream")


class ClientGone(Exception):
    """The connection ended before the request did; nobody waits for an answer."""


class App:
    """One worker's server. Everything but models, disk writes and large bodies happens on the event loop."""

    def __init__(self, folder: Path, max_body_bytes: int = MAX_BODY_BYTES) -> None:
        self.plane = DataPlane(folder)
        self._pages = Pages(self.plane)
        self._max_body_bytes = max_body_bytes
        self._status = StatusFile(folder)
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="status")
        self._tasks: list[asyncio.Task[None]] = []

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/invocations" and scope["method"] == "POST":
                await self._predict("mlflow", scope, receive, send)
            else:
                await self._other(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)

    # --- requests -------------------------------------------------------------------------------------------

    async def _predict(
        self, protocol: str, scope: Message, receive: Receive, send: Send, place: Place | None = None
    ) -> None:
        try:
            call = await self._call(scope, receive)
        except ClientGone:
            return
        except Exception as error:
            answer = self.plane.refuse(protocol, error)
        else:
            if place is not None:
                call.model, call.version = place.model, place.version
            answer = await self.plane.predict(protocol, call)
        await _send(send, answer.status, _headers(answer), answer.payload)
        self.plane.record(answer)

    async def _other(self, scope: Message, receive: Receive, send: Send) -> None:
        protocol, headers = protocol_of(scope["path"]), []
        try:
            place = find(scope["path"], scope["method"])
            if place.page == "infer":
                await self._predict(protocol, scope, receive, send, place)
                return
            page = await self._page(place, scope, receive)
        except ClientGone:
            return
        except Exception as error:
            problem = as_problem(error)
            page = Page(PROTOCOLS[protocol].error(problem), status=problem.status)
            if allow := problem.facts.get("allow"):
                headers.append((b"allow", allow.encode()))
        headers.append((b"content-type", page.content_type))
        await _send(send, page.status, headers, page.content, with_body=scope["method"] != "HEAD")

    async def _page(self, place: Place, scope: Message, receive: Receive) -> Page:
        if place.page != "/labels":
            return self._pages.get(place, self._status.others())
        call = await self._call(scope, receive)
        if essence_of(call.content_type) != "application/json":
            shown = call.content_type.decode("latin-1")[:80] or "none"
            raise UnsupportedMediaType(f"content type {shown}: expected application/json, in UTF-8")
        return Page(json.dumps({"accepted": await self.plane.keep_labels(call.body)}).encode())

    async def _call(self, scope: Message, receive: Receive) -> Call:
        """The body, and the headers that say how to read it. A body that is too large is refused before it is read."""
        call = Call()
        for name, value in scope["headers"]:
            if name == b"content-type":
                call.content_type = value
            elif name == b"content-length" and int(value) > self._max_body_bytes:
                raise self._too_large()
            elif name == b"inference-header-content-length":
                call.json_length = value
            elif name == b"content-encoding" and value.lower() != b"identity":
                raise UnsupportedMediaType("content encoding: expected a body that is not compressed")
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        call.body = message["body"] if not message.get("more_body") else await self._rest(message, receive)
        return call

    async def _rest(self, message: Message, receive: Receive) -> bytes:
        parts, size = [message["body"]], len(message["body"])
        while message.get("more_body"):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            parts.append(message["body"])
            size += len(message["body"])
            if size > self._max_body_bytes:
                raise self._too_large()
        return b"".join(parts)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the body is too large: at most {self._max_body_bytes} bytes are taken")

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
        await self.plane.router.look()
        await self._report()
        self._tasks = [
            asyncio.create_task(self.plane.router.follow(self._report_soon)),
            asyncio.create_task(self._tick()),
        ]

    async def stop(self) -> None:
        """Called when no request is in flight: captures reach the disk, the status file goes."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.plane.close()
        await self._report()
        self._disk.shutdown()
        self._status.remove()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            self.plane.recorder.flush()
            await self._report()

    def _report_soon(self) -> None:
        self._tasks.append(asyncio.create_task(self._report()))
        self._tasks = [task for task in self._tasks if not task.done()]

    async def _report(self) -> None:
        counters = json.dumps(self.plane.metrics.to_dict()).encode()
        status = self.plane.router.status()
        await asyncio.get_running_loop().run_in_executor(self._disk, self._status.write, status, counters)


def _headers(answer: Answer) -> list[Header]:
    headers = [_JSON_TYPE, (b"mlplatform-request-id", answer.request_id.encode())]
    if answer.arm is not None:
        headers.append(answer.arm.header)
    if answer.json_length:
        headers[0] = _BINARY_TYPE
        headers.append((b"inference-header-content-length", b"%d" % answer.json_length))
    return headers


async def _send(
    send: Send, status: int, headers: list[Header], payload: bytes, with_body: bool = True
) -> None:
    headers.append((b"content-length", b"%d" % len(payload)))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload if with_body else b""})
