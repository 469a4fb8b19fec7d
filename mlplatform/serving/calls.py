"""What a transport hands to the app and the data plane, and what it gets back. Knows no transport and no protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol

from mlplatform.serving.decode import Rows
from mlplatform.stats.batch import Outputs

Header = tuple[bytes, bytes]


class Request:
    """A whole request, as a transport brought it."""

    __slots__ = ("arrived", "body", "client", "headers", "method", "path", "query", "tls")

    def __init__(
        self,
        method: str,
        path: str,
        query: bytes = b"",
        headers: list[Header] | None = None,
        body: bytes = b"",
        client: str = "",
        tls: bool = False,
        arrived: float = 0.0,
    ) -> None:
        self.method = method
        self.path = path
        """Decoded, without the query."""
        self.query = query
        self.headers = headers if headers is not None else []
        """Names in lower case, in the order sent. Requests of one connection may share the list: do not change it."""
        self.body = body
        self.client = client
        """The peer's address."""
        self.tls = tls
        self.arrived = arrived
        """When its last byte was there, by `time.perf_counter`."""


class Response:
    """What a request is answered. Content-length, connection and date are the transport's."""

    __slots__ = ("after", "body", "headers", "status")

    def __init__(
        self,
        status: int,
        headers: list[Header],
        body: bytes = b"",
        after: Callable[[], None] | None = None,
    ) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.after = after
        """Called once the bytes are written; not called when the client has gone before."""


class Eventually:
    """A response on its way. To await it costs a future; `then` does not."""

    __slots__ = ("_response", "_tell")

    def __init__(self) -> None:
        self._response: Response | None = None
        self._tell: Callable[[Response], object] | None = None

    def then(self, tell: Callable[[Response], object]) -> None:
        """Call `tell`, once, on the loop, when the response is there."""
        if self._response is not None:
            tell(self._response)
        else:
            self._tell = tell

    def settle(self, response: Response) -> bool:
        """This is the response, unless there is one already; whether it is."""
        if self._response is not None:
            return False
        self._response = response
        if self._tell is not None:
            self._tell(response)
        return True

    def forget(self) -> None:
        """Nobody waits for it any more."""
        self._tell = None

    def __await__(self) -> Generator[Any, None, Response]:
        if self._response is None:
            future: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

            def tell(response: Response) -> None:
                if not future.done():
                    future.set_result(response)

            self.then(tell)
            return (yield from future)
        return self._response


class Call:
    """A request for predictions."""

    content_type = b""
    json_length: bytes | None = None
    """How many bytes of the body are JSON, as the client said; None where it did not."""
    model: str = ""
    """Whatever is in service, where no model is named."""
    version: str = ""
    arrived: float = 0.0
    """When its last byte was there, by `time.perf_counter`; 0 where nobody looked."""
    headers: Sequence[Header] = ()
    """As in `Request`."""
    decoded: tuple[Any, Rows, Any] | None = None
    """What was read to choose a version, where that was necessary: the arm that read it, its rows and its wishes."""

    def __init__(self, body: bytes = b"", content_type: bytes = b"") -> None:
        self.body = body
        if content_type:
            self.content_type = content_type


class Payload(NamedTuple):
    """The body of an answer."""

    body: bytes
    json_length: int = 0
    """How many bytes of it are JSON, where others follow; else 0."""


class Codec(Protocol):
    """A protocol's bodies for one model version. Decoding raises Problem, and so may encoding."""

    def decode(self, call: Call) -> tuple[Rows, Any]:
        """Checked rows, and whatever `encode` has to know of the request."""
        ...

    def encode(self, wanted: Any, outputs: Outputs, request_id: str) -> tuple[bytes, int]:
        """As `Payload`; a plain tuple is cheaper to make."""
        ...
