"""The same requests to MLflow's own scoring server and to ours give the same answers and status codes, for models with
every kind of signature: tensors with and without names, text, bytes, optional columns, tables, series, lists and
dictionaries as answers. Where they differ, it is written down why. MLflow's documented clients are answered too.

MLflow's server is the application behind `mlflow models serve`, one for each model, in one process; ours is a real
server, where models run by ONNX Runtime or by the runtime for code of any flavor.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.store.documents import FolderDocuments
from tests import served_models
from tests.served_models import VALUE, freeze

# MLflow warns of its own code when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")
SECONDS = 120.0
JSON, CSV = "application/json", "text/csv"

SERVE = """
import sys
import uvicorn
from fastapi import FastAPI
from mlflow.pyfunc import load_model, scoring_server

app = FastAPI()
for name in sys.argv[2:]:
    app.mount(f"/models/{name.rpartition('/')[2]}", scoring_server.init(load_model(f"{name}/model")))
uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="error")
"""

ROWS = """
import pandas as pd

class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        note = model_input["note"] if "note" in model_input else pd.Series([None] * len(model_input))
        return pd.DataFrame({
            "loud": model_input["text"].str.upper(),
            "bytes": model_input["raw"].map(len),
            "backwards": model_input["raw"].map(lambda raw: raw[::-1]),
            "twice": model_input["level"] * 2,
            "noted": [0 if n is None or pd.isna(n) else len(n) for n in note],
            "kind": str(model_input["level"].dtype) + str(model_input["rate"].dtype),
            "half": model_input["rate"] / 2,
        })
"""
PICTURE = """
class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        assert model_input.dtype == "float32", model_input.dtype
        return model_input.mean(axis=(2, 3))
"""
MATRIX = """
class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        texts = [str(row[0]) for row in model_input]
        return {"sum": model_input.sum(axis=1), "big": model_input > 1, "row": model_input, "text": texts}
"""
TEXT = """
class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        texts = model_input["text"] if hasattr(model_input, "columns") else model_input
        return [str(text)[::-1] for text in texts]
"""
SERIES = """
class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return (model_input["a"] + model_input["b"]).rename("total")
"""
TIMES = """
import pandas as pd

