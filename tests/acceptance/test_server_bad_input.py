"""Whatever bad input reaches a server process: a 4xx with one line of JSON that names the field and what was expected,
no traceback in its log, no growth, and the others are served meanwhile. Raw sockets: no client library repairs it.
"""

from __future__ import annotations

import gzip
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.routes import Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec, ServerState
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_mixed_bundle, make_onnx_bundle
from tests.loading import exchange, head, request
from tests.served_models import lengths

NAMES = tuple(f"c{i}" for i in range(5))
ROW = [0.1, 0.2, 0.3, 0.4, 0.5]
PLAIN = "/models/plain/invocations"
GOOD = request(PLAIN, json.dumps({"inputs": [ROW]}).encode())
BODY_LIMIT = 4_000_000
LATE_SECONDS = 5.0
ROUNDS = 20


class Bad(NamedTuple):
    name: str
    sent: bytes
    status: int
    said: str
    """Part of the message, as a regular expression."""


# --- what is sent -------------------------------------------------------------------------------------------


def invocation(body: bytes, *lines: str) -> bytes:
    return request(PLAIN, body, *lines)


def cell(value: str) -> bytes:
    return b'{"inputs": [[%b,2,3,4,5]]}' % value.encode()


def json_bodies() -> Iterator[Bad]:
    bodies: dict[str, tuple[bytes, str]] = {
        "empty": (b"", "not JSON"),
        "cut": (b'{"inputs": [[1, 2', "not JSON: .* line 1, column"),
        "a number": (b"7", "expected an object with one of .* got"),
        "a text": (b'"x"', "expected an object"),
        "null": (b"null", "expected an object"),
        "a list": (b"[1]", "expected an object"),
        "no field": (b"{}", "exactly one of .* got none"),
        "two fields": (b'{"inputs": [], "instances": []}', "exactly one of .* got 'inputs', 'instances'"),
        "a key twice": (b'{"inputs": [[1,2,3,4,5]], "inputs": [[1,2,3,4,5]]}', "'inputs' is given twice"),
        "100,000 nested": (b"[" * 100_000 + b"]" * 100_000, "nested too deeply"),
        "100,000 nested in a row": (
            b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            "nested too deeply",
        ),
        "100,000 objects nested": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested too deeply"),
        "BOM": (b'\xef\xbb\xbf{"inputs": [[1,2,3,4,5]]}', "not JSON"),
        "UTF-16": ('{"inputs": [[1,2,3,4,5]]}'.encode("utf-16"), "not UTF-8: byte 0"),
        "not UTF-8": (b'{"inputs": [["\xff",2,3,4,5]]}', "not UTF-8: byte"),
        "lone surrogate": (b'{"dataframe_records": [{"\\ud800": 1}]}', "lone surrogate"),
        "zero byte": (b'{"inputs": [[1,2,3,4,5]]}\x00', "not JSON"),
        "100,000 objects": (
            b"[" + b",".join([b'{"a":1}'] * 100_000) + b"]",
            "expected an object with one of",
        ),
        "100,000 lists": (b'{"inputs": [' + b",".join([b"[]"] * 100_000) + b"]}", "row 0 has 0 values"),
    }
    for name, (body, said) in bodies.items():
        yield Bad(f"JSON: {name}", invocation(body), 400, said)
    many = b"[" + b",".join([b'{"a":1}'] * 400_000) + b"]"
    yield Bad(
        "JSON: 400,000 objects", invocation(many), 413, "102 MB in memory, more than 16 times its own size"
    )


