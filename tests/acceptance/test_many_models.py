"""Many models on one server: 200 real bundles, loaded when they are asked for, within a memory limit; and one bad model
hurts no other.

Real server processes over HTTP; the bundles are ONNX models of one graph with other weights, so that an answer tells
which model gave it.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import Route, Routes
from mlplatform.errors import ServerDidNotFollow
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import layer_answer, make_layer_bundle

MODELS = 200
MEMORY_MB = 50
ROW = [0.3, -1.0, 2.0]
BODY = {"inputs": [ROW]}
SECONDS = 20.0
Bundle = tuple[Path, Manifest]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Bundle]:
    root = tmp_path_factory.mktemp("bundles")
    return [(root / str(n), make_layer_bundle(root / str(n), n)) for n in range(MODELS)]


def name(n: int) -> str:
    return f"m{n:03d}"


def route(n: int, bundle: Bundle, version: int = 1) -> Route:
    return Route(name(n), version, bundle[1].digest, str(bundle[0]))


class Server:
    """A server process on a folder of its own."""

    def __init__(self, root: Path) -> None:
        self.documents = FolderDocuments(root)
        self.folder = self.documents.folder("shared")
        self.target = LocalTarget()
        self.client = httpx.Client(timeout=SECONDS)

    def start(self, workers: int = 1) -> None:
        state = self.target.apply(ServerSpec("shared", self.folder, workers=workers))
        self.client.close()
        self.client = httpx.Client(base_url=state.url, timeout=SECONDS)
        until(lambda: len(self.documents.workers("shared")) == workers)  # all have read the document

    def stop(self) -> None:
        self.client.close()
        self.target.stop(self.folder)

    def publish(self, *routes: Route, memory_mb: int = 0) -> int:
        return self.documents.publish(Routes("shared", 0, routes, memory_mb=memory_mb)).generation

    def ask(self, n: int) -> httpx.Response:
        return self.client.post(f"/models/{name(n)}/invocations", json=BODY)

    def metric(self, wanted: str) -> float:
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        return sum(s.value for family in families for s in family.samples if s.name == wanted)

    def worker_bytes(self) -> int:
        (worker,) = self.documents.workers("shared")
        return int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "servers")
    yield server
    server.stop()


def until(condition: Callable[[], Any]) -> Any:
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.02)
    return found


def is_right(n: int, answer: httpx.Response) -> bool:
    return (
        answer.status_code == 200
        and answer.headers["mlplatform-model"].startswith(f"{name(n)}@")
        and answer.json()["predictions"] == [pytest.approx(layer_answer(n, ROW), rel=1e-4)]
    )


def test_two_hundred_models_answer_within_a_memory_limit(server: Server, bundles: list[Bundle]) -> None:
    server.publish(*(route(n, bundle) for n, bundle in enumerate(bundles)), memory_mb=MEMORY_MB)
    server.start()
    assert len(server.client.get("/health").json()["asleep"]) == MODELS
    assert is_right(0, server.ask(0))
    alone_ms = [_timed_ms(server, 0) for _ in range(300)]
    empty = server.worker_bytes()

    beside_ms, first_ms, largest = [], [], empty
    for _ in range(2):
        for n in range(1, MODELS):
            beside_ms.append(_timed_ms(server, 0))
            first_ms.append(_timed_ms(server, n))
            largest = max(largest, server.worker_bytes())
    grown_mb = (largest - empty) / 1e6
    evictions = server.metric("mlplatform_model_evictions_total")
    asleep = server.metric("mlplatform_models_asleep")
    print(
        f"hot model p50 {statistics.median(alone_ms):.2f} ms alone, {statistics.median(beside_ms):.2f} ms beside"
        f" {MODELS - 1} cold ones; a cold one's first answer p50 {statistics.median(first_ms):.1f} ms,"
        f" max {max(first_ms):.1f} ms; the worker grew by {grown_mb:.0f} MB ({MEMORY_MB} allowed) to"
        f" {largest / 1e6:.0f} MB; {MODELS - asleep:.0f} of {MODELS} loaded at the end, {evictions:.0f} evictions"
    )
    assert grown_mb < MEMORY_MB
    assert evictions > MODELS
    assert 0 < asleep < MODELS - 20
    assert name(0) not in server.client.get("/health").json()["asleep"], "the hot one was put to sleep"
    assert server.metric("mlplatform_model_load_failures_total") == 0
    assert statistics.median(beside_ms) < 10 * statistics.median(alone_ms)


def _timed_ms(server: Server, n: int) -> float:
    start = time.perf_counter()
    answer = server.ask(n)
    took_ms = (time.perf_counter() - start) * 1000
    assert is_right(n, answer), answer.text
    return took_ms


def test_requests_that_come_together_wait_for_one_loading(server: Server, bundles: list[Bundle]) -> None:
    server.publish(*(route(n, bundles[n]) for n in range(3)))
    server.start()
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(server.ask, [1] * 64))
    assert all(is_right(1, answer) for answer in answers)
    assert server.metric("mlplatform_model_loads_total") == 1


def test_a_model_has_to_be_named_where_there_are_several(server: Server, bundles: list[Bundle]) -> None:
    server.publish(route(0, bundles[0]), route(1, bundles[1]))
    server.start()
    refused = server.client.post("/invocations", json=BODY)
    assert refused.status_code == 400
    assert "/models/<model>/invocations" in refused.json()["message"]
    assert "m000, m001" in refused.json()["message"]
    tensor = {"inputs": [{"name": "rows", "datatype": "FP64", "shape": [1, 3], "data": ROW}]}
    by_v2 = server.client.post("/v2/models/m001/infer", json=tensor)
    assert by_v2.json()["outputs"][0]["data"] == [pytest.approx(layer_answer(1, ROW), rel=1e-4)]
    assert server.client.post("/models/m009/invocations", json=BODY).status_code == 404
    described = server.client.get("/v2/models/m000")  # loads it, for its columns
    assert [column["name"] for column in described.json()["inputs"]] == ["a", "b", "c"]
    assert server.client.get("/v2/models/m000/ready").json() == {"name": "m000", "ready": True}
    paths = server.client.get("/openapi.json").json()["paths"]
    assert "/models/m000/invocations" in paths
    assert "/invocations" not in paths


def test_a_model_whose_bytes_have_changed_is_503_and_others_answer(
    server: Server, bundles: list[Bundle], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    manifest = make_layer_bundle(broken, 1)
    _change_a_byte(broken)
    server.publish(route(0, bundles[0]), route(1, (broken, manifest)), route(2, bundles[2]))
    server.start()
    refused = server.ask(1)
    assert refused.status_code == 503
    assert "model/model.onnx has changed" in refused.json()["message"]
    assert is_right(0, server.ask(0))
    assert is_right(2, server.ask(2))
    health = server.client.get("/v2/health/ready")
    assert health.status_code == 200
    assert "has changed" in health.json()["failures"]["m001"]
    not_ready = server.client.get("/v2/models/m001/ready")
    assert (not_ready.status_code, "has changed" in not_ready.json()["error"]) == (503, True)
    assert 'mlplatform_model_failing{model="m001"} 1' in server.client.get("/metrics").text
    assert server.metric("mlplatform_model_load_failures_total") == 1

    fine = tmp_path / "fine"
    generation = server.publish(route(1, (fine, make_layer_bundle(fine, 1)), 2))
    server.documents.wait_in_effect("shared", generation, SECONDS)
    assert is_right(1, server.ask(1))
    assert server.client.get("/health").json()["failures"] == {}


def test_a_bad_new_version_of_one_model_keeps_its_last_good_and_others_follow(
    server: Server, bundles: list[Bundle], tmp_path: Path
) -> None:
    server.publish(route(0, bundles[0]), route(1, bundles[1]))
    server.start(workers=2)
    broken = tmp_path / "broken"
    manifest = make_layer_bundle(broken, 7)
    _change_a_byte(broken)
    bad = server.publish(route(0, (broken, manifest), 2))
    with pytest.raises(ServerDidNotFollow, match="has changed"):
        server.documents.wait_in_effect("shared", bad, SECONDS, name(0))
    good = server.publish(route(1, bundles[3], 2))
    server.documents.wait_in_effect("shared", good, SECONDS, name(1))
    assert is_right(0, server.ask(0))
    assert server.ask(1).json()["predictions"] == [pytest.approx(layer_answer(3, ROW), rel=1e-4)]
    with pytest.raises(ServerDidNotFollow, match="has changed"):
        server.documents.wait_in_effect("shared", good, SECONDS)
    assert "has changed" in server.client.get("/health").json()["failures"]["m000"]


def test_a_slow_model_does_not_take_what_others_need(
    server: Server, bundles: list[Bundle], tmp_path: Path
) -> None:
    slow = tmp_path / "slow", make_layer_bundle(tmp_path / "slow", 1, width=60_000)
    server.publish(route(0, bundles[0]), route(1, slow))
    server.start()
    many = {"inputs": [ROW] * 300}
    alone = server.client.post("/models/m001/invocations", json=many)
    assert is_right(0, server.ask(0))
    took_ms: list[float] = []
    with ThreadPoolExecutor(6) as pool:
        asked = [
            pool.submit(_post, f"{server.client.base_url}/models/m001/invocations", many) for _ in range(18)
        ]
        while not all(future.done() for future in asked):
            took_ms.append(_timed_ms(server, 0))
    slow_ms = [future.result().elapsed.total_seconds() * 1000 for future in asked]
    assert {future.result().status_code for future in asked} <= {200, 429}
    assert all(f.result().json() == alone.json() for f in asked if f.result().status_code == 200)
    print(
        f"beside 6 clients of a slow model ({statistics.median(slow_ms):.0f} ms) a quick one answers in"
        f" {statistics.median(took_ms):.1f} ms (median of {len(took_ms)}), {max(took_ms):.0f} ms at most"
    )
    assert statistics.median(took_ms) < statistics.median(slow_ms) / 2


def _post(url: str, content: object) -> httpx.Response:
    return httpx.post(url, json=content, timeout=SECONDS)


def test_a_bundle_that_ends_workers_while_it_loads_is_given_up(server: Server, bundles: list[Bundle]) -> None:
    """What a worker leaves that died in the middle of loading, twice."""
    server.publish(route(0, bundles[0]), route(1, bundles[1]))
    server.start()
    for _ in range(2):
        child = os.fork()
        if child == 0:
            (server.folder / "workers" / f"{bundles[1][1].digest}.{os.getpid()}.loading").touch()
            os._exit(1)
        os.waitpid(child, 0)
    refused = server.ask(1)
    assert refused.status_code == 503
    assert "2 workers died while it loaded" in refused.json()["message"]
    assert is_right(0, server.ask(0))


def test_a_worker_that_is_killed_takes_all_models_up_again(server: Server, bundles: list[Bundle]) -> None:
    server.publish(*(route(n, bundles[n]) for n in range(5)))
    server.start(workers=2)
    assert all(is_right(n, server.ask(n)) for n in range(5))
    victim = until(lambda: len(w := server.documents.workers("shared")) == 2 and w[0].pid)
    os.kill(victim, signal.SIGKILL)
    until(lambda: victim not in {w.pid for w in server.documents.workers("shared")})
    until(lambda: len(server.documents.workers("shared")) == 2)
    server.start(workers=2)  # it runs: a new connection
    assert all(is_right(n, server.ask(n)) for n in range(5))


def _change_a_byte(folder: Path) -> None:
    path = folder / "model" / "model.onnx"
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)


def test_documents_of_models_are_merged(server: Server, bundles: list[Bundle]) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: server.publish(route(n, bundles[n])), range(40)))
    document = json.loads((server.folder / "routes.json").read_bytes())
    assert sorted(r["model"] for r in document["routes"]) == [name(n) for n in range(40)]
    assert document["generation"] == 40
