"""The real server process over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlplatform.data.capture import read_block
from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.errors import ServerDidNotFollow
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec, ServerState
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_onnx_bundle
from tests.loading import exchange, request

COLUMNS = tuple(f"c{i}" for i in range(5))
CLASSES = {1: (0, 1), 2: (100, 101), 3: (200, 201)}
ROWS = [[0.1, 0.2, 0.3, 0.4, 0.5]] * 3
BODY = {"dataframe_split": {"columns": list(COLUMNS), "data": ROWS}}
SECONDS = 20.0
BLOCKS, ANSWERS = 4, 1000
"""What is there before a server is killed."""
PAUSE_SECONDS = 0.005
"""Of a client that asks steadily, between two requests."""
BLOCK_SECONDS, DISK_SECONDS = 1.0, 1.5
"""How old a block becomes, and what a busy machine may take to notice it and to write it."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, Manifest]]:
    """Versions 1, 2 and 3, whose answers tell which one gave them."""
    root = tmp_path_factory.mktemp("bundles")
    return {n: (root / str(n), make_onnx_bundle(root / str(n), COLUMNS, n, CLASSES[n])) for n in CLASSES}


class Endpoint:
    """A folder with a server on it."""

    def __init__(self, root: Path, bundles: dict[int, tuple[Path, Manifest]]) -> None:
        self.documents = FolderDocuments(root)
        self.folder = self.documents.folder("digits")
        self.target = LocalTarget()
        self.state = ServerState("digits", running=False)
        self._bundles = bundles
        self._clients: list[httpx.Client] = []

    def start(self, workers: int = 1) -> httpx.Client:
        self.state = self.target.apply(ServerSpec("digits", self.folder, workers=workers))
        self._clients.append(httpx.Client(base_url=self.state.url, timeout=SECONDS))
        return self._clients[-1]

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self.target.stop(self.folder)

    def publish(self, *versions: int, wait: bool = True, capture: CaptureRule | None = None) -> Routes:
        routes = [self.route(version, 1 / len(versions)) for version in versions]
        document = Routes("digits", 0, tuple(routes), capture=capture or CaptureRule())
        published = self.documents.publish(document)
        if wait:
            self.documents.wait_in_effect("digits", published.generation, SECONDS)
        return published

    def route(self, version: int, share: float = 1.0) -> Route:
        folder, manifest = self._bundles[version]
        return Route("digits", version, manifest.digest, str(folder), share)

    def blocks(self) -> list[Path]:
        return sorted((self.folder / "capture").glob("*.npz"))

    def captured(self) -> list[str]:
        """Ids of the requests on disk, one for each row."""
        return [i.decode() for path in self.blocks() for i in np.load(path, allow_pickle=False)["request"]]

    def log(self) -> str:
        return (self.folder / "server.log").read_text()