def numbers() -> Iterator[Bad]:
    values = {
        "NaN": ("NaN", "missing"),
        "null": ("null", "missing"),
        "Infinity": ("Infinity", "finite"),
        "-Infinity": ("-Infinity", "finite"),
        "1e999": ("1e999", "column 'c0', row 0: expected|finite"),
        "10,000 digits": ("9" * 10_000, "digits|column 'c0'"),
        "text": ('"1"', "column 'c0', row 0: expected"),
        "boolean": ("true", "column 'c0', row 0: expected"),
        "list": ("[1]", "column 'c0', row 0: expected"),
        "object": ("{}", "column 'c0', row 0: expected"),
        "hexadecimal": ("0x10", "not JSON"),
        "leading zero": ("007", "not JSON"),
    }
    for name, (value, said) in values.items():
        yield Bad(f"number: {name}", invocation(cell(value)), 400, said)
    for name, value in {"2^70": 2**70, "2^63": 2**63, "a half": 0.5, "1e300": 1e300, "text": "6"}.items():
        record = {"amount": 45.0, "age": value, "vip": True, "city": "Wien"}
        body = json.dumps({"dataframe_records": [record]}).encode()
        sent = request("/models/mixed/invocations", body)
        yield Bad(f"number: {name} for a whole number", sent, 400, "column 'age', row 0: expected")
    for value, said in {
        "null": "a missing value",
        "NaN": "a missing value",
        "3e38": "in the range of float",
    }.items():
        body = b'{"inputs": [[[1, 1]], [[%b, 3e38]]]}' % value.encode()
        sent = request("/models/waves/invocations", body)
        yield Bad(
            f"number: {value} in a tensor", sent, 400, f"column 'wave', row 1: .*{said}.*no finite answer"
        )


def shapes() -> Iterator[Bad]:
    columns = json.dumps(NAMES).encode()
    split = b'{"dataframe_split": {"columns": %b, "data": [[1,2,3,4,5],[1]]}}' % columns
    yield Bad("shape: ragged rows", invocation(split), 400, "row 1 has 1 values, expected 5")
    by_column = b'{"inputs": {"c0":[1],"c1":[1,2],"c2":[1],"c3":[1],"c4":[1]}}'
    yield Bad("shape: ragged columns", invocation(by_column), 400, "column 'c1' has 2 values")
    yield Bad("shape: no rows", invocation(b'{"inputs": []}'), 400, "no rows")
    yield Bad(
        "shape: a row that is none", invocation(b'{"inputs": [1]}'), 400, "row 0: expected a list of 5 values"
    )
    for shape, said in {
        "[-1, 5]": "shape",
        "[0, 5]": "rows|shape",
        "[0]": "rows|shape",
        "[1, 4]": "shape|columns|values",
        "[2, 5]": "shape|values",
        "[4294967296, 4294967296]": "shape|values",
        "[9223372036854775807, 2]": "shape|values",
        "[1e3, 5]": "shape",
        "[true, 5]": "shape",
        '"1,5"': "shape",
        "[]": "shape",
        "[1, 5, 1]": "shape",
    }.items():
        tensor = b'{"name": "x", "datatype": "FP64", "shape": %b, "data": [1,2,3,4,5]}' % shape.encode()
        yield Bad(f"shape: {shape}", infer(b'{"inputs": [%b]}' % tensor), 400, said)


def names() -> Iterator[Bad]:
    record = {**dict.fromkeys(NAMES, 1.0)}
    for name, more, said in (
        ("unknown", {"c9": 1}, "unknown column 'c9'.*c4|unknown column 'c9'"),
        ("very long", {"n" * 100_000: 1}, "unknown column"),
        ("control characters", {"\n\x00\x1b[31m": 1}, "unknown column"),
        ("empty", {"": 1}, "unknown column ''"),
    ):
        body = json.dumps({"dataframe_records": [{**record, **more}]}).encode()
        yield Bad(f"name: {name}", invocation(body), 400, said)
    missing = json.dumps({"dataframe_records": [{"c0": 1}]}).encode()
    yield Bad("name: missing", invocation(missing), 400, "missing column 'c1', 'c2', 'c3', 'c4'")
    for path, said in {
        "/v2/models/plian/infer": "there is no model 'plian' here. Did you mean 'plain'",
        "/v2/models/plain/versions/9/infer": "version '9' of 'plain' is not routed here; there is 1",
        "/v2/models/plain/versions/-1/infer": "version '-1'",
        "/v2/models/" + "m" * 5000 + "/infer": "there is no model",
        "/v2/models/%0d%0aX:%20y/infer": "there is no model",
    }.items():
        yield Bad(f"name: {path[:50]}", infer(b"{}", path), 404, said)


