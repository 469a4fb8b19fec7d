"""Whatever bytes a connection brings, the server says something that is HTTP, none of it a 5xx, and closes; and where
another parser of HTTP (h11) reads requests in the same bytes, they are the same requests with the same bodies: nothing
can be hidden in one. Ten thousand connections here, a million with `-m soak`."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from random import Random
from urllib.parse import unquote

import h11
import pytest
import uvloop
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.serving.app import App
from mlplatform.serving.calls import Eventually, Request, Response
from mlplatform.serving.problems import Problem
from mlplatform.serving.transport.connection import Connection
from mlplatform.serving.transport.server import Server
from tests.loading import head, request
from tests.unit.serving.mutations import good

Bundle = tuple[Path, Manifest]
LATE_S = 5.0
"""Of CPU; other tests may run beside this one."""
SAID = {100, 200, 400, 404, 405, 413, 414, 415, 417, 431}

# Outside tests it is no error that a float64 is too large for a model of float32.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast")


class Listening:
    """The app, and what reached it since it was asked last."""

    def __init__(self, app: App) -> None:
        self.requests: list[Request] = []
        self._app = app

    def respond(self, request: Request) -> Response | Eventually:
        self.requests.append(request)
        return self._app.respond(request)

    def refuse(self, problem: Problem, path: str) -> Response:
        return self._app.refuse(problem, path)


class Wire:
    """A server whose connections are pairs of sockets."""

    def __init__(self, folder: Path, bundles: Mapping[str, Bundle]) -> None:
        routes = tuple(Route(name, 1, made.digest, str(path)) for name, (path, made) in bundles.items())
        (folder / "routes.json").write_bytes(
            Routes("e", 1, routes, capture=CaptureRule(context=("ts",), sample=0.1)).encode()
        )
        self.seen: Counter[int] = Counter()
        self.compared = 0
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._runner.run(self._start(folder))

    async def _start(self, folder: Path) -> None:
        limits = RequestLimits(max_body_bytes=20_000)
        self._app = App(folder, limits)
        await self._app.start()
        self._listening = Listening(self._app)
        self._server = Server(self._listening, limits)

    def ask(self, *parts: bytes) -> None:
        """One connection that brings these bytes and then ends."""
        self._listening.requests.clear()
        start = time.process_time()
        said = self._runner.run(asyncio.wait_for(self._say(parts), 60))
        assert time.process_time() - start < LATE_S, parts
        for status, body in responses(said):
            self.seen[status] += 1
            assert status in SAID, (status, body, parts)
            if status >= 400:
                page = json.loads(body)
                assert b"\n" not in body and b"Traceback" not in body
                assert len(page.get("message") or page["error"]) > 10
        self._compare(b"".join(parts))

    async def _say(self, parts: tuple[bytes, ...]) -> bytes:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        with theirs:
            await loop.connect_accepted_socket(lambda: Connection(self._server), ours)
            for part in parts:
                try:
                    await loop.sock_sendall(theirs, part)
                    await asyncio.sleep(0)
                except (BrokenPipeError, ConnectionResetError):
                    break
            said = b""
            with suppress(OSError):  # it may have closed before all was sent
                theirs.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):
                while data := await loop.sock_recv(theirs, 1 << 20):
                    said += data
        return said

    def _compare(self, sent: bytes) -> None:
        for ours, theirs in zip(self._listening.requests, others_requests(sent), strict=False):
            self.compared += 1
            assert (ours.method, ours.body) == (theirs[0], theirs[2]), (sent, ours.path, theirs)
            target = theirs[1].partition("#")[0].partition("?")[0]
            assert ours.path == unquote(target) or "://" in target, (sent, ours.path, theirs)

    def close(self) -> None:
        self._runner.run(self._end())
        self._runner.close()

    async def _end(self) -> None:
        await self._server.drain()
        await self._app.stop()
        assert self._server.budget.used_bytes == 0


def responses(said: bytes) -> Iterator[tuple[int, bytes]]:
    """Status and body of each; ValueError where it is no HTTP."""
    while said:
        top, found, said = said.partition(b"\r\n\r\n")
        assert found, said
        first, *lines = top.split(b"\r\n")
        version, status, _ = first.split(b" ", 2)
        assert version == b"HTTP/1.1"
        headers = dict(line.split(b": ", 1) for line in lines)
        length = int(headers.get(b"content-length", b"0"))
        body, said = said[:length], said[length:]
        assert len(body) == length
        yield int(status), body


def others_requests(sent: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Method, target and body of each request that h11 reads."""
    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    parser.receive_data(sent)
    try:
        while isinstance(event := parser.next_event(), h11.Request):
            body = b""
            while isinstance(part := parser.next_event(), h11.Data):
                body += part.data
            if not isinstance(part, h11.EndOfMessage):
                return
            yield event.method.decode(), event.target.decode("latin-1"), body
            parser.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
            parser.send(h11.EndOfMessage())
            parser.start_next_cycle()
    except h11.ProtocolError:
        return


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory, fuzzed: Mapping[str, Bundle]) -> Iterator[Wire]:
    made = Wire(tmp_path_factory.mktemp("wire"), fuzzed)
    yield made
    made.close()