@pytest.fixture
def endpoint(tmp_path: Path, bundles: dict[int, tuple[Path, Manifest]]) -> Iterator[Endpoint]:
    endpoint = Endpoint(tmp_path / "servers", bundles)
    yield endpoint
    endpoint.stop()


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something to become true; what it was."""
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.01)
    return found


def version_of(answer: httpx.Response) -> int:
    """Which version answered, by its classes; asserts that no answer mixes two and that the header agrees."""
    (version,) = {n for n, classes in CLASSES.items() for p in answer.json()["predictions"] if p in classes}
    assert answer.headers["mlplatform-model"] == f"digits@{version}"
    return version


class Load:
    """Threads that ask as fast as they can, each on a connection of its own."""

    def __init__(self, url: str, threads: int = 4) -> None:
        self.answers: Counter[int] = Counter()
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._url = url
        self._pool = ThreadPoolExecutor(threads)
        self._futures = [self._pool.submit(self._ask) for _ in range(threads)]

    def _ask(self) -> None:
        with httpx.Client(base_url=self._url, timeout=SECONDS) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post("/invocations", json=BODY)
                    if answer.status_code == 200:
                        self.answers[version_of(answer)] += 1
                    else:
                        self.failures.append(answer.text)
                except (httpx.HTTPError, AssertionError, ValueError) as error:
                    self.failures.append(repr(error))

    def wait_for_another(self, version: int) -> None:
        seen = self.answers[version]
        until(lambda: self.answers[version] > seen)

    def stop(self) -> None:
        self._stop.set()
        self._pool.shutdown()
        for future in self._futures:
            future.result()


class Diary:
    """Clients that ask steadily, each on one connection until it breaks, and when each request was answered."""

    def __init__(self, server: ServerState, clients: int = 8) -> None:
        self._server = server
        self._sent = request("/invocations", json.dumps(BODY).encode())
        self._pages: list[list[tuple[float, str]]] = [[] for _ in range(clients)]
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(clients)
        self._futures = [self._pool.submit(self._keep, page) for page in self._pages]

    def _keep(self, page: list[tuple[float, str]]) -> None:
        with socket.create_connection((self._server.host, self._server.port), timeout=SECONDS) as raw:
            while not self._stop.wait(PAUSE_SECONDS):
                try:
                    status, headers, _ = exchange(raw, self._sent)
                except ConnectionError:
                    return
                assert status == 200
                page.append((time.time(), headers["mlplatform-request-id"]))

    @property
    def answered(self) -> int:
        return sum(map(len, self._pages))

    def wait_for_another(self, count: int) -> None:
        wanted = self.answered + count
        until(lambda: self.answered >= wanted)

    def close(self) -> list[list[tuple[float, str]]]:
        """For each connection, when which request was answered."""
        self._stop.set()
        for future in self._futures:
            future.result()
        self._pool.shutdown()
        return self._pages


@pytest.mark.parametrize("workers", [1, 2])
def test_twenty_swaps_under_load_fail_no_request_and_mix_no_answer(endpoint: Endpoint, workers: int) -> None:
    endpoint.publish(1, wait=False)
    endpoint.start(workers)
    load = Load(endpoint.state.url)
    took_ms = []
    for i in range(20):
        version = (2, 3, 1)[i % 3]
        start = time.monotonic()
        endpoint.publish(version)
        took_ms.append((time.monotonic() - start) * 1000)
        load.wait_for_another(version)
    load.stop()
    print(
        f"{sum(load.answers.values())} answers, swap p50 {np.median(took_ms):.0f} ms, max {max(took_ms):.0f} ms"
    )
    assert load.failures == []
    assert set(load.answers) == {1, 2, 3}


def test_once_acknowledged_the_old_version_answers_no_more(endpoint: Endpoint) -> None:
    endpoint.publish(1, wait=False)
    client = endpoint.start(workers=2)
    for version in (2, 1, 3, 1):
        endpoint.publish(version)
        assert {version_of(client.post("/invocations", json=BODY)) for _ in range(20)} == {version}


def test_a_corrupt_bundle_keeps_the_last_good_and_is_reported(endpoint: Endpoint, tmp_path: Path) -> None:
    endpoint.publish(1, wait=False)
    client = endpoint.start()
    broken = tmp_path / "broken"
    manifest = make_onnx_bundle(broken, COLUMNS, 9, (7, 8))
    model = broken / "model" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1] + b"x")
    route = Route("digits", 9, manifest.digest, str(broken))
    generation = endpoint.documents.publish(Routes("digits", 0, (route,))).generation
    with pytest.raises(ServerDidNotFollow, match=r"model/model\.onnx has changed"):
        endpoint.documents.wait_in_effect("digits", generation, SECONDS)
    assert version_of(client.post("/invocations", json=BODY)) == 1
    health = client.get("/health")
    assert health.status_code == 200
    assert (health.json()["generation"], health.json()["rejected"]) == (1, generation)
    assert "model/model.onnx has changed" in health.json()["error"]
    assert "mlplatform_swap_failures_total 1" in client.get("/metrics").text
    endpoint.publish(2)
    assert version_of(client.post("/invocations", json=BODY)) == 2


def test_sigterm_finishes_requests_flushes_captures_and_exits_0(endpoint: Endpoint) -> None:
    folder = endpoint.folder
    endpoint.publish(1, wait=False)
    command = [sys.executable, "-m", "mlplatform.serving.main", "--folder", str(folder)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    until((folder / "server.json").exists)
    state = endpoint.target.status(folder)
    assert state.pid == server.pid
    with httpx.Client(base_url=state.url, timeout=SECONDS) as client:
        ids = [client.post("/invocations", json=BODY).headers["mlplatform-request-id"] for _ in range(50)]
    server.send_signal(signal.SIGTERM)
    output, _ = server.communicate(timeout=SECONDS)
    assert server.returncode == 0, output
    assert Counter(endpoint.captured()) == dict.fromkeys(ids, 3)
    assert not (folder / "server.json").exists()
    assert list((folder / "workers").iterdir()) == []
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


@pytest.mark.parametrize("killed", ["worker", "server"])
def test_kill_9_loses_at_most_the_open_block(endpoint: Endpoint, killed: str) -> None:
    """Of a connection, which belongs to one worker, the lost answers are its last ones, and none of them is old."""
    endpoint.publish(1, wait=False)
    endpoint.start(workers={"worker": 1, "server": 2}[killed])
    diary = Diary(endpoint.state)
    until(lambda: len(endpoint.blocks()) >= BLOCKS and diary.answered >= ANSWERS)
    diary.wait_for_another(500)  # far into the open block, unless the machine is slow
    now = time.time()
    if killed == "worker":
        (worker,) = endpoint.documents.workers("digits")
        os.kill(worker.pid, signal.SIGKILL)
    else:
        os.killpg(endpoint.state.pid, signal.SIGKILL)
    pages = diary.close()
    rows = Counter(endpoint.captured())
    kept = {request for request, count in rows.items() if count == len(ROWS)}
    lost = [(now - at, request) for page in pages for at, request in page if request not in kept]
    oldest = max((age_s for age_s, _ in lost), default=0.0)
    oldest_row_s, newest_row_s = zip(*map(ages_when_written, endpoint.blocks()), strict=True)
    print(
        f"{killed}: {len(kept)} kept, {len(lost)} lost, the oldest of them {oldest:.2f} s old;"
        f" rows were on disk after at most {max(oldest_row_s):.2f} s"
    )
    for page in pages:
        there = [request in kept for _, request in page]
        assert there == sorted(there, reverse=True), "lost before one that is there"
    assert len(kept) > ANSWERS / 2
    assert max(oldest, *oldest_row_s) < BLOCK_SECONDS + DISK_SECONDS
    assert np.median(newest_row_s) < BLOCK_SECONDS / 2, "another block waits behind the open one"
    if killed == "server":
        until(lambda: not endpoint.target.status(endpoint.folder).running)
        endpoint.target.stop(endpoint.folder)
        endpoint.start()
    again = until(lambda: asked_anew(endpoint.state.url))
    assert version_of(again) == 1
    assert rows.items() <= Counter(endpoint.captured()).items()


def ages_when_written(block: Path) -> tuple[float, float]:
    """Seconds, of its first row and of its last."""
    answered = read_block(block)["time_us"] / 1e6
    return block.stat().st_mtime - answered.min(), block.stat().st_mtime - answered.max()


def asked_anew(url: str) -> httpx.Response | None:
    """The answer on a new connection; none while nobody listens."""
    try:
        return httpx.post(f"{url}/invocations", json=BODY, timeout=SECONDS)
    except httpx.TransportError:
        return None


def test_a_worker_that_is_killed_is_started_again_while_the_other_answers(endpoint: Endpoint) -> None:
    endpoint.publish(1, wait=False)
    endpoint.start(workers=2)
    before = until(lambda: len(w := endpoint.documents.workers("digits")) == 2 and w)
    victim = before[0].pid
    os.kill(victim, signal.SIGKILL)

    def replaced() -> bool:
        now = {w.pid for w in endpoint.documents.workers("digits")}
        return len(now) == 2 and victim not in now

    until(replaced)
    with httpx.Client(base_url=endpoint.state.url, timeout=SECONDS) as client:
        assert version_of(client.post("/invocations", json=BODY)) == 1
    assert f"worker {victim} ended with -9" in endpoint.log()


def test_workers_end_when_their_parent_is_killed(endpoint: Endpoint) -> None:
    endpoint.publish(1, wait=False)
    client = endpoint.start(workers=2)
    request = client.post("/invocations", json=BODY).headers["mlplatform-request-id"]
    client.close()
    until(lambda: len(endpoint.documents.workers("digits")) == 2)
    os.kill(endpoint.state.pid, signal.SIGKILL)
    until(lambda: not endpoint.documents.workers("digits"))
    assert request in endpoint.captured()
    assert not endpoint.target.status(endpoint.folder).running


def test_counters_of_all_workers_are_one_and_their_files_agree(endpoint: Endpoint) -> None:
    endpoint.publish(1, wait=False)
    endpoint.start(workers=2)
    for _ in range(40):  # new connections, so that both workers get some
        assert httpx.post(f"{endpoint.state.url}/invocations", json=BODY).status_code == 200
    assert httpx.post(f"{endpoint.state.url}/invocations", json={"inputs": 1}).status_code == 400

    def seen() -> dict[str, float]:
        text = httpx.get(f"{endpoint.state.url}/metrics").text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        return {s.labels["status"]: s.value for s in families["mlplatform_requests"].samples}

    until(lambda: seen() == {"200": 40, "400": 1})
    until(
        lambda: sum((w.counts or {}).get("digits@1", 0) for w in endpoint.documents.workers("digits")) == 40
    )


def test_traffic_is_split_between_two_routes(endpoint: Endpoint) -> None:
    endpoint.publish(1, 2, wait=False)
    client = endpoint.start()
    seen = Counter(version_of(client.post("/invocations", json=BODY)) for _ in range(200))
    assert set(seen) == {1, 2}
    assert min(seen.values()) > 50


def test_dropped_columns_never_reach_the_disk(endpoint: Endpoint) -> None:
    endpoint.publish(
        1, wait=False, capture=CaptureRule(drop_columns=("c1", "email"), context=("email", "ts"))
    )
    client = endpoint.start()
    record = {**dict.fromkeys(COLUMNS, 1.0), "email": "someone@example.org", "ts": "2026"}
    assert client.post("/invocations", json={"dataframe_records": [record]}).status_code == 200
    (path,) = until(endpoint.blocks)
    names = sorted(name for name in read_block(path) if ":" in name)
    assert names == ["ctx:ts", "in:c0", "in:c2", "in:c3", "in:c4"]
    assert b"example.org" not in path.read_bytes()


def test_a_capture_folder_that_cannot_be_written_fails_no_request(endpoint: Endpoint) -> None:
    endpoint.folder.mkdir(parents=True)
    (endpoint.folder / "capture").write_text("not a folder")
    endpoint.publish(1, wait=False)
    client = endpoint.start()
    assert all(client.post("/invocations", json=BODY).status_code == 200 for _ in range(20))
    until(lambda: 'mlplatform_dropped_rows_total{reason="disk"} 60' in client.get("/metrics").text)
    assert client.post("/invocations", json=BODY).status_code == 200


def bad_bodies() -> Iterator[tuple[str, bytes]]:
    columns = json.dumps(list(COLUMNS)).encode()
    yield "empty", b""
    yield "cut", b'{"inputs": [[1, 2'
    yield "scalar", b"7"
    yield "deep", b"[" * 100_000 + b"]" * 100_000
    yield "deep in a row", b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    yield "duplicate key", b'{"inputs": [[1,2,3,4,5]], "inputs": [[1,2,3,4,5]]}'
    yield (
        "duplicate column",
        b'{"dataframe_split": {"columns": ["c0","c0","c1","c2","c3","c4"], "data": [[1,2,3,4,5,6]]}}',
    )
    yield "BOM", b'\xef\xbb\xbf{"inputs": [[1,2,3,4,5]]}'
    yield "UTF-16", '{"inputs": [[1,2,3,4,5]]}'.encode("utf-16")
    yield "surrogate", b'{"dataframe_records": [{"\\ud800": 1}]}'
    yield "1e999", b'{"inputs": [[1e999,2,3,4,5]]}'
    yield "infinity", b'{"inputs": [[Infinity,2,3,4,5]]}'
    yield "missing value", b'{"inputs": [[null,2,3,4,5]]}'
    yield "text for a number", b'{"inputs": [["1",2,3,4,5]]}'
    yield "boolean for a number", b'{"inputs": [[true,2,3,4,5]]}'
    yield "missing column", b'{"dataframe_records": [{"c0": 1}]}'
    yield "extra column", b'{"dataframe_records": [{"c0":1,"c1":1,"c2":1,"c3":1,"c4":1,"c5":1}]}'
    yield "ragged", b'{"dataframe_split": {"columns": %s, "data": [[1,2,3,4,5],[1]]}}' % columns
    yield "ragged columns", b'{"inputs": {"c0":[1],"c1":[1,2],"c2":[1],"c3":[1],"c4":[1]}}'
    yield "no rows", b'{"inputs": []}'
    yield "huge digits", b'{"inputs": [[' + b"9" * 10_000 + b",2,3,4,5]]}"


def test_every_bad_input_is_a_4xx_with_one_line_and_others_are_served(endpoint: Endpoint) -> None:
    endpoint.publish(1, wait=False)
    client = endpoint.start()
    for name, sent in bad_bodies():
        answer = client.post("/invocations", content=sent, headers={"content-type": "application/json"})
        assert answer.status_code == 400, name
        assert answer.json()["error_code"] in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE"), name
        assert "\n" not in answer.text, name
        assert len(answer.text) < 1000, name
        assert "Traceback" not in answer.text, name
        assert version_of(client.post("/invocations", json=BODY)) == 1
    assert client.post("/invocations", content=b"{}").status_code == 415
    zipped = {"content-type": "application/json", "content-encoding": "gzip"}
    assert client.post("/invocations", content=b"\x1f\x8b", headers=zipped).status_code == 415
    large = client.post(
        "/invocations", content=bytes(17_000_000), headers={"content-type": "application/json"}
    )
    assert large.status_code == 413
    assert version_of(client.post("/invocations", json=BODY)) == 1
    assert "Traceback" not in endpoint.log()


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"GARBAGE\r\n\r\n",
    ],
)
def test_requests_that_are_no_http_are_refused_and_others_are_served(endpoint: Endpoint, sent: bytes) -> None:
    endpoint.publish(1, wait=False)
    client = endpoint.start()
    with socket.create_connection((endpoint.state.host, endpoint.state.port), timeout=SECONDS) as raw:
        raw.sendall(sent)
        assert raw.recv(1000).startswith(b"HTTP/1.1 4")
    assert version_of(client.post("/invocations", json=BODY)) == 1


def test_a_second_server_on_the_folder_is_refused(endpoint: Endpoint) -> None:
    endpoint.start()
    command = [sys.executable, "-m", "mlplatform.serving.main", "--folder", str(endpoint.folder)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    assert second.returncode == 6
    assert (
        f"already running in this project (pid {endpoint.state.pid}, {endpoint.state.url})" in second.stderr
    )
    assert second.stderr.count("\n") == 1
    assert endpoint.target.status(endpoint.folder) == endpoint.state


def test_the_servers_environment_holds_no_secrets(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLPLATFORM_DATABASE_URL", "postgresql://user:secret@host/db")
    endpoint.start()
    environment = Path(f"/proc/{endpoint.state.pid}/environ").read_bytes()
    assert b"PATH=" in environment
    assert b"secret" not in environment


def test_a_running_server_has_loaded_nothing_heavy(endpoint: Endpoint) -> None:
    endpoint.publish(1, wait=False)
    script = f"""
import asyncio, sys
from pathlib import Path
import mlplatform.serving.main, mlplatform.serving.worker
from mlplatform.serving.app import App
async def go():
    app = App(Path({str(endpoint.folder)!r}))
    await app.start()
    assert app.plane.router.table.arms, app.plane.router.error
    await app.stop()
asyncio.run(go())
heavy = {{"mlflow", "torch", "pandas", "pyarrow", "sqlalchemy", "sklearn", "scipy", "numpy.random", "uvicorn"}}
print(sorted(heavy & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=SECONDS, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