def infer(body: bytes, path: str = "/v2/models/plain/infer", *lines: str) -> bytes:
    return request(path, body, *lines)


def sizes_and_types() -> Iterator[Bad]:
    too_large = f"the body is too large: at most {BODY_LIMIT} bytes"
    announced = head(PLAIN, "Content-Type: application/json", "Content-Length: 64000000")
    yield Bad("64 MB announced", announced, 413, too_large)
    yield Bad("64 MB sent", announced + bytes(64_000_000), 413, too_large)
    chunks = head(PLAIN, "Content-Type: application/json", "Transfer-Encoding: chunked")
    yield Bad("64 MB in chunks", chunks + (b"fa000\r\n" + bytes(0xFA000) + b"\r\n") * 64, 413, too_large)
    bomb = gzip.compress(bytes(3_000_000))
    yield Bad(
        "gzip bomb", invocation(bomb, "Content-Encoding: gzip"), 415, "content encoding: expected a body"
    )
    yield Bad(
        "deflate", invocation(b"x", "Content-Encoding: deflate"), 415, "content encoding: expected a body"
    )
    for given in ("text/plain", "application/x-python-pickle", "multipart/form-data; boundary=x", "é;;="):
        sent = request(PLAIN, b"{}", content_type=given)
        yield Bad(f"type {given!r}", sent, 415, "content type .*: expected application/json or text/csv")
    yield Bad("no type", request(PLAIN, b"{}", content_type=""), 415, "content type none: expected")
    utf_16 = request(PLAIN, b"{}", content_type="application/json; charset=utf-16")
    yield Bad("another charset", utf_16, 415, "content type .* in UTF-8")


def paths() -> Iterator[Bad]:
    for path in (
        "/../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "//etc/passwd",
        "/invocations/../../etc/passwd",
        "/invocations/",
        "/INVOCATIONS",
        "/invocations%00.json",
        "/v2/models/..%2f..%2fetc%2fpasswd/infer",
        "/v2/models//infer",
        "/v2/models/plain/infer/../../x",
        "/capture/x.npz",
        "/" + "a/" * 3000,
    ):
        yield Bad(f"path {path[:40]}", request(path, b"{}"), 404, "there is no ")
    yield Bad("path: not UTF-8", request("/%ff", b"{}"), 400, "target: expected ASCII")
    yield Bad("path: too long", request("/" + "a" * 9000, b"{}"), 414, "at most 8192 bytes")
    yield Bad("method", head("/invocations", method="DELETE"), 405, "/invocations takes POST")
    yield Bad("another server's", head("/", method="CONNECT"), 400, "method: CONNECT")


