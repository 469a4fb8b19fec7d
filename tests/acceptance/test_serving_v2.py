"""The real server, asked by Triton's own clients with their defaults, which are binary, and by plain HTTP."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException

from mlplatform.data.capture import read_block
from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_mixed_bundle, make_onnx_bundle
from tests import documents

SECONDS = 20.0
COLUMNS = ("a", "b", "c")
ROWS = np.array([[0.1, -0.2, 0.3], [2.0, 1.0, -1.0], [0.0, 0.5, 3.0]])
Bundle = tuple[Path, Manifest]


class Served:
    """A running server for a document."""

    def __init__(self, root: Path, *routes: tuple[str, int, Bundle, float]) -> None:
        self.documents = FolderDocuments(root)
        self.folder = self.documents.folder("e")
        document = tuple(
            Route(model, n, manifest.digest, str(folder), share)
            for model, n, (folder, manifest), share in routes
        )
        self.documents.publish(Routes("e", 0, document, capture=CaptureRule(context=("ts",))))
        state = LocalTarget().apply(ServerSpec("e", self.folder))
        self.url, self.address = state.url, f"{state.host}:{state.port}"

    def stop(self) -> None:
        LocalTarget().stop(self.folder)


@pytest.fixture(scope="module")
def numeric(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Bundle]:
    root = tmp_path_factory.mktemp("bundles")
    classes = {1: (0, 1), 2: (100, 101)}
    return {n: (root / str(n), make_onnx_bundle(root / str(n), COLUMNS, n, classes[n])) for n in classes}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, numeric: dict[int, Bundle]) -> Iterator[Served]:
    """Model `digits`: version 1 with almost all of the traffic, version 2 with almost none."""
    root = tmp_path_factory.mktemp("servers")
    server = Served(root, ("digits", 1, numeric[1], 1.0), ("digits", 2, numeric[2], 0.0))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("bundles") / "mixed"
    bundle = (folder, make_mixed_bundle(folder))
    server = Served(tmp_path_factory.mktemp("servers"), ("trip", 7, bundle, 1.0))
    yield server
    server.stop()


@pytest.fixture
def client(served: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(served.address) as client:
        yield client


def until(condition: Callable[[], Any]) -> Any:
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.01)
    return found


def as_input(name: str, values: Any, datatype: str, binary: bool = True, kind: Any = triton) -> Any:
    made = kind.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def predicted(served: Served, rows: Any = ROWS) -> list[int]:
    answer = httpx.post(f"{served.url}/invocations", json={"inputs": rows.tolist()})
    found: list[int] = answer.json()["predictions"]
    return found


def test_triton_sees_a_live_and_ready_server_and_its_models(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("digits")
    assert client.is_model_ready("digits", "2")
    assert not client.is_model_ready("digits", "3")
    assert not client.is_model_ready("nothing")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    found = client.get_model_metadata("digits")
    assert (found["name"], found["versions"], found["platform"]) == ("digits", ["1", "2"], "mlplatform_onnx")
    assert found["inputs"] == [{"name": n, "datatype": "FP64", "shape": [-1]} for n in COLUMNS]
    assert found["outputs"] == [
        {"name": "predictions", "datatype": "INT64", "shape": [-1]},
        {"name": "scores", "datatype": "FP32", "shape": [-1, 2]},
    ]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["FP64", "FP32"])
def test_triton_asks_with_a_matrix(client: Any, served: Served, binary: bool, datatype: str) -> None:
    values = ROWS.astype({"FP64": "float64", "FP32": "float32"}[datatype])
    result = client.infer("digits", [as_input("rows", values, datatype, binary)])
    assert result.as_numpy("predictions").tolist() == predicted(served)
    assert result.as_numpy("scores").shape == (3, 2)
    assert result.as_numpy("scores").sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert result.get_output("predictions")["parameters"]["binary_data_size"] == 24


def test_triton_asks_a_version_with_an_id_and_one_input_a_column(client: Any, served: Served) -> None:
    columns = [as_input(n, np.ascontiguousarray(ROWS[:, i : i + 1]), "FP64") for i, n in enumerate(COLUMNS)]
    outputs = [
        triton.InferRequestedOutput("scores", binary_data=False),
        triton.InferRequestedOutput("predictions", binary_data=True),
    ]
    result = client.infer("digits", columns, "2", outputs, request_id="mine")
    said = result.get_response()
    assert (said["id"], said["model_name"], said["model_version"]) == ("mine", "digits", "2")
    assert set(result.as_numpy("predictions").tolist()) <= {100, 101}
    assert result.get_output("scores")["data"] == pytest.approx(result.as_numpy("scores").ravel().tolist())


def test_tritons_asyncio_client_gets_the_same(served: Served) -> None:
    async def go() -> list[Any]:
        async with triton_aio.InferenceServerClient(served.address) as client:
            assert await client.is_server_ready()
            assert (await client.get_model_metadata("digits", "1"))["versions"] == ["1"]
            asked = [[as_input("x", ROWS, "FP64", binary, triton_aio)] for binary in (True, False)]
            answers = [await client.infer("digits", inputs) for inputs in asked]
            with pytest.raises(InferenceServerException, match="there is no model 'digit' here"):
                await client.infer("digit", asked[0])
            return [answer.as_numpy("predictions").tolist() for answer in answers]

    assert asyncio.run(go()) == [predicted(served)] * 2


def test_triton_asks_with_text_booleans_and_whole_numbers(mixed: Served) -> None:
    with triton.InferenceServerClient(mixed.address) as client:
        kinds = [i["datatype"] for i in client.get_model_metadata("trip")["inputs"]]
        assert kinds == ["FP64", "INT64", "BOOL", "BYTES", "BYTES"]
        for binary in (True, False):
            sent = [
                as_input("amount", np.array([45.0, 45.0]), "FP64", binary),
                as_input("age", np.array([6, 4]), "INT64", binary),
                as_input("vip", np.array([True, False]), "BOOL", binary),
                as_input("city", np.array(["Wien", "Zürich"], object), "BYTES", binary),
                as_input("ts", np.array(["2026-01-01", "2026-01-02"], object), "BYTES", binary),
            ]
            assert client.infer("trip", sent).as_numpy("predictions").tolist() == [1, 0]


def test_triton_is_told_in_one_line_what_is_wrong(client: Any) -> None:
    short = as_input("x", ROWS[:, :2].copy(), "FP64")
    with pytest.raises(InferenceServerException) as caught:
        client.infer("digits", [short])
    assert caught.value.status() == "400"
    assert "input 'x': expected shape [rows, 3] for the columns a, b, c, got [3, 2]" in str(caught.value)
    with pytest.raises(
        InferenceServerException, match="version '9' of 'digits' is not routed here; there is 1, 2"
    ):
        client.infer("digits", [as_input("x", ROWS, "FP64")], "9")
    with pytest.raises(InferenceServerException, match="not compressed"):
        client.infer("digits", [as_input("x", ROWS, "FP64")], request_compression_algorithm="gzip")


def test_large_binary_requests_are_answered_like_small_ones(client: Any, served: Served) -> None:
    large = np.tile(ROWS, (10_000, 1))
    result = client.infer("digits", [as_input("x", large, "FP64")])
    assert result.as_numpy("predictions").tolist() == predicted(served) * 10_000


def test_the_pages_of_the_protocol_over_plain_http(served: Served) -> None:
    with httpx.Client(base_url=served.url) as client:
        assert client.get("/v2").json()["name"] == "mlplatform"
        assert client.get("/v2/health/live").json() == {"live": True}
        ready = client.get("/v2/health/ready").json()
        assert (ready["ready"], ready["generation"]) == (True, 1)
        assert [m["model"] for m in ready["models"]] == ["digits@1", "digits@2"]
        assert client.get("/v2/models/digits/ready").json() == {"name": "digits", "ready": True}
        assert client.head("/v2/health/live").status_code == 200
        for path, status in {
            "/v2/models": 404,
            "/v2/models/": 404,
            "/v2/models/digits/": 404,
            "/v2/models/digits/versions": 404,
            "/v2/models/digits/versions/": 404,
            "/v2/models/digits/versions/01": 404,
            "/v2/models/digits/versions/1/": 404,
            "/v2/models/digits/infer": 405,
            "/v2/repository/index": 404,
            "/v2/models/..%2f..%2fetc/ready": 404,
        }.items():
            answer = client.get(path)
            assert (path, answer.status_code, list(answer.json())) == (path, status, ["error"])
        refused = client.post("/v2/health/ready")
        assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD")


def test_requests_of_both_protocols_are_counted_and_captured_alike(
    tmp_path: Path, numeric: dict[int, Bundle]
) -> None:
    served = Served(tmp_path, ("digits", 1, numeric[1], 1.0))
    try:
        with triton.InferenceServerClient(served.address) as client:
            client.infer("digits", [as_input("x", ROWS, "FP64")])
        mine = httpx.post(f"{served.url}/invocations", json={"inputs": ROWS.tolist()})
        sent = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1.0, 2.0, 3.0]}]}
        theirs = httpx.post(f"{served.url}/v2/models/digits/infer", json=sent)
        assert theirs.json()["id"] == theirs.headers["mlplatform-request-id"]
        assert theirs.headers["mlplatform-model"] == mine.headers["mlplatform-model"] == "digits@1"
        assert httpx.post(f"{served.url}/v2/models/digits/infer", json={}).status_code == 400
        assert httpx.post(f"{served.url}/v2/models/other/infer", json=sent).status_code == 404
        families = {
            f.name: f for f in text_string_to_metric_families(httpx.get(f"{served.url}/metrics").text)
        }
        counted = {
            (s.labels["protocol"], s.labels["model"], s.labels["status"]): s.value
            for s in families["mlplatform_requests"].samples
        }
        assert counted == {
            ("mlflow", "digits", "200"): 1,
            ("v2", "digits", "200"): 2,
            ("v2", "digits", "400"): 1,
            ("v2", "", "404"): 1,
        }
        found = until(lambda: captured(served.folder).get(theirs.headers["mlplatform-request-id"]))
        assert found == [[1.0, 2.0, 3.0]]
        assert captured(served.folder)[mine.headers["mlplatform-request-id"]] == ROWS.tolist()
        assert sorted(map(len, captured(served.folder).values())) == [1, 3, 3]
    finally:
        served.stop()


PAGE = Path(__file__).parents[2] / "docs" / "operations.md"


def test_the_page_on_protocols_shows_what_the_server_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = (tmp_path / "bundle", make_onnx_bundle(tmp_path / "bundle", ("calls", "spend")))
    served = Served(tmp_path / "servers", ("churn", 3, bundle, 1.0))
    monkeypatch.setenv("URL", served.url)
    try:
        section = PAGE.read_text().partition("\n## Protocols\n")[2].partition("\n## ")[0]
        found = documents.steps(section)
        said = documents.run(found, tmp_path)
    finally:
        served.stop()
    commands = [step for step in found if step.command]
    assert len(commands) == 7
    for step, answer in zip(commands, said, strict=True):
        shown = "\n".join(step.shown)
        assert answer.code == 0 and documents.same(shown, answer.output, tmp_path), (
            f"$ {step.command}\nshown:\n{shown}\nsaid:\n{answer.output}"
        )


def captured(folder: Path) -> dict[str, list[list[float]]]:
    """Rows on disk by request."""
    found: dict[str, list[list[float]]] = {}
    for path in sorted((folder / "capture").glob("*.npz")):
        block = read_block(path)
        rows = np.stack([block[f"in:{name}"] for name in COLUMNS], axis=1).tolist()
        for request, row in zip(block["request"].tolist(), rows, strict=True):
            found.setdefault(request.decode(), []).append(row)
    return found


def test_the_openapi_document_names_the_columns(served: Served) -> None:
    document = httpx.get(f"{served.url}/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    assert {"/invocations", "/v2/models/digits/infer", "/v2/models/digits/versions/2/infer"} <= set(
        document["paths"]
    )
    assert json.dumps(list(COLUMNS)) in json.dumps(document["paths"]["/invocations"])
