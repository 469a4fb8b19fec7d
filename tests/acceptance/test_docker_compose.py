"""The control plane's image, and `docker/compose.yml` with all its services, on a real engine. `make test-docker`.

PostgreSQL and Prometheus are Debian's, in images of the names that the file asks for; nothing else differs but ports.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
import yaml

import mlplatform
from mlplatform.errors import WorldError
from mlplatform.plugins.targets import engine
from mlplatform.plugins.targets.image import ServerImage
from tests import stand_ins

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
TAG = "of-a-test"
CONTROL, SERVER = f"mlplatform-control:{TAG}", f"mlplatform-server:{TAG}"
SIZE_MB = 1100
SECONDS = 180.0
HARDENED = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL", "--network", "none")
OURS = ("mlflow", "control", "server")
POLICY = """
model  = "churn"
ladder = ["production"]

[data]
target = "y"

[stages.production]
approvals = { count = 0, unverified = true, author_may_approve = true }
endpoint  = { name = "churn", target = "external", options = { url = "http://server:8080" } }
"""
TRAIN = """
import numpy as np
from sklearn.linear_model import LogisticRegression
import mlplatform

rng = np.random.default_rng(1)
X = rng.normal(size=(200, 3))
y = (X[:, 0] + X[:, 1] / 2 > 0).astype(int)
model = LogisticRegression().fit(X[:120], y[:120])
print(mlplatform.log_candidate(model, holdout=(X[120:], y[120:]), reference=(X[:120], y[:120]), target="y"))
"""


def until(condition: Callable[[], Any]) -> Any:
    """What it was, once it is something; who does not answer yet is nothing."""
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while True:
        try:
            if found := condition():
                return found
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.2)


@pytest.fixture(scope="module")
def control() -> str:
    """The image, built as its recipe says."""
    names = ["pyproject.toml", "README.md", "LICENSE"]
    for folder in ("migrations", "docker", "mlplatform"):
        names += [str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob("*") if path.is_file()]
    files = {name: (ROOT / name).read_bytes() for name in names if "__pycache__" not in name}
    arguments = {"VERSION": mlplatform.__version__, "PIP_INDEX_URL": os.environ.get("PIP_INDEX_URL", "")}
    authority = os.environ.get("PIP_CERT")
    secrets = {"ca": Path(authority)} if authority else {}
    engine.build(CONTROL, stand_ins.packed(files), "docker/control.Dockerfile", arguments, secrets)
    return CONTROL


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that the image's user may read."""
    folder = tmp_path / "churn"
    folder.mkdir()
    (folder / "mlplatform.toml").write_text("")
    (folder / "policy.toml").write_text(POLICY)
    folder.chmod(0o755)
    return folder


def ran(image: str, *words: str, entrypoint: str = "mlplatform", project: Path | None = None) -> str:
    """What a command prints in a container that may do nothing."""
    mounts = ["--mount", f"type=bind,src={project},dst=/project,readonly"] if project else []
    return engine.docker("run", "--rm", *HARDENED, *mounts, "--entrypoint", entrypoint, image, *words)


# --- the image ------------------------------------------------------------------------------------------------------


def test_the_control_image_is_the_version_it_says_and_is_not_root(control: str) -> None:
    assert mlplatform.__version__ in ran(control, "--version")
    seen = "import os; from importlib.util import find_spec as f; print(os.getuid(), f('torch'), f('pip'))"
    assert ran(control, "-c", seen, entrypoint="python") == "10001 None None"
    image = engine.inspect("image", control)
    assert image is not None
    print(f"{image['Size'] / 1e6:.0f} MB")
    assert image["Size"] / 1e6 < SIZE_MB
    assert image["Config"]["Labels"]["org.opencontainers.image.version"] == mlplatform.__version__
    layers = engine.docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", control)
    assert "PIP_INDEX_URL" not in layers


def test_the_control_image_checks_a_policy(control: str, project: Path) -> None:
    assert "churn" in ran(control, "policy", "check", project=project)
    (project / "policy.toml").write_text(POLICY.replace("count = 0", "count = -1"))
    with pytest.raises(WorldError, match="Correct them and run `mlplatform policy check`"):
        ran(control, "policy", "check", project=project)