# --- what is sent -------------------------------------------------------------------------------------------


def corpus() -> list[bytes]:
    """Requests that are answered."""
    made = []
    for protocol, call in good():
        mlflow = protocol == "mlflow"
        path = f"/models/{call.model}/invocations" if mlflow else f"/v2/models/{call.model}/infer"
        lines = [f"Inference-Header-Content-Length: {call.json_length.decode()}"] if call.json_length else []
        given = call.content_type.decode() or "application/json"
        made.append(request(path, call.body, *lines, content_type=given))
        chunks = b"%x\r\n%b\r\n0\r\n\r\n" % (len(call.body), call.body)
        made.append(head(path, f"Content-Type: {given}", "Transfer-Encoding: chunked", *lines) + chunks)
    made += [head(path, method="GET") for path in ("/ping", "/v2", "/health", "/openapi.json?a=b")]
    made.append(b"GET /ping HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    return made


LINES = (
    *(
        b"Content-Length: %b" % v
        for v in (b"0", b"1", b"5", b"05", b"-1", b"+5", b"5, 5", b"5 5", b"9" * 30, b"")
    ),
    *(
        b"Transfer-Encoding: %b" % v
        for v in (b"chunked", b"Chunked", b"identity", b"gzip, chunked", b"x", b"")
    ),
    *(b"Connection: %b" % v for v in (b"close", b"keep-alive", b"Upgrade", b"close, keep-alive", b"TE")),
    *(
        b"Expect: 100-continue",
        b"Expect: x",
        b"Upgrade: h2c",
        b"Host: y",
        b"Host:",
        b"Content-Encoding: gzip",
    ),
    *(
        b" folded",
        b"\tfolded",
        b"A",
        b"A:",
        b": b",
        b"A : b",
        b"A\x00: b",
        b"A: \x00",
        b"A: \xff",
        b"a" * 9000,
    ),
)
PIECES = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\x00",
    b"\xff",
    b":",
    b"0\r\n\r\n",
    b"-",
    b"%",
    b"%ff",
)
PIECES += (
    b"?",
    b"#",
    b"/",
    b"//",
    b"../",
    b"http://x/",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"HTTP/1.1",
    b"GET / HTTP/1.1\r\n",
)


def _line(random: Random, sent: bytes) -> bytes:
    """A header more, somewhere among the others."""
    lines = sent.partition(b"\r\n\r\n")[0].split(b"\r\n")
    at = random.randrange(1, len(lines) + 1)
    return b"\r\n".join([*lines[:at], random.choice(LINES), *lines[at:], b"", sent.partition(b"\r\n\r\n")[2]])


