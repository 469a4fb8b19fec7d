"""Models with every kind of signature, in real servers: pictures and other tensors, text, bytes, several inputs and
several outputs; ONNX, scikit-learn, exported PyTorch programs, and models that run code of their own in a process
which may die without anybody else noticing.
"""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import subprocess
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
from tritonclient.utils import InferenceServerException

from mlplatform.domain.bundle import Column, Manifest
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerState
from tests import documents, served_models
from tests.served_models import served

# MLflow warns of its own code when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")
SECONDS = 60.0
IMAGES = np.arange(36, dtype=np.uint8).reshape(2, 2, 3, 3) * 7
FACTORS = np.array([1.0, 0.5], np.float32)


def until(condition: Callable[[], Any]) -> Any:
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.05)
    return found


def tensor(name: str, values: Any, datatype: str, binary: bool = True) -> Any:
    made = triton.InferInput(name, list(values.shape), datatype)
    made.set_data_from_numpy(values, binary_data=binary)
    return made


def post(server: ServerState, body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/invocations", json=body, timeout=60)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtimes")


# --- ONNX -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pixels(root: Path) -> Iterator[ServerState]:
    with served(root / "pixels-server", root / "pixels", served_models.pixels(root / "pixels")) as server:
        yield server


def test_pictures_and_several_outputs_over_both_protocols(pixels: ServerState) -> None:
    brightness = IMAGES.reshape(2, -1).mean(axis=1) * FACTORS
    with triton.InferenceServerClient(f"{pixels.host}:{pixels.port}") as client:
        described = client.get_model_metadata("m")
        assert described["inputs"] == [
            {"name": "image", "datatype": "UINT8", "shape": [-1, 2, 3, 3]},
            {"name": "factor", "datatype": "FP32", "shape": [-1]},
        ]
        assert [(o["name"], o["datatype"], o["shape"]) for o in described["outputs"]] == [
            ("brightness", "FP32", [-1]),
            ("picture", "FP32", [-1, 2, 3, 3]),
            ("bright", "BOOL", [-1]),
        ]
        for binary in (True, False):
            inputs = [tensor("image", IMAGES, "UINT8", binary), tensor("factor", FACTORS, "FP32", binary)]
            answer = client.infer("m", inputs)
            np.testing.assert_allclose(answer.as_numpy("brightness"), brightness, rtol=1e-6)
            np.testing.assert_array_equal(answer.as_numpy("picture"), IMAGES.astype(np.float32))
            assert answer.as_numpy("bright").tolist() == (IMAGES.reshape(2, -1).mean(axis=1) > 100).tolist()
        only = [triton.InferRequestedOutput("bright", binary_data=False)]
        assert [o["name"] for o in client.infer("m", inputs, outputs=only).get_response()["outputs"]] == [
            "bright"
        ]
    asyncio.run(asked_by_aio(pixels, brightness))
    records = [{"image": i.tolist(), "factor": float(f)} for i, f in zip(IMAGES, FACTORS, strict=True)]
    columns = {"image": IMAGES.tolist(), "factor": FACTORS.tolist()}
    for body in ({"dataframe_records": records}, {"instances": records}, {"inputs": columns}):
        said = post(pixels, body).json()["predictions"]
        assert list(said) == ["brightness", "picture", "bright"]
        np.testing.assert_allclose(said["brightness"], brightness, rtol=1e-6)
        assert np.shape(said["picture"]) == (2, 2, 3, 3)


async def asked_by_aio(server: ServerState, brightness: Any) -> None:
    async with triton_aio.InferenceServerClient(f"{server.host}:{server.port}") as client:
        answer = await client.infer(
            "m", [tensor("image", IMAGES, "UINT8"), tensor("factor", FACTORS, "FP32")]
        )
        np.testing.assert_allclose(answer.as_numpy("brightness"), brightness, rtol=1e-6)


