"""The image and the target `docker` on a real engine: what is in the image, what a container may do, and that nobody
notices when models, settings or containers change behind a port. `make test-docker`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import mlplatform
from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import Route, Routes
from mlplatform.errors import ServerDidNotStart, WorldError
from mlplatform.plugins.targets import engine
from mlplatform.plugins.targets.docker import DockerTarget
from mlplatform.plugins.targets.image import ServerImage
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_onnx_bundle
from tests.small_project import MODEL, POLICY, Place, SmallProject

pytestmark = [pytest.mark.docker, pytest.mark.timeout(600)]
pytest_plugins = ["tests.prepared"]

COLUMNS = ("a", "b", "c")
CLASSES = {1: (0, 1), 2: (100, 101)}
BODY = {"dataframe_split": {"columns": list(COLUMNS), "data": [[0.1, 0.2, 0.3]]}}
ABSENT = ("mlflow", "torch", "pandas", "pyarrow", "sqlalchemy", "matplotlib", "pip")
SIZE_MB = 450


@dataclass
class Load:
    """Clients that ask without a pause, half of them over new connections, and what they were told."""

    url: str
    body: dict[str, Any] = field(default_factory=lambda: BODY)
    answered: list[str] = field(default_factory=list)
    """Ids of the requests that were answered."""
    failed: list[str] = field(default_factory=list)
    versions: set[str] = field(default_factory=set)
    slowest_s: float = 0.0

    @contextmanager
    def running(self, clients: int = 4) -> Iterator[None]:
        stop = threading.Event()
        threads = [threading.Thread(target=self._ask, args=(stop, n % 2 == 0)) for n in range(clients)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _ask(self, stop: threading.Event, keep: bool) -> None:
        headers = {} if keep else {"connection": "close"}
        with httpx.Client(base_url=self.url, headers=headers, timeout=20) as client:
            while not stop.is_set():
                asked_at = time.monotonic()
                try:
                    answer = client.post("/invocations", json=self.body)
                except httpx.HTTPError as error:
                    self.failed.append(repr(error))
                    continue
                if answer.status_code != 200:
                    self.failed.append(answer.text)
                    continue
                self.slowest_s = max(self.slowest_s, time.monotonic() - asked_at)
                self.answered.append(answer.headers["mlplatform-request-id"])
                self.versions.add(answer.headers["mlplatform-model"])


class Endpoint:
    """A folder with a container on it."""

    def __init__(self, root: Path) -> None:
        self.documents = FolderDocuments(root / "servers")
        self.bundles = {n: self._bundle(root / "bundles" / str(n), n) for n in CLASSES}
        self.spec = ServerSpec("digits", self.documents.folder("digits"), bundles=root / "bundles")
        self.target = DockerTarget()

    def _bundle(self, folder: Path, n: int) -> tuple[Path, Manifest]:
        return folder, make_onnx_bundle(folder, COLUMNS, n, CLASSES[n])

    def publish(self, version: int) -> None:
        folder, manifest = self.bundles[version]
        route = Route("digits", version, manifest.digest, str(folder))
        published = self.documents.publish(Routes("digits", 0, (route,)))
        self.documents.wait_in_effect("digits", published.generation, 20)

    @property
    def url(self) -> str:
        return self.target.status(self.spec.folder).url

    @property
    def container(self) -> dict[str, Any]:
        [name] = engine.containers(f"mlplatform.folder={self.spec.folder}")
        found = engine.inspect("container", name)
        assert found is not None
        return found

    def inside(self, program: str) -> str:
        """What a Python program prints in the container."""
        return engine.docker("exec", self.container["Id"], "python", "-c", program)


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    endpoint = Endpoint(tmp_path_factory.mktemp("docker"))
    endpoint.target.apply(endpoint.spec)
    endpoint.publish(1)
    yield endpoint
    endpoint.target.stop(endpoint.spec.folder)


def until(condition: Callable[[], Any]) -> Any:
    deadline, tick = time.monotonic() + 30, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.05)
    return found


def test_the_image_holds_no_more_than_a_server_needs(endpoint: Endpoint) -> None:
    image = engine.inspect("image", endpoint.container["Image"])
    assert image is not None
    assert image["Size"] / 1e6 < SIZE_MB
    program = f"from importlib.util import find_spec; print([n for n in {ABSENT} if find_spec(n)])"
    assert endpoint.inside(program) == "[]"
    assert image["Config"]["Labels"]["org.opencontainers.image.version"] == mlplatform.__version__


def test_no_layer_of_the_image_tells_how_it_was_built(endpoint: Endpoint) -> None:
    history = engine.docker(
        "history", "--no-trunc", "--format", "{{.CreatedBy}}", endpoint.container["Image"]
    )
    assert "PIP" not in history
    assert "secrets" not in endpoint.inside("import os; print(os.listdir('/run'))")


def test_the_container_may_do_nothing_but_serve(endpoint: Endpoint) -> None:
    status = endpoint.inside("print(open('/proc/1/status').read())")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert "0" not in facts["Uid"].split()
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"] == "1"
    assert facts["Seccomp"] == "2"
    assert endpoint.inside("import socket; print([n for _, n in socket.if_nameindex()])") == "['lo']"
    write = "try: open({!r}, 'w'); print('written')\nexcept OSError as error: print(error.strerror)"
    routes, bundle = endpoint.spec.folder / "routes.json", endpoint.bundles[1][0] / "manifest.json"
    for path in ("/x", "/app/mlplatform/x.py", str(routes), str(bundle)):
        assert endpoint.inside(write.format(path)) in ("Read-only file system", "Permission denied"), path
    host = endpoint.container["HostConfig"]
    assert host["Memory"] == host["MemorySwap"] == endpoint.target.memory_mb * 2**20
    assert host["PidsLimit"] == 512
    until(lambda: endpoint.container["State"]["Health"]["Status"] == "healthy")


def test_models_change_without_another_container(endpoint: Endpoint) -> None:
    before, load = endpoint.container["Id"], Load(endpoint.url)
    with load.running():
        for version in (2, 1, 2, 1):
            endpoint.publish(version)
            asked = len(load.answered)
            until(lambda asked=asked: len(load.answered) > asked + 20)
    assert load.failed == []
    assert load.versions == {"digits@1", "digits@2"}
    assert endpoint.container["Id"] == before


def test_a_new_container_takes_over_behind_the_same_port(tmp_path: Path) -> None:
    """Other settings, then another image: no request fails, and every answer is captured."""
    endpoint = Endpoint(tmp_path)
    state = endpoint.target.apply(endpoint.spec)
    endpoint.publish(1)
    load, wide = Load(endpoint.url), replace(endpoint.spec, workers=2)
    other = replace(endpoint.target, packages=("wheel==0.45.1",))
    ServerImage(other.base_image, other.packages).ensure()  # not while clients take what the build needs
    try:
        with load.running():
            until(lambda: load.answered)
            seen = [endpoint.container["Image"]]
            for target, spec in ((endpoint.target, wide), (other, wide), (other, endpoint.spec)):
                changed, asked = target.apply(spec), len(load.answered)
                assert changed.port == state.port
                assert len(endpoint.documents.workers("digits")) == spec.workers
                until(lambda asked=asked: len(load.answered) > asked + 20)
                seen.append(endpoint.container["Image"])
        assert load.failed == []
        assert seen[0] == seen[1] != seen[2] == seen[3]
    finally:
        other.stop(endpoint.spec.folder)
    assert sorted(_captured(endpoint.spec.folder)) == sorted(load.answered)


def test_the_one_before_goes_on_when_the_new_one_does_not_become_ready(tmp_path: Path) -> None:
    endpoint = Endpoint(tmp_path)
    endpoint.target.apply(endpoint.spec)
    endpoint.publish(1)
    before, load = endpoint.container["Id"], Load(endpoint.url)
    shutil.rmtree(endpoint.bundles[1][0])  # a new server finds nothing to load
    try:
        with load.running():
            with pytest.raises(ServerDidNotStart, match=r"manifest\.json is missing"):
                endpoint.target.apply(replace(endpoint.spec, workers=2))
            asked = len(load.answered)
            until(lambda: len(load.answered) > asked + 20)
        assert load.failed == []
        assert endpoint.container["Id"] == before
        assert endpoint.target.status(endpoint.spec.folder).running
        # One that cannot even start: its memory does not suffice.
        small = replace(endpoint.target, memory_mb=20, start_seconds=5)
        with pytest.raises(ServerDidNotStart):
            small.apply(endpoint.spec)
        assert endpoint.container["Id"] == before
        assert httpx.post(f"{endpoint.url}/invocations", json=BODY).status_code == 200
    finally:
        endpoint.target.stop(endpoint.spec.folder)


def test_a_killed_container_is_started_again_while_clients_wait(endpoint: Endpoint) -> None:
    before, url = endpoint.container, endpoint.url
    os.kill(before["State"]["Pid"], signal.SIGKILL)
    assert httpx.post(f"{url}/invocations", json=BODY, timeout=20).status_code == 200
    after = endpoint.container
    assert (after["Id"], after["RestartCount"]) == (before["Id"], 1)


def test_a_stopped_endpoint_leaves_neither_container_nor_port(tmp_path: Path) -> None:
    endpoint = Endpoint(tmp_path)
    state = endpoint.target.apply(endpoint.spec)
    endpoint.target.stop(endpoint.spec.folder)
    assert engine.containers(f"mlplatform.folder={endpoint.spec.folder}") == []
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{state.url}/ping")
    log = [json.loads(line) for line in (endpoint.spec.folder / "server.log").read_text().splitlines()]
    assert {"started", "stopped"} <= {line["event.action"] for line in log}


def test_an_engine_that_does_not_answer_is_told_with_a_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody")
    with pytest.raises(WorldError, match="no Docker engine answers") as told:
        DockerTarget().apply(ServerSpec("digits", tmp_path / "digits"))
    assert 'target = "local"' in told.value.next_step


def test_a_server_moves_into_a_container_and_back_and_no_request_fails(small_sqlite: SmallProject) -> None:
    """By a command, which promote and rollback leave alone; then by the policy, which a command does not overrule."""
    with small_sqlite.copied() as place:
        place.done("deploy", MODEL)
        folder = place.servers / MODEL
        state = LocalTarget().status(folder)
        load = Load(state.url, {"inputs": [[0.0, 0.0, 0.0]]})
        try:
            with load.running(clients=2):
                place.done("deploy", MODEL, "--target", "docker", "--option", "memory_mb=1500")
                assert (_target(place), DockerTarget().status(folder).port) == ("docker", state.port)
                _promote_and_take_back(place, load)
                place.done("deploy", MODEL, "--target", "local")
                assert (_target(place), LocalTarget().status(folder).port) == ("local", state.port)
                assert engine.containers(f"mlplatform.folder={folder}") == []
                _name_target(place, "docker")
                code, told = place.run("deploy", MODEL, "--target", "local")
                assert (code, "runs on docker (memory_mb = 1500)" in told) == (3, True), told
                place.done("deploy", MODEL)
                assert DockerTarget().status(folder).port == state.port
                _wait_for_more(load)
        finally:
            place.done("undeploy", MODEL)
        print(f"three moves: {len(load.answered)} requests, the slowest took {load.slowest_s:.2f} s")
        assert load.failed == []
        assert load.versions == {f"{MODEL}@2", f"{MODEL}@3"}
        assert set(_captured(folder)) == set(load.answered)


def _promote_and_take_back(place: Place, load: Load) -> None:
    [container] = engine.containers(f"mlplatform.folder={place.servers / MODEL}")
    found = engine.inspect("container", container)
    assert found and found["HostConfig"]["Memory"] == 1500 * 2**20
    place.done("promote", f"{MODEL}@3", "production", "--reason", "better")
    _wait_for_more(load)
    place.done("rollback", MODEL, "--reason", "worse")
    place.done("reconcile", MODEL)
    place.done("deploy", MODEL)
    assert engine.containers(f"mlplatform.folder={place.servers / MODEL}") == [container]


def _target(place: Place) -> str:
    [found] = place.told("endpoints")
    return str(found["target"])


def _name_target(place: Place, target: str) -> None:
    named = f'{{ name = "churn", target = "{target}", options = {{ memory_mb = 1500 }} }}'
    (place.folder / "policy.toml").write_text(POLICY.replace('{ name = "churn" }', named))


def _wait_for_more(load: Load) -> None:
    asked = len(load.answered)
    until(lambda: len(load.answered) > asked + 20)


def _captured(folder: Path) -> list[str]:
    """Ids of the requests in blocks that nobody has read in."""
    blocks = (folder / "capture").glob("*.npz")
    return [i.decode() for path in blocks for i in np.load(path, allow_pickle=False)["request"]]
