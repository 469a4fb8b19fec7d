"""The app behind the transport, asked in this process."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.routes import CaptureRule
from mlplatform.serving.app import App
from mlplatform.serving.dataplane import Answer
from tests.unit.serving.over_http import ask_all, client_of, run

Bundle = tuple[Path, Manifest]
Publish = Callable[..., None]
ROW = {"inputs": [[1, 2, 3]]}


def ask(
    folder: Path, *requests: tuple[str, str, dict[str, Any]], limit: int = 16_000_000
) -> list[httpx.Response]:
    """Answers of an app that starts, takes the requests one after another, and stops."""

    async def go() -> list[httpx.Response]:
        limits = RequestLimits(max_body_bytes=limit)
        app = App(folder, limits)
        await app.start()
        answers = await ask_all(app, list(requests), limits)
        await app.stop()
        return answers

    return run(go())


def one(folder: Path, method: str, path: str, limit: int = 16_000_000, **more: Any) -> httpx.Response:
    return ask(folder, (method, path, more), limit=limit)[0]


def test_an_answer_names_the_request_and_the_version(
    tmp_path: Path, publish: Publish, numeric: Bundle
) -> None:
    publish(numeric)
    first, second = ask(
        tmp_path, ("POST", "/invocations", {"json": ROW}), ("POST", "/invocations", {"json": ROW})
    )
    assert first.status_code == 200
    assert first.json()["predictions"] in ([0], [1])
    assert first.headers["mlplatform-model"] == "m@1"
    assert first.headers["mlplatform-request-id"] < second.headers["mlplatform-request-id"]
    assert first.headers["content-type"] == "application/json"


def test_text_labels_and_every_type_of_column_are_served(
    tmp_path: Path, publish: Publish, mixed: Bundle
) -> None:
    publish(mixed)
    record = {"amount": 45.0, "age": 6, "vip": True, "city": "Wien"}
    sent = {"dataframe_records": [record, {**record, "age": 4, "note": "x"}]}
    assert one(tmp_path, "POST", "/invocations", json=sent).json() == {"predictions": [1, 0]}


def test_before_the_first_model_requests_are_told_to_wait(tmp_path: Path) -> None:
    ping, health, invocation = ask(
        tmp_path, ("GET", "/ping", {}), ("GET", "/health", {}), ("POST", "/invocations", {"json": ROW})
    )
    assert ping.status_code == 200
    assert (health.status_code, health.json()["status"]) == (503, "no model")
    assert invocation.status_code == 503
    assert invocation.json()["error_code"] == "TEMPORARILY_UNAVAILABLE"


def test_health_tells_what_is_served_and_what_was_rejected(
    tmp_path: Path, publish: Publish, numeric: Bundle, other: Bundle
) -> None:
    publish(numeric)

    async def go() -> dict[str, Any]:
        app = App(tmp_path)
        await app.start()
        publish((tmp_path / "nowhere", other[1]), generation=2)
        await app.plane.router.look()
        async with client_of(app) as client:
            found: dict[str, Any] = (await client.get("/health")).json()
        await app.stop()
        return found

    health = run(go())
    assert health["status"] == "ok"
    assert health["generation"] == 1
    assert health["rejected"] == 2
    assert "manifest.json is missing" in health["error"]
    assert health["models"] == [{"model": "m@1", "arm": "live", "share": 1.0}]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/invocations", 405),
        ("DELETE", "/invocations", 405),
        ("POST", "/ping", 405),
        ("GET", "/labels", 405),
        ("GET", "/../../etc/passwd", 404),
        ("HEAD", "/ping", 200),
    ],
)
def test_other_paths_and_methods_are_refused(tmp_path: Path, method: str, path: str, status: int) -> None:
    answer = one(tmp_path, method, path)
    assert answer.status_code == status
    if status != 200:
        assert set(answer.json()) == {"error_code", "message"}


@pytest.mark.parametrize(
    ("status", "more"),
    [
        (415, {"content": b"{}", "headers": {"content-type": "text/plain"}}),
        (415, {"content": b"{}"}),
        (415, {"json": ROW, "headers": {"content-encoding": "gzip"}}),
        (413, {"content": bytes(2001), "headers": {"content-type": "application/json"}}),
        (400, {"content": b"{", "headers": {"content-type": "application/json"}}),
    ],
)
def test_what_is_wrong_with_a_request_has_its_own_status(
    tmp_path: Path, publish: Publish, numeric: Bundle, status: int, more: dict[str, Any]
) -> None:
    publish(numeric)
    answer = one(tmp_path, "POST", "/invocations", limit=2000, **more)
    assert answer.status_code == status
    assert "\n" not in answer.text
    assert set(answer.json()) == {"error_code", "message"}


def test_a_body_in_pieces_is_refused_once_it_is_too_large(
    tmp_path: Path, publish: Publish, numeric: Bundle
) -> None:
    publish(numeric)

    async def pieces() -> Any:
        for _ in range(1000):
            yield b" " * 100

    headers = {"content-type": "application/json"}
    answer = one(tmp_path, "POST", "/invocations", limit=2000, content=pieces(), headers=headers)
    assert answer.status_code == 413


def test_a_model_that_answers_nan_is_an_error_and_counted_as_failure(
    tmp_path: Path, publish: Publish, log: Bundle
) -> None:
    publish(log)
    good, bad, metrics = ask(
        tmp_path,
        ("POST", "/invocations", {"json": {"inputs": [[1.0]]}}),
        ("POST", "/invocations", {"json": {"inputs": [[-1.0]]}}),
        ("GET", "/metrics", {}),
    )
    assert good.json() == {"predictions": [0.0]}
    assert bad.status_code == 500
    assert "m@1 answered with a number that is not finite" in bad.json()["message"]
    assert (
        'mlplatform_requests_total{model="m",version="1",arm="live",protocol="mlflow",status="500"} 1'
        in metrics.text
    )


def test_a_missing_value_the_model_cannot_answer_is_the_clients_error(
    tmp_path: Path, publish: Publish, log: Bundle
) -> None:
    publish(log)
    answer = one(tmp_path, "POST", "/invocations", json={"inputs": [[None]]})
    assert answer.status_code == 400
    assert answer.json()["message"] == "column 'x', row 0: a missing value; m@1 has no finite answer for it"


MANY = 40_003


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/invocations", b"[" + b",".join([b"{}"] * MANY) + b"]"),
        ("/invocations", b'{"inputs": [' + b",".join([b'[""]'] * MANY) + b"]}"),
        ("/invocations", b'{"inputs": [' + b",".join([b"[1]"] * MANY) + b"]}"),
        ("/invocations", b'{"inputs": [' + b",".join([b"[-1]"] * MANY) + b"]}"),
        ("/invocations", b'{"inputs": [' + b",".join([b"[null]"] * MANY) + b"]}"),
        ("/v2/models/m/infer", b'{"inputs": [' + b",".join([b"0"] * MANY) + b"]}"),
        ("/labels", b'{"labels": [' + b",".join([b"0"] * MANY) + b"]}"),
        ("/labels", b'{"labels": [' + b",".join([b'{"id": 1, "lable": "far too long"}'] * MANY) + b"]}"),
    ],
)
def test_nothing_of_a_request_is_left_once_it_is_answered(
    tmp_path: Path, publish: Publish, log: Bundle, path: str, body: bytes
) -> None:
    """Not even until the next garbage collection, which may be far: values that were parsed are not tracked."""
    publish(log)

    def left() -> list[Any]:
        found = [o for o in gc.get_objects() if type(o) is Answer or (type(o) is list and len(o) == MANY)]
        return [type(each) for each in found]

    async def go() -> list[Any]:
        app = App(tmp_path, RequestLimits())
        await app.start()
        async with client_of(app) as client:
            gc.collect()
            gc.disable()
            try:
                headers = {"content-type": "application/json"}
                print((await client.post(path, content=body, headers=headers)).text[:100])
                await client.get("/ping")
                return left()
            finally:
                gc.enable()
                await app.stop()

    assert run(go()) == []


def test_large_requests_are_answered_like_small_ones(
    tmp_path: Path, publish: Publish, numeric: Bundle
) -> None:
    publish(numeric)
    rows = [[i / 7, 1.0, -i / 3] for i in range(30_000)]
    large, small = ask(
        tmp_path,
        ("POST", "/invocations", {"json": {"inputs": rows}}),
        ("POST", "/invocations", {"json": {"inputs": rows[:10]}}),
    )
    assert len(large.json()["predictions"]) == 30_000
    assert large.json()["predictions"][:10] == small.json()["predictions"]


def test_answered_requests_are_captured_and_wrong_ones_are_not(
    tmp_path: Path, publish: Publish, numeric: Bundle
) -> None:
    import numpy as np

    publish(numeric, capture=CaptureRule(context=("ts",)))
    record = {"a": 1, "b": 2, "c": 3, "ts": "2026-01-01"}
    good, _ = ask(
        tmp_path,
        ("POST", "/invocations", {"json": {"dataframe_records": [record]}}),
        ("POST", "/invocations", {"json": {"inputs": [["x", 1, 2]]}}),
    )
    (path,) = (tmp_path / "capture").glob("*.npz")
    with np.load(path) as block:
        assert block["request"].tolist() == [good.headers["mlplatform-request-id"].encode()]
        assert block["ctx:ts"].tolist() == ["2026-01-01"]
        assert block["prediction"].tolist() == good.json()["predictions"]


LABELS = {
    "labels": [{"id": "01890a5d-ac96-774b-bcce-b302099a8057/0", "label": 1}, {"id": "x/12", "label": "yes"}]
}


def test_labels_are_kept_in_the_inbox(tmp_path: Path) -> None:
    answers = ask(tmp_path, ("POST", "/labels", {"json": LABELS}), ("POST", "/labels", {"json": LABELS}))
    assert [a.json() for a in answers] == [{"accepted": 2}] * 2
    files = sorted((tmp_path / "inbox").iterdir())
    assert len(files) == 2
    assert all(json.loads(path.read_text())["labels"] == LABELS["labels"] for path in files)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ([], "expected"),
        ({"labels": []}, "empty"),
        ({"labels": [{"id": "x/0"}]}, "label 0"),
        ({"labels": [{"id": "x/0", "label": 1, "more": 2}]}, "label 0"),
        ({"labels": [{"id": "x/0", "label": 1}, {"id": "x", "label": 1}]}, "label 1: 'id'"),
        ({"labels": [{"id": "x/-1", "label": 1}]}, "label 0: 'id'"),
        ({"labels": [{"id": 5, "label": 1}]}, "label 0: 'id'"),
        ({"labels": [{"id": "x/0", "label": None}]}, "got null"),
        ({"labels": [{"id": "x/0", "label": [1]}]}, "got a list"),
        ({"labels": [{"id": "x/0", "label": 2**70}]}, "64 bits"),
        ({"labels": [{"id": "x/0", "label": "y" * 2000}]}, "1000 characters"),
    ],
)
def test_labels_that_are_wrong_are_refused_whole(tmp_path: Path, sent: Any, said: str) -> None:
    answer = one(tmp_path, "POST", "/labels", json=sent)
    assert answer.status_code == 400
    assert said in answer.json()["message"]
    assert not (tmp_path / "inbox").exists()


# --- the Open Inference Protocol ----------------------------------------------------------------------------

INFER = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}


def test_before_the_first_model_the_protocol_says_so_in_its_own_words(tmp_path: Path) -> None:
    live, ready, model, infer, document = ask(
        tmp_path,
        ("GET", "/v2/health/live", {}),
        ("GET", "/v2/health/ready", {}),
        ("GET", "/v2/models/m/ready", {}),
        ("POST", "/v2/models/m/infer", {"json": INFER}),
        ("GET", "/openapi.json", {}),
    )
    assert (live.status_code, live.json()) == (200, {"live": True})
    assert (ready.status_code, ready.json()["ready"], ready.json()["status"]) == (503, False, "no model")
    assert (model.status_code, list(model.json())) == (404, ["error"])
    assert (infer.status_code, infer.json()) == (503, {"error": "no model is in service yet"})
    assert "/invocations" not in document.json()["paths"]


def test_a_named_model_is_shared_as_the_routes_say_and_a_named_version_is_not(
    tmp_path: Path, publish: Publish, numeric: Bundle, other: Bundle
) -> None:
    publish(numeric, other, standby=(other,))
    asked = [("POST", "/v2/models/m/infer", {"json": INFER})] * 60
    versions = [a.json()["model_version"] for a in ask(tmp_path, *asked)]
    assert 10 < versions.count("1") < 50
    assert set(versions) == {"1", "2"}
    first, second, waiting = ask(
        tmp_path, *(("POST", f"/v2/models/m/versions/{v}/infer", {"json": INFER}) for v in (1, 2, 90))
    )
    assert first.headers["mlplatform-model"] == "m@1"
    assert second.json()["outputs"][0]["data"][0] in (10, 11)
    assert (waiting.status_code, waiting.json()["error"]) == (
        404,
        "version '90' of 'm' is not routed here; there is 1, 2",
    )


@pytest.mark.parametrize(
    ("status", "more"),
    [
        (415, {"content": b"{}", "headers": {"content-type": "text/plain"}}),
        (415, {"json": INFER, "headers": {"content-encoding": "gzip"}}),
        (413, {"content": bytes(2001)}),
        (400, {"content": b"{"}),
        (400, {"json": INFER, "headers": {"inference-header-content-length": "7"}}),
    ],
)
def test_what_is_wrong_with_an_infer_request_has_its_own_status(
    tmp_path: Path, publish: Publish, numeric: Bundle, status: int, more: dict[str, Any]
) -> None:
    publish(numeric)
    answer = one(tmp_path, "POST", "/v2/models/m/infer", limit=2000, **more)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert "\n" not in answer.text
    assert len(answer.headers["mlplatform-request-id"]) == 36


def test_a_request_that_names_another_method_is_told_which_are_allowed(tmp_path: Path) -> None:
    infer, labels = ask(tmp_path, ("GET", "/v2/models/m/infer", {}), ("PUT", "/labels", {}))
    assert (infer.status_code, infer.headers["allow"]) == (405, "POST")
    assert (labels.status_code, labels.headers["allow"]) == (405, "POST")


def test_the_examples_of_the_openapi_document_are_answered(
    tmp_path: Path, publish: Publish, mixed: Bundle
) -> None:
    publish(mixed)
    (document,) = ask(tmp_path, ("GET", "/openapi.json", {}))
    asked = [
        ("POST", path, {"json": operations["post"]["requestBody"]["content"]["application/json"]["example"]})
        for path, operations in document.json()["paths"].items()
        if path == "/invocations" or path.endswith("/infer")
    ]
    assert len(asked) == 3
    assert [answer.status_code for answer in ask(tmp_path, *asked)] == [200] * 3


# Outside tests it is no error that a float64 is too large for a model of float32.
@pytest.mark.filterwarnings("ignore:overflow encountered in cast")
def test_a_value_too_large_for_the_models_own_numbers_is_the_clients_error(
    tmp_path: Path, publish: Publish, log: Bundle
) -> None:
    publish(log)
    answer = one(tmp_path, "POST", "/invocations", json={"inputs": [[2.0], [1e300]]})
    assert answer.status_code == 400
    assert (
        "column 'x', row 1: expected a number in the range of float, got 1e+300" in answer.json()["message"]
    )