WRONG_PICTURES: dict[str, tuple[Any, str]] = {
    "too few rows of pixels": (
        np.zeros((1, 2, 2, 3), int).tolist(),
        "expected a tensor of shape [-1, 2, 3, 3]",
    ),
    "ragged": ([[[[1, 2, 3], [1, 2], [1, 2, 3]]] * 2], "expected a tensor of shape [-1, 2, 3, 3]"),
    "flat": ([[1] * 18], "expected a tensor of shape [-1, 2, 3, 3]"),
    "too bright": (
        [[[[1, 2, 3]] * 2 + [[1, 2, 256]]] * 2],
        "row 0, element 8: expected a whole number in the range",
    ),
    "half a pixel": ([[[[1, 2, 0.5]] * 3] * 2], "row 0, element 2: expected a whole number"),
    "text": ([[[["1", 2, 3]] * 3] * 2], "expected a whole number, got the text '1'"),
    "null": ([None], "got null"),
}


@pytest.mark.parametrize("wrong", WRONG_PICTURES)
def test_pictures_that_do_not_fit_are_refused_with_their_place(pixels: ServerState, wrong: str) -> None:
    image, said = WRONG_PICTURES[wrong]
    answer = post(pixels, {"inputs": {"image": image, "factor": [1.0]}})
    assert answer.status_code == 400
    assert "column 'image'" in answer.text and said in answer.json()["message"]


def test_tensors_that_do_not_fit_are_refused_by_name(pixels: ServerState) -> None:
    with triton.InferenceServerClient(f"{pixels.host}:{pixels.port}") as client:
        factor = tensor("factor", FACTORS[:1], "FP32")
        with pytest.raises(
            InferenceServerException, match=r"expected shape \[-1, 2, 3, 3\] with the rows first"
        ):
            client.infer("m", [tensor("image", np.zeros((1, 3, 3, 2), np.uint8), "UINT8"), factor])
        with pytest.raises(InferenceServerException, match="a whole number in the range of uint8"):
            client.infer("m", [tensor("image", np.full((1, 2, 3, 3), 300, np.int32), "INT32"), factor])


# --- PyTorch, scikit-learn ------------------------------------------------------------------------------------------