def binaries() -> Iterator[Bad]:
    """The binary extension: lengths that lie."""
    tensor = {"name": "x", "datatype": "FP64", "shape": [1, 5], "parameters": {"binary_data_size": 40}}
    form, raw = json.dumps({"inputs": [tensor]}).encode(), bytes(40)

    def sent(length: object, body: bytes) -> bytes:
        return infer(body, "/v2/models/plain/infer", f"Inference-Header-Content-Length: {length}")

    said = "[Ii]nference-[Hh]eader-[Cc]ontent-[Ll]ength"
    for length in (-1, "", "1e3", "0x10", "+5", "9" * 40, len(form) + 1000):
        yield Bad(f"binary: length {length}"[:40], sent(length, form + raw), 400, said)
    yield Bad("binary: length too short", sent(len(form) - 1, form + raw), 400, "JSON")
    yield Bad("binary: length too long", sent(len(form) + 1, form + raw), 400, "JSON|bytes")
    yield Bad("binary: length 0", sent(0, form + raw), 400, "JSON|length")
    for name, body in {"short": form + raw[:-1], "long": form + raw + b"x", "none": form}.items():
        yield Bad(f"binary: tensor {name}", sent(len(form), body), 400, "bytes")
    for size in (-40, 39, 2**63, 10**30, 1.5, True, None, "40"):
        lying = {**tensor, "parameters": {"binary_data_size": size}}
        form = json.dumps({"inputs": [lying]}).encode()
        yield Bad(f"binary: size {size}", sent(len(form), form + raw), 400, "binary_data_size|bytes|data")
    for datatype in ("FP128", "", "BYTES", "BOOL", 5):
        lying = {**tensor, "datatype": datatype}
        form = json.dumps({"inputs": [lying]}).encode()
        yield Bad(f"binary: datatype {datatype}", sent(len(form), form + raw), 400, "datatype|expected|bytes")


