"""Other settings of a running server, by real processes and under steady requests: they come into effect, no request
fails, and what cannot be leaves the server as it was.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from mlplatform.domain.limits import RequestLimits
from mlplatform.errors import SettingsRefused, UsageError
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec, TlsFiles
from tests.acceptance.test_server_access import go_live, say
from tests.bare_project import MODEL, bare_project
from tests.forking import Forker
from tests.loading import exchange, request
from tests.server_place import FAST, Clients, Place, until


@pytest.fixture
def place(server_place: Place) -> Place:
    return server_place


def announced(place: Place) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.folder / "server.json").read_bytes())
    return found


def test_workers_and_limits_change_under_load_without_a_failed_request(place: Place) -> None:
    before = place.start(workers=1)
    clients = Clients(place, 6)
    clients.wait_for_more()
    for workers, limit in ((3, 16_000_000), (2, 16_000_000), (2, 1000), (1, 1000)):
        state = place.start(workers, max_body_bytes=limit)
        assert (state.pid, state.port) == (before.pid, before.port)
        clients.wait_for_more(500)
    large = request("/models/fast/invocations", b'{"inputs": [[0.1, 0.2, 0.3]]}' + b" " * 2000)
    for _ in range(10):
        with place.connect() as raw:
            assert exchange(raw, large)[0] == 413
    clients.stop()
    print(f"{clients.answers.total()} answers, the slowest in {clients.slowest_s * 1000:.0f} ms")
    assert clients.failures + clients.lost == []
    metrics = place.metrics()
    assert metrics["mlplatform_workers"] == metrics["mlplatform_workers_running"] == 1
    assert metrics["mlplatform_worker_restarts_total"] == 0, "a worker that was replaced has not died"
    assert not (place.folder / "settings.json").exists()


def test_new_connections_are_spread_over_the_workers_after_each_change(place: Place) -> None:
    place.start(workers=3)
    place.start(workers=2)
    place.start(workers=4)
    pids = place.workers()
    held = [place.connect() for _ in range(200)]
    assert all(exchange(raw, FAST)[0] == 200 for raw in held)
    counts = [_sockets(pid) for pid in pids]
    print(f"sockets of the workers: {counts}")
    assert min(counts) > 25
    for raw in held:
        raw.close()


def _sockets(pid: int) -> int:
    return sum(os.readlink(entry).startswith("socket:") for entry in Path(f"/proc/{pid}/fd").iterdir())


def test_another_port_is_answered_before_the_one_before_is_left(place: Place) -> None:
    before = place.start(workers=2)
    clients = Clients(place, 4)
    clients.wait_for_more()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    moved = place.target.apply(ServerSpec("e", place.folder, port=port, workers=2))
    assert (moved.pid, moved.port) == (before.pid, port)
    clients.wait_for_more(10**9)  # until nobody listens there any more
    clients.stop()
    assert clients.failures + clients.lost == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((before.host, before.port), timeout=5)
    place.state = moved
    with place.connect() as raw:
        assert exchange(raw, FAST)[0] == 200


def test_what_cannot_be_leaves_the_server_as_it_was_and_says_why(place: Place, tmp_path: Path) -> None:
    state = place.start(workers=2, deadline_ms=5000)
    workers, settings = place.workers(), announced(place)["settings"]
    clients = Clients(place, 2)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = ServerSpec("e", place.folder, port=taken.getsockname()[1], workers=2)
        with pytest.raises(SettingsRefused, match="is in use by another program"):
            place.target.apply(wanted)
    absent = TlsFiles(tmp_path / "cert.pem", tmp_path / "key.pem")
    with pytest.raises(UsageError):
        place.target.apply(ServerSpec("e", place.folder, workers=2, tls=absent))
    clients.wait_for_more()
    clients.stop()
    assert clients.failures + clients.lost == []
    assert (place.workers(), announced(place)["settings"]) == (workers, settings)
    assert place.target.status(place.folder).pid == state.pid


def test_a_new_worker_that_would_not_serve_what_is_served_changes_nothing(place: Place) -> None:
    """Its bytes were changed: the workers that run have it in memory, another one could not load it."""
    place.start(workers=2)
    workers, damaged = place.workers(), place.folder / "routes.json"
    whole = json.loads(damaged.read_bytes())
    whole["generation"] += 1
    whole["routes"][0]["digest"] = "0" * 64
    damaged.write_text(json.dumps(whole))
    clients = Clients(place, 4)
    with pytest.raises(SettingsRefused, match="would not serve what is served"):
        place.target.apply(ServerSpec("e", place.folder, workers=2, limits=RequestLimits(deadline_ms=1000)))
    until(lambda: place.workers() == workers)
    clients.stop()
    assert clients.failures + clients.lost == []
    with place.connect() as raw:
        assert exchange(raw, FAST)[0] == 200


def test_where_traces_go_changes_only_where_something_is_said_of_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    place.start()
    spec = ServerSpec("e", place.folder)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "key=secret")
    told = ["OTEL_EXPORTER_OTLP_ENDPOINT added", "OTEL_EXPORTER_OTLP_HEADERS added"]
    assert list(map(str, place.target.changes(spec))) == told
    place.target.apply(spec)
    (pid,) = place.workers()
    assert b"OTEL_EXPORTER_OTLP_ENDPOINT=http://127.0.0.1:9" in Path(f"/proc/{pid}/environ").read_bytes()
    assert "secret" not in (place.folder / "server.json").read_text()
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT")
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_HEADERS")
    assert place.target.changes(spec) == ()


def test_a_worker_that_is_killed_during_a_change_comes_back_with_the_new_settings(place: Place) -> None:
    place.start(workers=2)
    for pid in place.workers():
        os.kill(pid, signal.SIGKILL)
    place.start(workers=3, deadline_ms=4000)
    status = place.target.status(place.folder)
    assert status.settings
    assert (status.settings.workers, status.settings.limits) == (3, RequestLimits(deadline_ms=4000))
    for pid in place.workers():
        assert b"4000" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_deploy_tells_what_differs_and_a_dry_run_changes_nothing(
    tmp_path: Path, empty_mlflow: Path, sqlite_template: Path, forking: Forker
) -> None:
    folder, database = tmp_path / "churn", tmp_path / "platform.db"
    shutil.copyfile(sqlite_template, database)
    with bare_project(folder, empty_mlflow, f"sqlite:///{database}", forking, 0) as project:
        with project.opened() as platform:
            go_live(platform.world, project.fresh_run)
        project.done("reconcile")
        try:
            say(project, 'name = "churn"')
            project.done("deploy", MODEL)
            before = project.told("endpoints")[0]["server"]
            say(project, 'name = "churn", workers = 2, limits = { deadline_ms = 2000 }')
            dry = project.done("deploy", MODEL, "--dry-run")
            assert "its server runs on local\n  workers 1 -> 2\n  limits.deadline_ms 30000 -> 2000\n" in dry
            planned = project.told("deploy", MODEL, "--dry-run")
            assert planned["changes"][0] == {"name": "workers", "old": 1, "new": 2}
            assert "runs otherwise than its policy says: workers 1 -> 2" in project.done("doctor", code=3)
            assert project.told("endpoints")[0]["server"] == before
            said = project.done("deploy", MODEL)
            assert "is told other settings: workers 1 -> 2, limits.deadline_ms 30000 -> 2000" in said
            after = project.told("endpoints")[0]["server"]
            assert (after["pid"], after["settings"]["workers"]) == (before["pid"], 2)
            assert "told other settings" not in project.done("deploy", MODEL)
            say(project, 'name = "churn"')
            assert "runs otherwise" in project.done("reconcile")
            project.done("doctor")
        finally:
            LocalTarget().stop(project.servers / MODEL)