def test_a_program_of_several_inputs_and_outputs_takes_any_number_of_rows(root: Path) -> None:
    manifest = served_models.pair(root / "pair")
    rng = np.random.default_rng(0)
    with (
        served(root / "pair-server", root / "pair", manifest) as server,
        triton.InferenceServerClient(f"{server.host}:{server.port}") as client,
    ):
        for rows in (1, 2, 7, 300):
            left, right = rng.normal(size=(rows, 2, 3)).astype(np.float32), rng.normal(size=(rows, 3))
            answer = client.infer("m", [tensor("left", left, "FP32"), tensor("right", right, "FP64")])
            product = (left @ right[..., None])[..., 0]
            np.testing.assert_allclose(answer.as_numpy("product"), product, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(answer.as_numpy("total"), right.sum(axis=1), rtol=1e-4, atol=1e-5)
            said = post(server, {"inputs": {"left": left.tolist(), "right": right.tolist()}}).json()[
                "predictions"
            ]
            np.testing.assert_allclose(said["product"], product, rtol=1e-4, atol=1e-5)


def test_a_model_on_text_takes_bare_texts(root: Path) -> None:
    with served(root / "spam-server", root / "spam", served_models.spam(root / "spam")) as server:
        texts = ["win a prize", "noon?", "ünïcode ☃"]
        bodies: list[Any] = [{"inputs": texts}, {"instances": texts}, {"inputs": {"text": texts}}]
        bodies += [{"dataframe_records": [{"text": text} for text in texts]}]
        answers = [post(server, body).json()["predictions"] for body in bodies]
        assert answers == [answers[0]] * 4 and answers[0][:2] == ["spam", "ham"]
        with triton.InferenceServerClient(f"{server.host}:{server.port}") as client:
            for binary in (True, False):
                answer = client.infer("m", [tensor("text", np.array(texts, object), "BYTES", binary)])
                assert [t.decode() for t in answer.as_numpy("predictions")] == answers[0]
                assert answer.as_numpy("scores").shape == (3, 2)


# --- models that run code of their own ------------------------------------------------------------------------------

CODE = """
import os, socket, time
import numpy as np, pandas as pd

class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        print("what a model prints is no answer")
        told = model_input["text"].iloc[0]
        if told == "raise":
            raise RuntimeError("it does not like this")
        if told == "end":
            os._exit(7)
        if told == "hang":
            time.sleep(1000)
        if told == "eat":
            bytearray(64 << 30)
        if told == "network":
            socket.create_connection(("127.0.0.1", 9), 2)
        if told == "write":
            open(os.path.expanduser("~/../stolen"), "w")
        if told == "program":
            import subprocess
            subprocess.run(["true"])
        at = model_input["at"] if "at" in model_input else pd.Series([pd.NaT] * len(model_input))
        return pd.DataFrame({
            "text": model_input["text"].str.upper(),
            "size": model_input["picture"].map(len),
            "picture": model_input["picture"].map(lambda raw: raw[::-1]),
            "kinds": [",".join(str(t) for t in model_input.dtypes)] * len(model_input),
            "at": at,
        })
"""
COLUMNS = (
    Column("text", "string"),
    Column("picture", "binary"),
    Column("level", "integer"),
    Column("rate", "float", required=False),
    Column("vip", "boolean"),
    Column("at", "datetime", required=False),
    Column("seats", "long", required=False),
)
RAW = b"\x89PNG\x00\xff"
ROW: dict[str, Any] = {
    "text": "hello",
    "picture": base64.b64encode(RAW).decode(),
    "level": 3,
    "rate": 0.5,
    "vip": True,
    "at": "2026-01-31T12:00:00",
    "seats": 4,
}


@pytest.fixture(scope="module")
def bundle(root: Path) -> tuple[Path, Manifest]:
    sample = {name: [value] * 2 for name, value in ROW.items()}
    folder = root / "code"
    return folder, served_models.saved(folder, CODE, COLUMNS, sample, answer_seconds=2.0, memory_mb=6000)


@pytest.fixture(scope="module")
def code(root: Path, bundle: tuple[Path, Manifest]) -> Iterator[ServerState]:
    with served(root / "code-server", *bundle, runs_code=True) as server:
        until(lambda: httpx.get(f"{server.url}/v2/health/ready").status_code == 200)
        yield server


def row(**changes: Any) -> Any:
    return {"dataframe_records": [{name: v for name, v in {**ROW, **changes}.items() if v is not ...}]}


def test_a_model_of_its_own_code_gets_and_gives_every_type(code: ServerState) -> None:
    (said,) = post(code, row()).json()["predictions"]
    assert (said["text"], said["size"], said["at"]) == ("HELLO", 6, "2026-01-31T12:00:00")
    assert base64.b64decode(said["picture"]) == RAW[::-1]
    assert said["kinds"].split(",")[2:] == ["int32", "float32", "bool", "datetime64[ns]", "int64"]
    (said,) = post(code, row(rate=..., at=..., seats=...)).json()["predictions"]
    assert said["at"] is None and said["size"] == 6
    with triton.InferenceServerClient(f"{code.host}:{code.port}") as client:
        sent = [
            tensor("text", np.array(["a", "b"], object), "BYTES"),
            tensor("picture", np.array([RAW, b"\x00"], object), "BYTES"),
            tensor("level", np.array([1, 2], np.int32), "INT32"),
            tensor("vip", np.array([True, False]), "BOOL"),
        ]
        answer = client.infer("m", sent)
        assert answer.as_numpy("picture").tolist() == [RAW[::-1], b"\x00"]
        assert answer.as_numpy("size").tolist() == [6, 1]


def test_bytes_that_are_no_base64_are_refused(code: ServerState) -> None:
    answer = post(code, row(picture="no base64!"))
    assert answer.status_code == 400
    assert "column 'picture', row 0: expected bytes in base64" in answer.json()["message"]


@pytest.mark.parametrize("fault", ["raise", "end", "hang", "eat", "network", "write", "program"])
def test_a_request_that_the_model_fails_on_fails_alone(code: ServerState, fault: str, root: Path) -> None:
    began = time.monotonic()
    failed = post(code, row(text=fault))
    assert (failed.status_code, "failed on this request" in failed.text) == (500, True)
    assert "Traceback" not in failed.text and time.monotonic() - began < 20
    assert post(code, row()).status_code == 200, "the next request is answered"
    assert not list(root.rglob("stolen"))


def test_others_are_answered_while_the_model_hangs(code: ServerState) -> None:
    hanging = threading.Thread(target=post, args=(code, row(text="hang")))
    hanging.start()
    until(lambda: metric(code, "mlplatform_requests_in_flight") != 0 or not hanging.is_alive())
    began = time.monotonic()
    assert httpx.get(f"{code.url}/ping").status_code == 200
    assert time.monotonic() - began < 1
    hanging.join()
    assert post(code, row()).status_code == 200


def metric(server: ServerState, name: str) -> float:
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def test_the_worker_has_not_loaded_what_the_model_needs(code: ServerState, root: Path) -> None:
    workers = [int(path.stem) for path in (root / "code-server").rglob("workers/*.json")]
    children = [pid for worker in workers for pid in offspring(worker)]
    assert len(workers) == len(children) == 1
    for library in ("pandas", "mlflow", "sklearn", "torch", "pyarrow"):
        assert f"/{library}/" not in Path(f"/proc/{workers[0]}/maps").read_text()
    assert "/pandas/" in Path(f"/proc/{children[0]}/maps").read_text()
    os.kill(children[0], signal.SIGKILL)
    assert post(code, row()).status_code in (200, 500), "it may have been on its way"
    assert post(code, row()).status_code == 200


def offspring(pid: int) -> list[int]:
    found = subprocess.run(
        ["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=False
    )
    return [int(one) for one in found.stdout.split()]


def test_the_process_ends_with_its_server(root: Path, bundle: tuple[Path, Manifest]) -> None:
    with served(root / "brief", *bundle, runs_code=True) as server:
        assert post(server, row()).status_code == 200
        (worker,) = [int(path.stem) for path in (root / "brief").rglob("workers/*.json")]
        (child,) = offspring(worker)
    until(lambda: not Path(f"/proc/{child}").exists())


def test_a_server_loads_no_code_that_its_document_does_not_permit(
    root: Path, bundle: tuple[Path, Manifest]
) -> None:
    with served(root / "strict", *bundle) as server:
        health = httpx.get(f"{server.url}/v2/health/ready")
        assert health.status_code == 503
        assert "m@1 runs code of its own (runtime pyfunc), and the policy does not allow that" in health.text


# --- from a run to a server -----------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
POLICY = """
model  = "claims"
ladder = ["staging", "production"]

[data]
target = "long"

[stages.staging]
gates     = ["serving_check", { use = "metric", name = "accuracy", at_least = 0.9, min_n = 50 }]
approvals = { count = 0, unverified = true, author_may_approve = true }
endpoint  = { name = "claims" }
"""


def test_any_flavor_goes_from_a_run_to_an_endpoint_where_the_policy_lets_it(tmp_path: Path) -> None:
    """As the page on runtimes shows it."""
    (tmp_path / "mlplatform.toml").write_text("")
    (tmp_path / "policy.toml").write_text(POLICY)
    section = PAGE.read_text().partition("\n## Runtimes\n")[2].partition("\n## ")[0]
    steps = documents.steps(section)
    try:
        said = documents.run(steps, tmp_path)
    finally:
        LocalTarget().stop(tmp_path / ".mlplatform" / "servers" / "claims")
    commands = [step for step in steps if step.command]
    assert [answer.code for answer in said] == [0, 3, 0, 0, 0, 0, 0, 0, 0, 3, 0]
    for step, answer in zip(commands, said, strict=True):
        shown = "\n".join(step.shown)
        assert documents.same(shown, answer.output, tmp_path), f"$ {step.command}\nsaid:\n{answer.output}"