def framing() -> Iterator[Bad]:
    """Requests that a proxy before us could cut in other places."""
    length, chunked = "Content-Length: 5", "Transfer-Encoding: chunked"
    hidden = b"0\r\n\r\nGET /v2 HTTP/1.1\r\nHost: x\r\n\r\n"
    yield Bad("length and chunks", head("/invocations", length, chunked) + hidden, 400, "content-length")
    yield Bad("chunks and length", head("/invocations", chunked, length) + hidden, 400, "content-length")
    yield Bad(
        "two lengths", head("/invocations", length, "Content-Length: 6") + b"{}   x", 400, "content-length"
    )
    yield Bad("one length twice", head("/invocations", length, length) + b"{}   ", 400, "content-length")
    yield Bad("negative length", head("/invocations", "Content-Length: -5"), 400, "content-length")
    yield Bad("endless length", head("/invocations", "Content-Length: " + "9" * 30), 400, "content-length")
    yield Bad(
        "another coding", head("/invocations", "Transfer-Encoding: xchunked") + hidden, 400, "transfer-encod"
    )
    yield Bad(
        "coding with a blank", head("/invocations", "Transfer-Encoding : chunked") + hidden, 400, "header"
    )
    yield Bad("chunk of -1", head("/invocations", chunked) + b"-1\r\n", 400, "chunk: expected")
    yield Bad("chunk too long", head("/invocations", chunked) + b"F" * 17 + b"\r\n", 400, "chunk: expected")
    yield Bad("folded header", head("/ping", "A: b", " c", method="GET"), 400, "header: expected")
    yield Bad("zero byte in a header", head("/ping", "A: b\x00", method="GET"), 400, "header: expected")
    yield Bad(
        "many headers", head("/ping", *["A: b"] * 5000, method="GET"), 431, "at most 100 with 16384 bytes"
    )
    yield Bad("large header", head("/ping", "A: " + "b" * 1_000_000, method="GET"), 431, "at most 100")
    yield Bad("no host", b"GET /ping HTTP/1.1\r\n\r\n", 400, "header host: expected one, got 0")
    yield Bad("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "version: expected HTTP/1.1")
    yield Bad("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(60), 400, "method: expected")
    yield Bad("noise", bytes(range(256)) * 10, 400, "method: expected")
    yield Bad("upgrade", head("/ping", "Connection: Upgrade", "Upgrade: h2c", method="GET"), 400, "upgrade")


BAD = [
    *json_bodies(),
    *numbers(),
    *shapes(),
    *names(),
    *sizes_and_types(),
    *paths(),
    *binaries(),
    *framing(),
]


# --- who is asked -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerState]:
    """One worker, with a model of five numbers, one of every kind of column, and one of tensors."""
    root = tmp_path_factory.mktemp("bad")
    documents = FolderDocuments(root / "servers")
    folder = documents.folder("e")
    plain = make_onnx_bundle(root / "plain", NAMES, 1, (0, 1))
    mixed = make_mixed_bundle(root / "mixed")
    routes = (
        Route("plain", 1, plain.digest, str(root / "plain")),
        Route("mixed", 1, mixed.digest, str(root / "mixed")),
        Route("waves", 1, lengths(root / "waves").digest, str(root / "waves")),
    )
    documents.publish(Routes("e", 0, routes))
    target = LocalTarget()
    yield target.apply(ServerSpec("e", folder, limits=RequestLimits(max_body_bytes=BODY_LIMIT)))
    target.stop(folder)


class Others:
    """Clients that go on asking, each on one connection; how long the slowest answer took."""

    def __init__(self, state: ServerState, clients: int = 2) -> None:
        self.answers = 0
        self.slowest_s = 0.0
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._futures = [self._pool.submit(self._ask, state) for _ in range(clients)]

    def _ask(self, state: ServerState) -> None:
        with socket.create_connection((state.host, state.port), timeout=30) as raw:
            while not self._stop.wait(0.002):
                began = time.monotonic()
                assert exchange(raw, GOOD)[0] == 200
                self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                self.answers += 1

    def stop(self) -> None:
        self._stop.set()
        for future in self._futures:
            future.result()
        self._pool.shutdown()


def told(state: ServerState, bad: Bad) -> tuple[int, Any]:
    """Status and page, on a connection of its own; asserts that it is one line."""
    began = time.monotonic()
    with socket.create_connection((state.host, state.port), timeout=30) as raw:
        status, headers, body = exchange(raw, bad.sent)
    assert time.monotonic() - began < LATE_SECONDS, bad.name
    assert headers["content-type"] == "application/json", (bad.name, body)
    assert b"\n" not in body and len(body) < 4000, (bad.name, body)
    assert b"Traceback" not in body, (bad.name, body)
    return status, json.loads(body)


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+) kB", status)[0]) * 1024


def test_each_bad_input_is_a_4xx_that_says_what_was_expected_and_others_are_served(
    server: ServerState,
) -> None:
    (worker,) = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()
    others = Others(server)
    sizes = []
    for _ in range(ROUNDS):
        for bad in BAD:
            status, page = told(server, bad)
            said = page["message"] if "message" in page else page["error"]
            assert status == bad.status, (bad.name, status, said)
            assert re.search(bad.said, said), (bad.name, said)
        sizes.append(resident_bytes(int(worker)))
    others.stop()
    print(f"{len(BAD)} inputs, {ROUNDS} times; resident MB {[size >> 20 for size in sizes]};", end=" ")
    print(f"{others.answers} answers beside them, the slowest in {others.slowest_s * 1000:.0f} ms")
    assert sizes[-1] < sizes[ROUNDS // 2] * 1.05  # the first rounds fill caches and pools
    assert others.answers > 100
    assert others.slowest_s < 2.0
    log = (Path(f"/proc/{server.pid}/cwd").resolve() / "server.log").read_text()
    assert "Traceback" not in log
    assert "stack_trace" not in log


def test_a_connection_that_sent_bad_bodies_is_still_good(server: ServerState) -> None:
    bodies = [*json_bodies(), *numbers(), *shapes(), *binaries()]
    with socket.create_connection((server.host, server.port), timeout=30) as raw:
        for bad in bodies:
            assert exchange(raw, bad.sent)[0] == bad.status, bad.name
            assert exchange(raw, GOOD)[0] == 200, bad.name


def test_bad_inputs_of_many_at_once_harm_nobody(server: ServerState) -> None:
    others = Others(server)
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda bad: told(server, bad)[0], BAD * 3))
    others.stop()
    assert found == [bad.status for bad in BAD] * 3
    assert others.answers > 20