# --- all of it ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Installation:
    """What compose made of the file."""

    words: tuple[str, ...]
    environment: dict[str, str]

    def compose(self, *words: str, stdin: str = "") -> str:
        """What a command prints; fails with all that it said."""
        done = subprocess.run(
            [*self.words, *words], input=stdin, capture_output=True, text=True, env=self.environment
        )
        assert done.returncode == 0, f"{words} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def mlplatform(self, *words: str) -> str:
        return self.compose("exec", "-T", "control", "mlplatform", *words)

    def container(self, service: str) -> dict[str, Any]:
        [name] = self.compose("ps", "-q", service).split()
        found = engine.inspect("container", name)
        assert found is not None
        return found

    def url(self, service: str, port: int) -> str:
        return f"http://{self.compose('port', service, str(port)).strip()}"


def compose_words() -> tuple[str, ...]:
    """Version 2, or else Debian's version 1."""
    found = subprocess.run(["docker", "compose", "version"], capture_output=True)
    return ("docker", "compose") if found.returncode == 0 else ("docker-compose",)


@pytest.fixture
def installation(control: str, project: Path, tmp_path: Path) -> Iterator[Installation]:
    file = yaml.safe_load((ROOT / "docker" / "compose.yml").read_text())
    stand_ins.make(*(file["services"][name]["image"] for name in ("postgres", "prometheus")))
    engine.docker("tag", ServerImage(stand_ins.BASE).ensure(), SERVER)
    for service in file["services"].values():  # of this machine's, which may be taken
        service["ports"] = [f"127.0.0.1::{port.rpartition(':')[2]}" for port in service.get("ports", ())]
    (tmp_path / "compose.yml").write_text(yaml.safe_dump(file))
    words = (*compose_words(), "--file", str(tmp_path / "compose.yml"))
    words += ("--project-directory", str(ROOT / "docker"), "--project-name", f"test{uuid4().hex[:8]}")
    given = {"MLPLATFORM_VERSION": TAG, "POSTGRES_PASSWORD": uuid4().hex, "PROJECT": str(project)}
    made = Installation(words, {**os.environ, **given})
    try:
        yield made
    finally:
        print(made.compose("logs", "--no-color", "--tail", "20"))
        made.compose("down", "--volumes", "--timeout", "20")


def test_compose_brings_up_an_installation_that_takes_a_model_from_training_to_answers(
    installation: Installation,
) -> None:
    installation.compose("up", "--detach")
    server = installation.url("server", 8080)
    for service in ("postgres", *OURS[:1], "server", "prometheus"):
        until(
            lambda service=service: installation.container(service)["State"]["Health"]["Status"] == "healthy"
        )
    assert installation.container("upgrade")["State"]["ExitCode"] == 0
    for service in OURS:
        container = installation.container(service)
        assert container["State"]["Running"] and container["RestartCount"] == 0, service
        assert container["Config"]["User"] == "10001:10001"
        assert container["HostConfig"]["ReadonlyRootfs"]

    run = installation.compose("exec", "-T", "control", "python", "-", stdin=TRAIN).split()[-1]
    installation.mlplatform("register", "churn", "--run", run)
    assert "done" in installation.mlplatform("promote", "churn@1", "production", "--reason", "first")
    answer = httpx.post(f"{server}/invocations", json={"inputs": [[3.0, 3.0, 0.0]]})
    assert (answer.status_code, answer.json()) == (200, {"predictions": [1]})
    until(lambda: "ingested 1 rows" in installation.mlplatform("monitor", "churn"))
    assert "agree" in installation.mlplatform("reconcile", "churn")

    prometheus = installation.url("prometheus", 9090)
    query = {"query": 'sum(mlplatform_requests_total{status="200"})'}

    def counted() -> list[Any]:
        found: list[Any] = httpx.get(f"{prometheus}/api/v1/query", params=query).json()["data"]["result"]
        return found

    assert until(counted)[0]["value"][1] == "1"
    assert httpx.get(f"{installation.url('mlflow', 5000)}/health").status_code == 200


def test_compose_asks_for_a_password_and_a_project(tmp_path: Path) -> None:
    words = [*compose_words(), "--file", str(ROOT / "docker" / "compose.yml"), "config"]
    given = {k: v for k, v in os.environ.items() if k not in ("POSTGRES_PASSWORD", "PROJECT")}
    for missing, known in (
        ("choose one", {"PROJECT": str(tmp_path)}),
        ("the folder with mlplatform.toml", {"POSTGRES_PASSWORD": "x"}),
    ):
        done = subprocess.run(words, capture_output=True, text=True, env={**given, **known})
        assert done.returncode and missing in done.stderr
    whole = {**given, "PROJECT": str(tmp_path), "POSTGRES_PASSWORD": "x"}
    done = subprocess.run(words, capture_output=True, text=True, env=whole)
    assert done.returncode == 0, done.stderr
    assert json.dumps(str(tmp_path))[1:-1] in done.stdout
