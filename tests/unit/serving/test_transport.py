"""HTTP/1.1 over real sockets: framing, order, limits, slow clients and the end of a server."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from mlplatform.domain.limits import BODIES, RequestLimits
from mlplatform.serving.calls import Eventually, Request, Response
from mlplatform.serving.problems import Problem
from mlplatform.serving.transport import connection, reader, server
from mlplatform.serving.transport.server import Server
from tests.unit.serving.over_http import run, served

LIMITS = RequestLimits(max_body_bytes=1000, max_connections=8)
HOST = b"Host: x\r\n"
GET = b"GET /a?b=c HTTP/1.1\r\n" + HOST + b"\r\n"
SECONDS = 5.0


class Pages:
    """Tells what it was asked; `/later` waits until it is let go."""

    def __init__(self) -> None:
        self.waiting: list[Eventually] = []
        self.seen: list[Request] = []
        self.written: list[str] = []

    def respond(self, request: Request) -> Response | Eventually:
        self.seen.append(request)
        if request.path == "/later":
            self.waiting.append(eventually := Eventually())
            return eventually
        if request.path == "/broken":
            raise ZeroDivisionError
        body = b"x" * 8_000_000 if request.path == "/large" else f"{request.method} {request.path}".encode()
        return Response(200, [], body, after=lambda: self.written.append(request.path))

    def refuse(self, problem: Problem, path: str) -> Response:
        return Response(problem.status, [], problem.body())

    def let_go(self) -> None:
        self.waiting.pop(0).settle(Response(200, [], b"late"))


class Client:
    """One connection."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter]) -> None:
        self.reader, self.writer = streams

    async def send(self, *parts: bytes) -> None:
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next one."""
        async with asyncio.timeout(SECONDS):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.strip().split("\r\n")
            headers = dict(line.split(": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split(" ")[1]), headers, body

    def reset(self) -> None:
        """Go without a word."""
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def rest(self) -> bytes:
        """Everything until the server closes."""
        async with asyncio.timeout(SECONDS):
            return await self.reader.read(-1)


Talk = Callable[[Pages, Server, Callable[[], Awaitable[Client]]], Awaitable[Any]]


def talk(conversation: Talk, limits: RequestLimits = LIMITS) -> Any:
    """What a conversation with a fresh server comes to."""

    async def go() -> Any:
        pages, clients = Pages(), []
        async with served(pages, limits) as (running, port):

            async def client() -> Client:
                clients.append(Client(await asyncio.open_connection("127.0.0.1", port)))
                return clients[-1]

            try:
                return await conversation(pages, running, client)
            finally:
                for made in clients:
                    made.writer.close()

    return run(go())


def say(*parts: bytes) -> bytes:
    """All that the server says to these bytes until it closes."""

    async def conversation(pages: Pages, running: Server, connect: Callable[[], Awaitable[Client]]) -> bytes:
        client = await connect()
        await client.send(*parts)
        return await client.rest()

    said: bytes = talk(conversation)
    return said


def post(*headers: bytes, body: bytes = b"", version: bytes = b"1.1") -> bytes:
    lines = b"".join(header + b"\r\n" for header in headers)
    return b"POST /p HTTP/" + version + b"\r\n" + HOST + lines + b"\r\n" + body


CHUNKED = b"Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        (b"GARBAGE\r\n\r\n", 400, "method: expected"),
        (b"\x16\x03\x01\x02\x00\x01", 400, "method: expected"),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400, "version: expected HTTP/1.1"),
        (b"GET / HTTP/0.9\r\n\r\n", 400, "version: expected HTTP/1.1"),
        (b"GET /\r\n\r\n", 400, "version: expected HTTP/1.1"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "version: expected HTTP/1.1"),
        (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400, "target: expected"),
        (b"GET /%ff HTTP/1.1\r\n" + HOST + b"\r\n", 400, "target: expected"),
        (b"GET relative HTTP/1.1\r\n" + HOST + b"\r\n", 400, "target: expected"),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414, "8192"),
        (b"GET / HTTP/1.1\r\n\r\n", 400, "header host: expected one, got 0"),
        (b"GET / HTTP/1.1\r\n" + HOST + HOST + b"\r\n", 400, "header host: expected one, got 2"),
        (post(b"A\x00: b"), 400, "header: expected"),
        (post(b"A : b"), 400, "header: expected"),
        (post(b"A: b", b" folded"), 400, "header: expected"),
        (b"GET / HTTP/1.1\r\nHost: x\n\r\n", 400, "header: expected"),
        (post(*[b"a: b"] * 200), 431, "100"),
        (post(b"a: " + b"b" * 20_000), 431, "16384"),
        (post(b"Content-Length: -5"), 400, "header content-length"),
        (post(b"Content-Length: +5"), 400, "header content-length"),
        (post(b"Content-Length: 0x5"), 400, "header content-length"),
        (post(b"Content-Length: 5, 5"), 400, "header content-length"),
        (post(b"Content-Length:"), 400, "header content-length"),
        (post(b"Content-Length: " + b"9" * 30), 400, "header content-length"),
        (post(b"Content-Length: 3", b"Content-Length: 4", body=b"abc"), 400, "header content-length"),
        (post(b"Content-Length: 3", b"Content-Length: 3", body=b"abc"), 400, "header content-length"),
        (post(b"Content-Length: 3", CHUNKED, body=b"0\r\n\r\n"), 400, "content-length"),
        (post(CHUNKED, b"Content-Length: 3", body=b"0\r\n\r\n"), 400, "content-length"),
        (post(CHUNKED, CHUNKED, body=b"0\r\n\r\n"), 400, "header transfer-encoding"),
        (post(b"Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400, "header transfer-encoding"),
        (post(b"Transfer-Encoding: xchunked", body=b"0\r\n\r\n"), 400, "header transfer-encoding"),
        (post(CHUNKED, body=b"0\r\n\r\n", version=b"1.0"), 400, "header transfer-encoding"),
        (post(CHUNKED, body=b"-1\r\n"), 400, "chunk: expected"),
        (post(CHUNKED, body=b"F" * 20 + b"\r\n"), 400, "chunk: expected"),
        (post(CHUNKED, body=b"3\r\nabcd\r\n0\r\n\r\n"), 400, "chunk: expected"),
        (post(CHUNKED, body=b"1\r\na\r\n" * 1001), 413, "1000"),
        (post(CHUNKED, body=b"1;" + b"x" * 30_000 + b"\r\n"), 413, "1000"),
        (post(b"Content-Length: 1001"), 413, "1000"),
        (post(b"Expect: 200-ok", b"Content-Length: 3"), 417, "header expect: expected 100-continue"),
        (post(b"Content-Length: 5000", b"Expect: 100-continue"), 413, "1000"),
        (post(b"Connection: Upgrade", b"Upgrade: websocket"), 400, "header upgrade"),
        (
            post(b"Connection: Upgrade", b"Upgrade: h2c", b"Content-Length: 3", body=b"abc"),
            400,
            "header upgrade",
        ),
        (b"CONNECT / HTTP/1.1\r\n" + HOST + b"\r\n", 400, "method: CONNECT"),
    ],
)
def test_what_is_no_request_gets_one_line_and_the_connection_ends(
    sent: bytes, status: int, said: str
) -> None:
    head, _, body = say(sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), (head, body)
    assert b"connection: close" in head
    assert body.count(b"HTTP/1.1 ") == 1 or b"HTTP/1.1 " not in body[:9]
    assert b"\n" not in body
    assert said in json.loads(body)["message"]


def test_requests_before_a_broken_one_are_answered_and_none_after_it() -> None:
    said = say(GET + GET + b"BROKEN\r\n\r\n" + GET)
    assert [part[:3] for part in said.split(b"HTTP/1.1 ")[1:]][:3] == [b"200", b"200", b"400"]
    assert said.count(b"HTTP/1.1 200") == 2


def test_a_head_that_never_ends_is_refused_before_it_fills_the_memory() -> None:
    said = say(b"GET / HTTP/1.1\r\na: ", *[b"b" * 10_000] * 40)
    assert said.startswith(b"HTTP/1.1 431 ")


def test_a_connection_is_kept_as_its_version_says() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> list[Any]:
        kept, old, closing = await connect(), await connect(), await connect()
        told = []
        for _ in range(3):
            await kept.send(GET)
            told.append((await kept.response())[1].get("connection"))
        await old.send(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        told.append((await old.response())[1].get("connection"))
        await old.send(b"GET /a HTTP/1.0\r\n\r\n")
        told.append((await old.response())[1].get("connection"))
        assert await old.rest() == b""
        await closing.send(b"GET /a HTTP/1.1\r\nConnection: close\r\n" + HOST + b"\r\n" + GET)
        told.append((await closing.response())[1].get("connection"))
        assert await closing.rest() == b""
        return told

    assert talk(conversation) == [None, None, None, "keep-alive", "close", "close"]


def test_bodies_come_whole_however_they_are_cut() -> None:
    head = post(b"Content-Length: 6")
    chunked = post(CHUNKED, body=b"2;ext=1\r\nab\r\n4\r\ncdef\r\n0\r\nTrailer: t\r\n\r\n")

    async def conversation(pages: Pages, running: Server, connect: Any) -> list[bytes]:
        client = await connect()
        await client.send(head + b"abcdef")
        await client.response()
        await client.send(head + b"abcdef")  # a head that is known by now
        await client.response()
        for sent in (head + b"abcdef", chunked):
            for byte in sent:
                await client.send(bytes([byte]))
            await client.response()
        await client.send(head + b"abcdef" + chunked + GET)
        assert [(await client.response())[2] for _ in range(3)] == [b"POST /p", b"POST /p", b"GET /a"]
        assert all("trailer" not in dict(r.headers) and b"trailer" not in dict(r.headers) for r in pages.seen)
        return [request.body for request in pages.seen]

    assert talk(conversation) == [b"abcdef"] * 6 + [b""]


def test_what_a_request_says_reaches_the_app() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> Request:
        client = await connect()
        for _ in range(2):  # the second one by the head that is known
            await client.send(b"GET http://x/%C3%A9%20/b?c=%20d#e HTTP/1.1\r\nhOST: x\r\nX-Y:  z \r\n\r\n")
            await client.response()
        first, second = pages.seen
        assert (first.path, first.query, first.headers) == (second.path, second.query, second.headers)
        return second

    request = talk(conversation)
    assert (request.method, request.path, request.query) == ("GET", "/é /b", b"c=%20d")
    assert request.headers == [(b"host", b"x"), (b"x-y", b"z")]
    assert (request.client, request.tls, request.body) == ("127.0.0.1", False, b"")


def test_pipelined_requests_are_answered_in_order_also_behind_one_that_waits() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> list[bytes]:
        client = await connect()
        paths = [b"/later", *(b"/%d" % i for i in range(50)), b"/later", b"/last"]
        await client.send(b"".join(b"GET %b HTTP/1.1\r\n" % path + HOST + b"\r\n" for path in paths))
        said = []
        for path in paths:
            if path == b"/later":
                await until(lambda: pages.waiting)
                assert len(pages.seen) == len(said) + 1
                pages.let_go()
            said.append((await client.response())[2])
        return said

    assert talk(conversation) == [b"late", *(b"GET /%d" % i for i in range(50)), b"late", b"GET /last"]


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.002)


def test_a_client_that_is_told_to_go_on_sends_its_body() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> None:
        client = await connect()
        await client.send(post(b"Expect: 100-continue", b"Content-Length: 3"))
        assert (await client.response())[0] == 100
        await client.send(b"abc")
        assert (await client.response())[0] == 200
        # Behind one that waits it is told when its turn comes.
        later = b"GET /later HTTP/1.1\r\n" + HOST + b"\r\n"
        await client.send(later + post(b"Expect: 100-Continue", b"Content-Length: 3"))
        await until(lambda: pages.waiting)
        pages.let_go()
        assert [(await client.response())[0] for _ in range(2)] == [200, 100]
        await client.send(b"abc")
        assert (await client.response())[0] == 200

    talk(conversation)


def test_head_is_answered_with_the_length_and_without_the_body() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> None:
        client = await connect()
        await client.send(b"HEAD /a HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n")
        head, _, body = (await client.rest()).partition(b"\r\n\r\n")
        assert (b"content-length: 7" in head, body) == (True, b"")

    talk(conversation)


def test_a_mistake_of_ours_is_a_500_and_the_connection_goes_on() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> list[int]:
        client = await connect()
        await client.send(b"GET /broken HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
        return [(await client.response())[0] for _ in range(2)]

    assert talk(conversation) == [500, 200]


def test_a_client_that_says_no_more_still_gets_its_answer() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> bytes:
        client = await connect()
        await client.send(b"GET /later HTTP/1.1\r\n" + HOST + b"\r\n" + GET)
        client.writer.write_eof()
        await until(lambda: pages.waiting)
        pages.let_go()
        return await client.rest()

    said = talk(conversation)
    assert said.count(b"HTTP/1.1 200 OK") == 2


def test_nothing_is_captured_for_a_client_that_has_gone() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> None:
        client = await connect()
        await client.send(b"GET /later HTTP/1.1\r\n" + HOST + b"\r\n")
        await until(lambda: pages.waiting)
        client.reset()
        await until(lambda: not running.connections)
        pages.let_go()
        other = await connect()
        await other.send(GET)
        await other.response()
        await until(lambda: pages.written)
        assert pages.written == ["/a"]

    talk(conversation)


def test_connections_beyond_the_limit_are_told_to_come_again() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> None:
        clients = [await connect() for _ in range(8)]
        for client in clients:
            await client.send(GET)
            assert (await client.response())[0] == 200
        one_too_many = await connect()
        assert (await one_too_many.rest()).startswith(b"HTTP/1.1 503 ")
        one_too_many.reset()
        await until(lambda: len(running.connections) == 8)
        clients[0].writer.close()
        await until(lambda: len(running.connections) == 7)
        fresh = await connect()
        await fresh.send(GET)
        assert (await fresh.response())[0] == 200

    talk(conversation)


def test_many_bodies_that_do_not_end_are_refused_at_a_bound() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> None:
        clients = [await connect() for _ in range(30)]
        for client in clients:
            await client.send(post(b"Content-Length: 1000", body=b"x" * 999))
        async with asyncio.timeout(SECONDS):
            firsts = [asyncio.ensure_future(client.reader.read(13)) for client in clients]
            await asyncio.wait(firsts, return_when=asyncio.FIRST_COMPLETED)
            while len(done := [f for f in firsts if f.done()]) < 30 - BODIES - 1:
                await asyncio.sleep(0.01)
        assert {first.result() for first in done} == {b"HTTP/1.1 429 "}
        assert running.budget.used_bytes <= running.budget.limit_bytes
        for first in firsts:
            first.cancel()
        for client in clients:
            client.reset()
        await until(lambda: not running.connections)
        assert running.budget.used_bytes == 0

    talk(conversation, RequestLimits(max_body_bytes=1000, max_connections=100))


# --- slow clients -------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SLOW_SECONDS", 0.3)
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.3)
    monkeypatch.setattr(server, "SWEEP_SECONDS", 0.05)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([], b""),
        ([GET], b"HTTP/1.1 200"),
        ([b"GET / HT"], b"HTTP/1.1 408"),
        ([post(b"Content-Length: 100", body=b"{")], b"HTTP/1.1 408"),
        ([post(CHUNKED, body=b"1\r\n{\r\n")], b"HTTP/1.1 408"),
        ([b"\r\n"], b""),
    ],
)
def test_a_client_that_keeps_us_waiting_is_closed(sent: list[bytes], said: bytes) -> None:
    assert say(*sent)[: len(b"HTTP/1.1 408")] == said


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("byte", [b"\r\n", b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 50])
def test_a_client_that_sends_a_little_now_and_then_is_closed_too(byte: bytes) -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> bytes:
        client = await connect()
        rest, sent = asyncio.ensure_future(client.rest()), 0
        while not rest.done():
            client.writer.write(byte if len(byte) < 9 else byte[sent : sent + 1])
            sent += 1
            await asyncio.sleep(0.01)
        return rest.result()

    assert talk(conversation)[:12] == (b"" if len(byte) < 9 else b"HTTP/1.1 408")


@pytest.mark.usefixtures("quick")
def test_a_client_that_does_not_read_is_cut_off_and_holds_no_more_than_it_was_sent() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> int:
        client = await connect()
        client.reader._limit = 1  # type: ignore[attr-defined]  # asyncio's own reader takes no more
        large = b"GET /large HTTP/1.1\r\n" + HOST + b"\r\n"
        await client.send(large * 100)
        await until(lambda: pages.seen)
        async with asyncio.timeout(SECONDS):
            while running.connections:
                await asyncio.sleep(0.02)
        return len(pages.seen)

    assert talk(conversation) == 1


# --- the end ------------------------------------------------------------------------------------------------


def test_a_server_that_ends_answers_what_is_there_and_says_so() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> None:
        waiting, idle, asking = [await connect() for _ in range(3)]
        await waiting.send(b"GET /later HTTP/1.1\r\n" + HOST + b"\r\n")
        await asking.send(GET)
        assert "connection" not in (await asking.response())[1]
        await until(lambda: pages.waiting)
        drained = asyncio.ensure_future(running.drain(replaced=True))
        await until(lambda: running.draining)
        await asking.send(GET)
        assert (await asking.response())[1]["connection"] == "close"
        fresh = await connect()  # who comes in the last moment is answered
        await fresh.send(GET)
        assert (await fresh.response())[1]["connection"] == "close"
        assert await idle.rest() == b""
        assert not drained.done()
        pages.let_go()
        status, headers, body = await waiting.response()
        assert (status, headers["connection"], body) == (200, "close", b"late")
        await drained
        assert pages.written == ["/a", "/a", "/a"]
        with pytest.raises(OSError):
            await connect()

    talk(conversation)


def test_those_who_wait_to_be_accepted_when_a_server_ends_are_answered() -> None:
    async def conversation(pages: Pages, running: Server, connect: Any) -> None:
        client = await connect()
        address = client.writer.get_extra_info("peername")
        client.writer.close()
        waiting = [socket.create_connection(address) for _ in range(6)]  # the loop has no turn
        for raw in waiting:
            raw.sendall(GET)
        drained = asyncio.ensure_future(running.drain())
        await until(lambda: len(pages.seen) == 6)
        await drained
        for raw in waiting:
            with raw:
                assert raw.recv(1000).startswith(b"HTTP/1.1 200 OK")
        with pytest.raises(ConnectionRefusedError):
            await connect()

    talk(conversation)


def test_over_tls_everything_is_the_same(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    ours, theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context(cafile=str(cert))
    ours.load_cert_chain(cert, key)

    async def go() -> list[Any]:
        pages, listener = Pages(), socket.create_server(("127.0.0.1", 0))
        running = Server(pages, LIMITS, ours)
        await running.start(listener)
        port = listener.getsockname()[1]
        client = Client(
            await asyncio.open_connection("127.0.0.1", port, ssl=theirs, server_hostname="localhost")
        )
        await client.send(GET * 2)
        told = [(await client.response())[2] for _ in range(2)]
        await client.send(b"BROKEN\r\n\r\n")
        told.append((await client.response())[0])
        assert all(request.tls for request in pages.seen)
        client.writer.close()
        await running.drain()
        return told

    assert run(go()) == [b"GET /a", b"GET /a", 400]


def certificate(folder: Path) -> tuple[Path, Path]:
    """For localhost, signed by itself."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name.from_rfc4514_string("CN=localhost")
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(
            name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(1)
        )
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(pem)
    return folder / "cert.pem", folder / "key.pem"


def test_what_came_behind_a_known_request_is_not_taken_for_its_body() -> None:
    """Blank lines may stand between requests; a head that was read before is recognised without the parser."""
    body = b"abcd\r\n\r\n{}"
    head = b"POST /a HTTP/1.1\r\n" + HOST + b"content-length: %d\r\n\r\n" % len(body)
    fed = reader.Reader(LIMITS, reader.Budget(LIMITS))
    fed.feed(head + body + b"\r\n" * 4)
    fed.feed(head + body + GET[:8])
    fed.feed(GET[8:])
    assert [(request.method, request.body) for request, _ in fed.ready] == [
        ("POST", body),
        ("POST", body),
        ("GET", b""),
    ]
