"""Whatever is sent, the data plane answers: 200, or a 4xx with one line that says what was expected; never a 5xx,
never an exception that is not a Problem, never late. Ten thousand requests here, a million with `-m soak`."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.serving.calls import Call
from mlplatform.serving.dataplane import Answer, DataPlane
from mlplatform.serving.protocols.tensors import NUMPY
from tests.unit.serving.mutations import MODELS, good, harmed

Bundle = tuple[Path, Manifest]
Sent = tuple[str, Call]
LATE_S = 5.0
"""Of CPU; other tests may run beside this one."""
COLUMNS = (
    *("a", "b", "c", "amount", "age", "vip", "city", "note", "ts", "wave", "image", "factor", "text"),
    *("é", ""),
)


# Outside tests it is no error that a float64 is too large for a model of float32.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered in cast")


class Plane:
    def __init__(self, folder: Path, bundles: Mapping[str, Bundle]) -> None:
        routes = tuple(Route(name, 1, made.digest, str(path)) for name, (path, made) in bundles.items())
        document = Routes("e", 1, routes, capture=CaptureRule(context=("ts",), sample=0.1))
        (folder / "routes.json").write_bytes(document.encode())
        self.seen: Counter[tuple[str, int]] = Counter()
        self._runner = asyncio.Runner()
        self._plane = DataPlane(folder)
        self._runner.run(self._plane.router.look())
        for name in bundles:
            self._runner.run(self._plane.router.wake(name))
        assert len(self._plane.router.table.arms) == len(bundles), self._plane.router.error

    async def _answer(self, protocol: str, call: Call) -> Answer:
        answer = self._plane.predict(protocol, call)
        return answer if isinstance(answer, Answer) else await answer

    def ask(self, protocol: str, call: Call) -> None:
        start = time.process_time()
        answer = self._runner.run(self._answer(protocol, call))
        self._plane.record(answer)
        assert time.process_time() - start < LATE_S
        self.seen[protocol, answer.status] += 1
        self.said = answer.payload
        if answer.status == 200:
            said = json.loads(answer.payload[: answer.json_length or None])
            assert set(said) & {"predictions", "outputs"}
        else:
            assert 400 <= answer.status < 500, (answer.payload, call.body)
            assert b"\n" not in answer.payload and b"Traceback" not in answer.payload
            assert len(answer.payload) < 4000
            said = json.loads(answer.payload)
            assert set(said) == ({"error"} if protocol == "v2" else {"error_code", "message"})
            assert len(next(reversed(said.values()))) > 10

    def close(self) -> None:
        self._runner.run(self._plane.close())
        self._runner.close()
        assert self._plane.metrics.dropped_rows == {}


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory, fuzzed: Mapping[str, Bundle]) -> Iterator[Plane]:
    made = Plane(tmp_path_factory.mktemp("plane"), fuzzed)
    yield made
    made.close()


# --- what is sent -------------------------------------------------------------------------------------------

LENGTHS = st.sampled_from([0, 1, 2, 3, 4, 8, 24, 2**31, 2**63, 10**30, -1, -8, 1.0, True, None, "8", [], {}])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from(["2026-01-31", "2026-02-30T25:00:00Z", 1e308, 5e-324, -0.0, 2**1030, "\ud800", "NaN"]),
)
JUNK = st.one_of(
    SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(max_size=3), SCALARS, max_size=2)
)
DATATYPES = st.sampled_from([*NUMPY, "FP64", "FP32", "INT64", "BYTES", "BF16", "", None])
SHAPES = st.one_of(
    st.lists(st.integers(0, 3), min_size=1, max_size=2),
    st.sampled_from([[1], [2], [1, 1], [2, 1], [1, 3], [2, 3]]),
    st.lists(LENGTHS, max_size=4),
    LENGTHS,
)
NUMBER = st.one_of(st.integers(-300, 300), st.floats(width=32), st.none())


@st.composite
def tensor_values(draw: st.DrawFn) -> Any:
    if draw(st.integers(0, 3)) == 0:
        return draw(JUNK)
    value = draw(st.sampled_from([NUMBER, st.integers(0, 9), st.booleans(), st.text(max_size=4)]))
    return draw(st.lists(value | st.lists(value, max_size=4), max_size=6))


@st.composite
def v2_binary(draw: st.DrawFn) -> Sent:
    """Tensors with sizes that are right or lie, behind a length that is right or lies."""
    inputs, raw = [], b""
    for name in draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=4)):
        buffer = draw(
            st.binary(max_size=24) | st.sampled_from([bytes(8), bytes(24), b"\1\0\0\0x", bytes(48)])
        )
        honest = draw(st.integers(0, 4)) > 0
        size = len(buffer) if honest else draw(LENGTHS)
        item = {"name": name, "datatype": draw(DATATYPES), "shape": draw(SHAPES)}
        inputs.append({**item, "parameters": {"binary_data_size": size}})
        raw += buffer
    head = json.dumps({"inputs": inputs, **draw(extras())}).encode()
    call = Call(head + raw)
    lie = st.sampled_from([b"", b"-1", b"0", b"1e3", b"\xb2", b"9" * 400, str(len(head) + 1).encode()])
    call.json_length = str(len(head)).encode() if draw(st.integers(0, 5)) else draw(lie)
    return "v2", named(draw, call)


@st.composite
def v2_matrix(draw: st.DrawFn) -> Sent:
    """A matrix of bytes that may be any numbers."""
    rows, width = draw(st.integers(0, 3)), draw(st.sampled_from([3, 3, 3, 1, 5]))
    datatype, size = draw(
        st.sampled_from([("FP64", 8), ("FP32", 4), ("FP16", 2), ("INT64", 8), ("UINT8", 1)])
    )
    raw = draw(st.binary(min_size=rows * width * size, max_size=rows * width * size))
    item = {"name": "x", "datatype": datatype, "shape": [rows, width]}
    head = json.dumps({"inputs": [{**item, "parameters": {"binary_data_size": len(raw)}}], **draw(extras())})
    call = Call(head.encode() + raw)
    call.json_length = str(len(head)).encode()
    return "v2", named(draw, call)


@st.composite
def extras(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.integers(0, 5))
    if kind < 3:
        return {}
    if kind == 3:
        return {
            "parameters": {"binary_data_output": draw(st.booleans() | JUNK)},
            "id": draw(st.text(max_size=9)),
        }
    if kind == 4:
        outputs = st.sampled_from(["predictions", "scores", "other", None])
        form = st.fixed_dictionaries({"name": outputs}, optional={"parameters": JUNK})
        return {"outputs": draw(st.lists(form, max_size=3))}
    return draw(st.dictionaries(st.sampled_from(["id", "outputs", "parameters", "inputs"]), JUNK, max_size=2))


@st.composite
def v2_json(draw: st.DrawFn) -> Sent:
    inputs = []
    for name in draw(st.lists(st.sampled_from(COLUMNS), max_size=4)):
        item = {
            "name": name,
            "datatype": draw(DATATYPES),
            "shape": draw(SHAPES),
            "data": draw(tensor_values()),
        }
        if not draw(st.integers(0, 7)):
            item[draw(st.sampled_from([*item, "parameters"]))] = draw(JUNK)
        inputs.append(item)
    return "v2", named(draw, Call(spoilt(draw, json.dumps({"inputs": inputs, **draw(extras())}).encode())))


@st.composite
def invocation(draw: st.DrawFn) -> Sent:
    columns = draw(
        st.sampled_from([("a", "b", "c"), ("amount", "age", "vip", "city")]) | st.permutations(COLUMNS)
    )
    rows = draw(st.lists(st.lists(NUMBER | SCALARS, min_size=3, max_size=5), max_size=3))
    records = [dict(zip(columns, row, strict=False)) for row in rows]
    body = draw(
        st.sampled_from(
            [
                {"dataframe_split": {"columns": columns, "data": rows}},
                {"dataframe_split": {"columns": columns, "data": rows, "index": draw(JUNK)}},
                {"dataframe_split": draw(JUNK)},
                {"dataframe_records": records},
                {"instances": rows},
                {"inputs": records},
                {"inputs": dict.fromkeys(columns, draw(JUNK))},
                {"inputs": draw(JUNK), "params": draw(JUNK)},
                draw(JUNK),
            ]
        )
    )
    return "mlflow", named(draw, Call(spoilt(draw, json.dumps(body).encode()), b"application/json"))


@st.composite
def table(draw: st.DrawFn) -> Sent:
    lines = draw(st.lists(st.lists(st.text(max_size=4) | st.sampled_from(COLUMNS), max_size=5), max_size=4))
    text = draw(st.sampled_from(["a,b,c\n", "amount,age,vip,city\n", ""])) + "\n".join(map(",".join, lines))
    return "mlflow", named(draw, Call(spoilt(draw, text.encode("utf-8", "surrogatepass")), b"text/csv"))


@st.composite
def noise(draw: st.DrawFn) -> Sent:
    call = Call(
        draw(st.binary(max_size=60)), draw(st.sampled_from([b"application/json", b"text/csv", b"", b"\xff;"]))
    )
    call.json_length = draw(st.none() | st.binary(max_size=4))
    return draw(st.sampled_from(["mlflow", "v2"])), named(draw, call)


def named(draw: st.DrawFn, call: Call) -> Call:
    call.model = draw(st.sampled_from([*MODELS, *MODELS, *MODELS, "other"]))
    call.version = draw(st.sampled_from(["", "", "1", "1", "2", "-1"]))
    return call


def spoilt(draw: st.DrawFn, body: bytes) -> bytes:
    """Mostly as it is; else cut, or with some bytes that are others."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return body[: draw(st.integers(0, len(body)))]
    if kind == 1 and body:
        at = draw(st.integers(0, len(body) - 1))
        return body[:at] + draw(st.binary(max_size=3)) + body[at + 1 :]
    return body


