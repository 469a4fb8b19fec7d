"""What the target `docker` decides without an engine: names, files, words, and who is handed which socket; that the
recipes of the images agree with the pinned versions; and the target `external`."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from mlplatform.domain.routes import Routes, WorkerStatus
from mlplatform.errors import ServerDidNotStart, UsageError, WorldError
from mlplatform.plugins.targets import engine, keeping, readiness
from mlplatform.plugins.targets.docker import DockerTarget
from mlplatform.plugins.targets.external import ExternalTarget
from mlplatform.plugins.targets.image import ServerImage
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.plugins.targets.slots import Slots
from mlplatform.ports.extensions import ServerSpec, TlsFiles
from mlplatform.serving import alive
from mlplatform.serving.parent.joining import Port
from tests.certificates import Authority

ROOT = Path(__file__).parents[3]


@pytest.fixture
def spec(tmp_path: Path) -> ServerSpec:
    (tmp_path / "churn").mkdir()
    return ServerSpec("churn", tmp_path / "churn")


# --- the image ------------------------------------------------------------------------------------------------------


def test_the_name_of_an_image_says_what_is_in_it() -> None:
    tag = ServerImage("python:3.11").tag
    assert tag == ServerImage("python:3.11").tag
    assert tag not in (ServerImage("python:3.12").tag, ServerImage("python:3.11", ("pandas==3.1.1",)).tag)


def test_the_context_of_an_image_is_code_and_recipe() -> None:
    files = set(ServerImage("python:3.11").files)
    assert {"docker/server.Dockerfile", "mlplatform/serving/main.py"} <= files
    assert {Path(name).suffix for name in files} == {".py", ".txt", ".Dockerfile"}


@pytest.mark.parametrize("image", ["server", "control"])
def test_images_hold_the_pinned_versions(image: str) -> None:
    pinned = set((ROOT / "constraints.txt").read_text().splitlines())
    wanted = (ROOT / "docker" / f"{image}-requirements.txt").read_text().splitlines()
    assert not [line for line in wanted if not line.startswith("#") and line not in pinned]


def test_the_image_of_the_server_has_no_training_library() -> None:
    names = {
        line.split("==")[0] for line in (ROOT / "docker/server-requirements.txt").read_text().splitlines()
    }
    assert not names & {"mlflow", "torch", "pandas", "pyarrow", "sqlalchemy", "matplotlib"}


def test_compose_has_no_password_and_no_port_that_others_reach() -> None:
    text = (ROOT / "docker" / "compose.yml").read_text()
    services = yaml.safe_load(text)["services"]
    assert set(services) == {"postgres", "mlflow", "upgrade", "control", "server", "prometheus"}
    assert text.count("${POSTGRES_PASSWORD") == text.count("${POSTGRES_PASSWORD:?")
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert ports and all(port.startswith("127.0.0.1:") for port in ports)
    assert all(service["read_only"] for name, service in services.items() if name != "postgres")


# --- words for the engine -------------------------------------------------------------------------------------------


def test_a_container_may_write_to_its_own_folder_only(spec: ServerSpec, tmp_path: Path) -> None:
    place = spec.folder / "slots" / "blue" / "churn"
    words = DockerTarget()._run_words(replace(spec, bundles=tmp_path / "bundles"), "n", "image", place, 10001)
    mounts = [word for before, word in pairwise(words) if before == "--mount"]
    assert [mount.split(",")[1] for mount in mounts if not mount.endswith(",readonly")] == [f'"src={place}"']
    assert len(mounts) == 3
    for pair in (["--cap-drop", "ALL"], ["--network", "none"], ["--user", f"10001:{os.getgid() or 10001}"]):
        assert pair[1] == words[words.index(pair[0]) + 1]
    assert "--read-only" in words


def test_a_mount_may_have_a_comma_and_no_quotation_mark() -> None:
    assert engine.mount(Path("/a,b"))[1] == 'type=bind,"src=/a,b","dst=/a,b",readonly'
    with pytest.raises(WorldError, match="quotation mark"):
        engine.mount(Path('/a"b'))


def test_a_missing_command_is_told_with_a_next_step(
    spec: ServerSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WorldError, match="`docker` is not there") as told:
        DockerTarget().apply(spec)
    assert "apt install docker.io" in told.value.next_step


def test_nothing_is_asked_of_the_engine_where_nothing_ran(
    spec: ServerSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    DockerTarget().stop(spec.folder)
    assert not DockerTarget().status(spec.folder).running


# --- two places in turn ---------------------------------------------------------------------------------------------


def test_servers_take_turns_and_nothing_that_one_left_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "churn"
    (folder / "capture").mkdir(parents=True)
    (folder / "capture" / "of-a-server-without-a-container.npz").touch()
    slots = Slots(folder)
    for colour in ("blue", "green"):
        assert slots.next == colour
        place = slots.prepare(colour, None)
        (place / "capture" / f"{colour}.npz").touch()
        (place / "capture" / ".cut.tmp").touch()
        slots.activate(colour)
        slots.collect()
    found = sorted(path.name for path in (folder / "capture").glob("*.npz"))
    assert found == ["blue.npz", "green.npz", "of-a-server-without-a-container.npz"]
    assert (folder / "capture").resolve() == slots.place("green") / "capture"


def test_servers_see_what_the_control_plane_tells(tmp_path: Path) -> None:
    slots = Slots(tmp_path / "churn")
    place = slots.prepare("blue", None)
    (tmp_path / "churn" / "routes.json").write_text("told")
    assert (place / "routes.json").read_text() == "told"


# --- readiness ------------------------------------------------------------------------------------------------------


def _told(spec: ServerSpec, colour: str, *statuses: WorkerStatus) -> Path:
    place = Slots(spec.folder).prepare(colour, None)
    for status in statuses:
        (place / "workers" / f"{status.pid}.json").write_bytes(status.encode())
    return place


def test_a_server_is_ready_once_every_worker_serves_the_newest_document(spec: ServerSpec) -> None:
    (spec.folder / "routes.json").write_bytes(Routes("churn", 5, ()).encode())
    place = _told(spec, "blue", WorkerStatus(7, 5), WorkerStatus(8, 4))
    two = replace(spec, workers=2)
    assert readiness.why_not(two, place, None) == readiness.Why("a worker serves generation 4, not 5")
    (place / "workers" / "8.json").write_bytes(WorkerStatus(8, 5).encode())
    assert readiness.why_not(two, place, None) is None
    assert readiness.why_not(replace(spec, workers=3), place, None) == readiness.Why(
        "2 of 3 workers have started"
    )


def test_a_model_that_does_not_load_ends_the_wait_unless_it_did_not_before(spec: ServerSpec) -> None:
    (spec.folder / "routes.json").write_bytes(Routes("churn", 5, ()).encode())
    broken = WorkerStatus(7, 0, 5, "cut off", taken=5, behind={"churn": "cut off"})
    place, before = _told(spec, "blue", broken), _told(spec, "green", broken)
    assert readiness.why_not(spec, place, None) == readiness.Why("cut off", final=True)
    assert readiness.why_not(spec, place, before) is None


# --- the port -------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(spec: ServerSpec) -> Iterator[int]:
    yield keeping.ensure(spec, os.getuid())
    keeping.end(spec.folder)


def test_no_socket_of_a_kept_port_is_ever_without_a_worker(spec: ServerSpec, kept: int) -> None:
    """Connections to it would wait for ever."""

    def handed(of: int) -> list[int]:
        numbers = []
        for place in range(of):
            sockets = Port(spec.folder, spec.folder, place, of).ask()
            assert {each.getsockname()[1] for each in sockets} == {kept}
            numbers.append(len(sockets))
            for each in sockets:
                each.close()
        return numbers

    assert handed(1) == [1]
    assert handed(3) == [1, 1, 1]
    assert handed(2) == [2, 1]
    assert handed(1) == [3]


def test_a_port_that_is_taken_is_an_error_that_says_so(spec: ServerSpec, kept: int, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(ServerDidNotStart, match=f"(?i)port {kept}"):
        keeping.ensure(ServerSpec("other", tmp_path / "other", port=kept), os.getuid())


def test_a_server_answers_on_a_kept_port_once_it_is_told_to(spec: ServerSpec, kept: int) -> None:
    place = Slots(spec.folder).prepare("blue", None)
    command = [sys.executable, "-P", "-m", "mlplatform.serving.main", "--folder", str(place)]
    with subprocess.Popen([*command, "--keeper", str(spec.folder)], stdout=subprocess.DEVNULL) as server:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", kept, timeout=20)
            connection.request("GET", "/ping")  # waits in the queue until somebody takes it
            assert not list((place / "workers").glob("*.joined"))
            (place / "open").touch()
            assert connection.getresponse().status == 200
            connection.close()
        finally:
            server.terminate()


# --- a server that others run ---------------------------------------------------------------------------------------


def test_an_external_server_is_found_and_never_stopped(spec: ServerSpec) -> None:
    state = LocalTarget().apply(spec)
    try:
        target = ExternalTarget(state.url, start_seconds=5)
        assert target.apply(spec).url == state.url
        with pytest.raises(UsageError, match="run by something else"):
            target.stop(spec.folder)
        assert LocalTarget().status(spec.folder).running
    finally:
        LocalTarget().stop(spec.folder)
    target.stop(spec.folder)
    assert not target.status(spec.folder).running


def test_an_external_server_that_is_not_there_is_told(spec: ServerSpec) -> None:
    with pytest.raises(ServerDidNotStart, match="start it where it is run"):
        ExternalTarget("http://127.0.0.1:9", start_seconds=0).apply(spec)
    (spec.folder / "server.json").write_text(json.dumps([]))
    assert not ExternalTarget("http://127.0.0.1:9").status(spec.folder).running
    with pytest.raises(ValueError, match="write for example"):
        ExternalTarget("server:8080")


# --- the health check -----------------------------------------------------------------------------------------------


def test_the_health_check_tells_who_answers_from_who_does_not(spec: ServerSpec) -> None:
    state = LocalTarget().apply(spec)
    try:
        assert alive.main(state.port) == 0
    finally:
        LocalTarget().stop(spec.folder)
    assert alive.main(state.port) == 1


def test_the_health_check_speaks_tls(spec: ServerSpec, tmp_path: Path) -> None:
    tls = TlsFiles(*Authority().sign().write(tmp_path))
    state = LocalTarget().apply(replace(spec, tls=tls))
    try:
        assert alive.main(state.port) == 0
    finally:
        LocalTarget().stop(spec.folder)