def _less(random: Random, sent: bytes) -> bytes:
    """A header less, or twice."""
    top, _, body = sent.partition(b"\r\n\r\n")
    lines = top.split(b"\r\n")
    at = random.randrange(len(lines))
    return b"\r\n".join([*lines[:at], *random.choice(([], [lines[at]] * 2)), *lines[at + 1 :], b"", body])


def _piece(random: Random, sent: bytes) -> bytes:
    top = max(0, sent.find(b"\r\n\r\n"))
    at = random.randrange((top if random.random() < 0.7 else len(sent)) + 1)
    return (
        sent[:at] + random.choice((*PIECES, random.randbytes(2))) + sent[at + random.choice((0, 0, 1, 4)) :]
    )


def _cut(random: Random, sent: bytes) -> bytes:
    return sent[: random.randrange(len(sent) + 1)]


def _repeat(random: Random, sent: bytes) -> bytes:
    at = random.randrange(len(sent))
    return sent[:at] + sent[at : at + random.randrange(60)] + sent[at:]


HARMS: tuple[Callable[[Random, bytes], bytes], ...] = (
    _line,
    _line,
    _less,
    _piece,
    _piece,
    _piece,
    _cut,
    _repeat,
)


def harmed(random: Random, good_ones: list[bytes]) -> list[bytes]:
    """One to three requests behind each other, with something wrong in one, cut into parts."""
    requests = random.choices(good_ones, k=random.choice((1, 1, 2, 3)))
    at = random.randrange(len(requests))
    for _ in range(random.choice((0, 1, 1, 1, 2))):
        requests[at] = random.choice(HARMS)(random, requests[at] or b" ")
    sent = b"".join(requests)
    cuts = sorted(random.randrange(len(sent) + 1) for _ in range(random.choice((0, 0, 1, 3))))
    return [sent[a:b] for a, b in zip([0, *cuts], [*cuts, len(sent)], strict=True)]


TOKEN = st.sampled_from(
    [*LINES, *PIECES, b"GET", b"POST", b"PUT", b"OPTIONS", b"/ping", b"/v2", b"Host: x\r\n"]
)
NOISE = st.lists(TOKEN | st.binary(max_size=8) | st.sampled_from(corpus()), max_size=12)


def made_up(wire: Wire, count: int, number: int) -> None:
    """Bytes from Hypothesis, which looks for the fewest that fail."""

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(NOISE)
    def ask(tokens: list[bytes]) -> None:
        wire.ask(b"".join(tokens))

    ask()


def spoilt_ones(wire: Wire, count: int, number: int) -> None:
    random, good_ones = Random(number), corpus()
    for _ in range(count):
        wire.ask(*harmed(random, good_ones))


def test_good_requests_are_answered_alone_and_all_at_once(wire: Wire) -> None:
    before = wire.seen[200]
    for sent in corpus():
        wire.ask(sent)
        wire.ask(*(sent[i : i + 1] for i in range(len(sent))))
    wire.ask(b"".join(corpus()))
    assert wire.seen[200] - before == 3 * len(corpus())


def test_ten_thousand_connections_of_every_kind(wire: Wire) -> None:
    compared = wire.compared
    made_up(wire, 1_500, 1)
    spoilt_ones(wire, 8_500, 1)
    print(sorted(wire.seen.items()), wire.compared - compared, "requests read by another parser too")
    assert {200, 400, 404, 405, 415, 417} <= set(wire.seen)
    assert min(wire.seen[200], wire.seen[400]) > 1_500
    assert wire.compared - compared > 1_500


@pytest.mark.soak
def test_a_million_connections_of_every_kind(wire: Wire) -> None:
    for number in range(100, 200):
        made_up(wire, 1_000, number)
        spoilt_ones(wire, 9_000, number)
    print(sorted(wire.seen.items()), wire.compared, "requests read by another parser too")