class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return pd.DataFrame({"later": model_input["at"] + pd.Timedelta("1h"), "vip": ~model_input["vip"]})
"""
COLUMNS = {
    "rows": (
        Column("text", "string"),
        Column("raw", "binary"),
        Column("level", "integer"),
        Column("rate", "float"),
        Column("note", "string", required=False),
    ),
    "picture": (Column("input", "float", shape=(3, 2, 2)),),
    "matrix": (Column("input", "float", shape=(3,)),),
    "text": (Column("text", "string"),),
    "series": (Column("a", "long"), Column("b", "double")),
    "times": (Column("at", "datetime"), Column("vip", "boolean")),
}
CODES = {"rows": ROWS, "picture": PICTURE, "matrix": MATRIX, "text": TEXT, "series": SERIES, "times": TIMES}
RAW = b"\x89PNG\x00\xff"
ROW: dict[str, Any] = {
    "text": "hello",
    "raw": base64.b64encode(RAW).decode(),
    "level": 3,
    "rate": 0.1,
    "note": "n",
}
PICTURES = (np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2) / 7).tolist()
IMAGES = (np.arange(36).reshape(2, 2, 3, 3) * 7).tolist()
SAMPLES: dict[str, dict[str, Any]] = {
    "rows": {name: [value] for name, value in ROW.items()},
    "picture": {"input": PICTURES},
    "matrix": {"input": [[1, 2, 3]]},
    "text": {"text": ["abc"]},
    "series": {"a": [1], "b": [0.5]},
    "times": {"at": ["2026-01-31T12:00:00"], "vip": [True]},
}


def until(condition: Callable[[], Any]) -> Any:
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.05)
    return found


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Manifest]]:
    root = tmp_path_factory.mktemp("bundles")
    made = {name: (root / name, code_bundle(root / name, name)) for name in CODES}
    folder = root / "pixels"
    served_models.pixels(folder)
    return {**made, "pixels": (folder, onnx_of_mlflow(folder))}


def code_bundle(folder: Path, name: str) -> Manifest:
    columns = COLUMNS[name]
    served_models.save_code_model(folder / "model", CODES[name], columns, named=not columns[0].shape)
    return freeze(folder, Manifest("pyfunc", "model", COLUMNS[name], VALUE, {}), SAMPLES[name])


def onnx_of_mlflow(folder: Path) -> Manifest:
    """The same graph as MLflow saves it; our runtime reads the file in it."""
    import mlflow.onnx
    import onnx
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    graph = onnx.load(folder / "model" / "model.onnx")
    (folder / "model" / "model.onnx").unlink()
    (folder / "model").rmdir()
    tensors = [
        TensorSpec(np.dtype("uint8"), (-1, 2, 3, 3), "image"),
        TensorSpec(np.dtype("float32"), (-1,), "factor"),
    ]
    mlflow.onnx.save_model(
        graph,
        str(folder / "model"),
        signature=ModelSignature(Schema(tensors)),
        pip_requirements=["onnxruntime"],
        save_as_external_data=False,
    )
    columns = (Column("image", "uint8", shape=(2, 3, 3)), Column("factor", "float"))
    options = {"layout": "named", "outputs": ["brightness", "picture", "bright"]}
    (folder / "sample.json").unlink()
    manifest = Manifest("onnx", "model/model.onnx", columns, Task("regression", "value"), {}, options=options)
    return freeze(folder, manifest, {"image": IMAGES, "factor": [1.0, 2.0]})


@pytest.fixture(scope="module")
def theirs(
    bundles: dict[str, tuple[Path, Manifest]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """MLflow's scoring server; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("mlflow") / "log"
    command = [sys.executable, "-c", SERVE, str(port), *(str(folder) for folder, _ in bundles.values())]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}  # nothing is added to a bundle
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, start_new_session=True, env=environment)
    url = f"http://127.0.0.1:{port}"
    until(lambda: server.poll() is not None or answers(f"{url}/models/rows/ping"))
    assert server.poll() is None, log.read_text()
    yield url
    os.killpg(server.pid, signal.SIGTERM)
    server.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def ours(
    bundles: dict[str, tuple[Path, Manifest]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Our server with all of the models; its URL."""
    documents = FolderDocuments(tmp_path_factory.mktemp("ours"))
    routes = [Route(name, 1, m.digest, str(folder), runs_code=True) for name, (folder, m) in bundles.items()]
    documents.publish(Routes("e", 0, tuple(routes), capture=CaptureRule()))
    folder = documents.folder("e")
    url = LocalTarget().apply(ServerSpec("e", folder)).url
    for name in bundles:
        until(lambda name=name: answers(f"{url}/v2/models/{name}/ready"))
    yield url
    LocalTarget().stop(folder)
    assert "Traceback" not in (folder / "server.log").read_text()


# --- requests -----------------------------------------------------------------------------------------------


def row(**changes: Any) -> Any:
    return {"dataframe_records": [{k: v for k, v in {**ROW, **changes}.items() if v is not ...}]}


def split(columns: list[str], *data: Any) -> Any:
    return {"dataframe_split": {"columns": columns, "data": list(data)}}


BOTH = [ROW, {**ROW, "text": "Zürich ☃", "raw": "", "level": -2, "note": None}]
SAME: dict[str, tuple[str, Any]] = {
    "bytes among columns": ("rows", {"dataframe_records": BOTH}),
    "bytes in a split": ("rows", split(list(ROW), list(ROW.values()))),
    "bytes with broken lines": ("rows", row(raw=base64.encodebytes(RAW * 40).decode())),
    "optional text absent": ("rows", row(note=...)),
    "optional text null": ("rows", row(note=None)),
    "required bytes absent": ("rows", row(raw=...)),
    "required bytes null": ("rows", row(raw=None)),
    "number for bytes": ("rows", row(raw=7)),
    "null float": ("rows", {"dataframe_records": [ROW, {**ROW, "rate": 0.25}]}),
    "pictures as instances": ("picture", {"instances": PICTURES}),
    "pictures as inputs": ("picture", {"inputs": PICTURES}),
    "one picture": ("picture", {"inputs": PICTURES[:1]}),
    "whole numbers in a picture": ("picture", {"inputs": [[[[1, 2], [3, 4]]] * 3]}),
    "a picture of another shape": ("picture", {"inputs": [[[[1.0, 2.0]] * 2] * 2]}),
    "a picture without rows": ("picture", {"inputs": PICTURES[0]}),
    "a ragged picture": ("picture", {"inputs": [[[[1.0, 2.0], [1.0]]] * 3]}),
    "text in a picture": ("picture", {"inputs": [[[["a", "b"]] * 2] * 3]}),
    "a matrix": ("matrix", {"inputs": [[0.5, 1.5, 2.5], [1, 2, 3]]}),
    "a matrix as a table": ("matrix", split(["x", "y", "z"], [0.5, 1.5, 2.5], [4.0, 5.0, 6.0])),
    "a matrix that is too wide": ("matrix", {"inputs": [[1, 2, 3, 4]]}),
    "a table that is too wide": ("matrix", split(["w", "x", "y", "z"], [0.5, 1.5, 2.5, 3.5])),
    "named tensors as columns": ("pixels", {"inputs": {"image": IMAGES, "factor": [1.0, 0.5]}}),
    "named tensors as rows": ("pixels", {"instances": [{"image": i, "factor": 2.0} for i in IMAGES]}),
    "a tensor missing": ("pixels", {"inputs": {"image": IMAGES}}),
    "a tensor of another shape": ("pixels", {"inputs": {"image": [[[1, 2, 3]] * 3], "factor": [1.0]}}),
    "tensors without names": ("pixels", {"inputs": IMAGES}),
    "bare texts": ("text", {"inputs": ["abc", "Zürich ☃", ""]}),
    "bare texts as instances": ("text", {"instances": ["abc", "d"]}),
    "texts as a column": ("text", {"inputs": {"text": ["abc", "d"]}}),
    "texts in records": ("text", {"dataframe_records": [{"text": "abc"}]}),
    "texts as CSV": ("text", (CSV, 'text\nabc\n"d,e"\n')),
    "a series": ("series", {"dataframe_records": [{"a": 2**60, "b": 0.5}, {"a": -1, "b": 1e300}]}),
    "a series of columns": ("series", {"inputs": {"a": [1, 2], "b": [0.5, -0.5]}}),
    "times": ("times", {"dataframe_records": [{"at": "2026-01-31T12:00:00.25", "vip": True}]}),
    "days": ("times", split(["at", "vip"], ["2026-01-31", False], ["1999-12-31", True])),
}
DIFFERENT: dict[str, tuple[str, Any, int, int, str]] = {
    "bytes without padding": ("rows", row(raw="Ynl0ZXMx!"), 200, 400, "MLflow skips what is no base64"),
    "a picture with half pixels": (
        "pixels",
        {"inputs": {"image": [[[[0.5] * 3] * 3] * 2], "factor": [1.0]}},
        200,
        400,
        "MLflow cuts 0.5 to 0",
    ),
    "a picture of too bright pixels": (
        "pixels",
        {"inputs": {"image": [[[[-1] * 3] * 3] * 2], "factor": [1.0]}},
        400,
        400,
        "both refuse",
    ),
    "text of numbers in a picture": (
        "picture",
        {"inputs": [[[["1", "2"]] * 2] * 3]},
        200,
        400,
        "MLflow guesses",
    ),
    "a name for an array without one": (
        "picture",
        {"inputs": {"input": PICTURES}},
        400,
        200,
        "as in our metadata",
    ),
}
OTHER_ANSWERS: dict[str, tuple[str, Any, str, Any, Any, str]] = {
    "a time that is null": (
        "times",
        {"dataframe_records": [{"at": None, "vip": True}, {"at": "2026-01-31", "vip": False}]},
        "later",
        "NaT",
        None,
        "MLflow writes it as a text",
    ),
    "bytes among inputs": ("rows", {"inputs": [ROW]}, "bytes", 8, 6, "MLflow decodes base64 in tables only"),
}


def ask(url: str, model: str, sent: Any) -> tuple[int, Any]:
    content_type, body = sent if isinstance(sent, tuple) else (JSON, json.dumps(sent))
    headers = {"content-type": content_type}
    place = f"{url}/models/{model}/invocations"
    answer = httpx.post(place, content=body.encode(), headers=headers, timeout=SECONDS)
    return answer.status_code, answer.json()["predictions"] if answer.status_code == 200 else None


@pytest.mark.parametrize("name", SAME)
def test_both_servers_answer_the_same(theirs: str, ours: str, name: str) -> None:
    model, sent = SAME[name]
    expected, found = ask(theirs, model, sent), ask(ours, model, sent)
    assert found == expected
    assert found[0] in (200, 400)


@pytest.mark.parametrize("name", DIFFERENT)
def test_where_they_differ_it_is_on_purpose(theirs: str, ours: str, name: str) -> None:
    model, sent, their_status, our_status, why = DIFFERENT[name]
    assert (ask(theirs, model, sent)[0], ask(ours, model, sent)[0]) == (their_status, our_status), why


@pytest.mark.parametrize("name", OTHER_ANSWERS)
def test_where_answers_differ_it_is_on_purpose(theirs: str, ours: str, name: str) -> None:
    model, sent, column, their_answer, our_answer, why = OTHER_ANSWERS[name]
    said = [ask(url, model, sent)[1][0][column] for url in (theirs, ours)]
    assert said == [their_answer, our_answer], why


def test_bytes_come_back_as_mlflow_writes_them(theirs: str, ours: str) -> None:
    sent = row(raw=base64.b64encode(RAW * 40).decode())
    shown = [ask(url, "rows", sent)[1][0]["backwards"] for url in (theirs, ours)]
    assert shown[0] == shown[1] and base64.b64decode(shown[0]) == (RAW * 40)[::-1]


def test_mlflows_documented_payloads_are_answered_alike(theirs: str, ours: str) -> None:
    """What `mlflow.models.convert_input_example_to_serving_input` writes, which is what its own clients send."""
    import pandas as pd
    from mlflow.models import convert_input_example_to_serving_input

    # Its own server refuses what it writes for bytes: text in quotes of Python.
    frame = pd.DataFrame([{"a": 1, "b": 0.5}, {"a": 2, "b": 1.5}])
    examples = {
        "series": frame,
        "text": pd.DataFrame({"text": ["abc", "d"]}),
        "picture": np.array(PICTURES, np.float32),
        "matrix": np.array([[1, 2, 3]], np.float32),
        "pixels": {"image": np.array(IMAGES, np.uint8), "factor": np.array([1, 2], np.float32)},
    }
    for model, example in examples.items():
        body = (JSON, convert_input_example_to_serving_input(example))
        expected = ask(theirs, model, body)
        assert expected[0] == 200, model
        assert ask(ours, model, body) == expected, model