SENT = st.one_of(v2_binary(), v2_matrix(), v2_json(), invocation(), table(), noise())


# --- what is answered ---------------------------------------------------------------------------------------


def made_up(plane: Plane, count: int, number: int) -> None:
    """Requests from Hypothesis, which looks for the smallest one that fails."""

    @seed(number)
    @settings(max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(SENT)
    def ask(sent: Sent) -> None:
        plane.ask(*sent)

    ask()


def spoilt_ones(plane: Plane, count: int, number: int) -> None:
    """Good requests with something wrong in them."""
    random, corpus = Random(number), good()
    for _ in range(count):
        plane.ask(*harmed(random, random.choice(corpus)))


def test_the_good_requests_are_answered(plane: Plane) -> None:
    for protocol, call in good():
        before = plane.seen[protocol, 200]
        plane.ask(protocol, call)
        assert plane.seen[protocol, 200] == before + 1, (call.body, plane.said)


def test_ten_thousand_requests_of_every_kind(plane: Plane) -> None:
    before = plane.seen.total()
    made_up(plane, 1_500, 1)
    spoilt_ones(plane, 8_500, 1)
    assert plane.seen.total() - before >= 10_000
    print(sorted(plane.seen.items()))
    assert {status for _, status in plane.seen} == {200, 400, 404, 415}
    for protocol in ("mlflow", "v2"):
        assert plane.seen[protocol, 200] > 300
        assert plane.seen[protocol, 400] > 1000


@pytest.mark.soak
def test_a_million_requests_of_every_kind(plane: Plane) -> None:
    before = plane.seen.total()
    for number in range(100, 200):
        made_up(plane, 1_000, number)
        spoilt_ones(plane, 9_000, number)
    assert plane.seen.total() - before >= 1_000_000
    print(sorted(plane.seen.items()))


MANY = 200_000
TENSOR = b'{"name": "%d", "datatype": "FP64", "shape": [1], "data": [1]}'


def split_of(columns: list[str]) -> bytes:
    return json.dumps({"dataframe_split": {"columns": columns, "data": []}}).encode()


def nested(depth: int) -> bytes:
    return b'{"inputs": "\\ud800", "x": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize(
    ("protocol", "body"),
    [
        ("mlflow", b'{"inputs": {' + b",".join(b'"%d": 1' % i for i in [*range(MANY), MANY - 1]) + b"}}"),
        ("mlflow", split_of([*map(str, range(MANY))])),
        ("mlflow", split_of(["a"] * MANY)),
        ("mlflow", split_of(["a" * 10_000_000])),
        ("v2", b'{"inputs": [' + b",".join(TENSOR % i for i in [*range(MANY), MANY - 1]) + b"]}"),
        ("v2", b'{"inputs": [' + b",".join(TENSOR % i for i in range(MANY)) + b"]}"),
        (
            "v2",
            b'{"inputs": [{"name": "'
            + b"a" * 10_000_000
            + b'", "datatype": "FP64", "shape": [1], "data": [1]}]}',
        ),
        *(("mlflow", nested(depth)) for depth in (900, 970, 980, 985, 990, 995, 2000)),
    ],
)
def test_what_would_take_long_is_refused_soon(plane: Plane, protocol: str, body: bytes) -> None:
    call = Call(body, b"application/json")
    call.model = "numbers"
    plane.ask(protocol, call)
    assert plane.said.startswith(b'{"error')


def test_sizes_whose_sum_has_too_many_digits_to_be_written(plane: Plane) -> None:
    size = b"9" * 4299
    tensor = b'{"name": "%s", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": %s}}'
    head = b'{"inputs": [' + b",".join(tensor % (name, size) for name in (b"a", b"b", b"c")) + b"]}"
    call = Call(head)
    call.model, call.json_length = "numbers", str(len(head)).encode()
    plane.ask("v2", call)
    assert b"'binary_data_size' as a number of bytes" in plane.said
