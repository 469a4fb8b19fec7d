"""Real MLflow stores for contract tests: an embedded database, made once and copied, and a running server."""

from __future__ import annotations

import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from mlplatform.tracking.client import Mlflow
from mlplatform.tracking.runs import log_model


def fresh_store(template: Path, folder: Path) -> Mlflow:
    """An embedded store of its own: a copy of the migrated, empty database."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(template, folder / "mlflow.db")
    return Mlflow(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlartifacts", patience_s=5)


def make_template(folder: Path) -> Path:
    store = Mlflow(f"sqlite:///{folder / 'mlflow.db'}", folder / "mlartifacts")
    store.call("search_experiments")
    return folder / "mlflow.db"


@contextmanager
def running_server(folder: Path, template: Path) -> Iterator[Mlflow]:
    """`mlflow server` on a free port, without its job runners."""
    shutil.copyfile(template, folder / "server.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'server.db'}"]
    command += ["--artifacts-destination", str(folder / "files")]
    environment = {**_environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, cwd=folder, start_new_session=True
        )
    try:
        _wait_until_healthy(f"http://127.0.0.1:{port}", process, folder / "server.log")
        yield Mlflow(f"http://127.0.0.1:{port}", patience_s=10)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


def run_with_model(store: Mlflow, folder: Path, experiment: str = "contract") -> str:
    """A finished run that holds a model folder in MLflow's format."""
    from mlflow.models import Model

    number = store.experiment(experiment)
    run_id = str(store.call("create_run", number).info.run_id)
    model = folder / f"model-{run_id}"
    model.mkdir(parents=True)
    written = Model()
    written.add_flavor("mlplatform", runtime="onnx", path="model.bin")
    written.save(str(model / "MLmodel"))
    (model / "model.bin").write_bytes(b"weights")
    log_model(store, run_id, number, model)
    return run_id


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def _wait_until_healthy(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"mlflow server ended: {log.read_text()[-2000:]}")
        try:
            with urlopen(f"{url}/health", timeout=1):
                return
        except (URLError, OSError):
            pause(0.1)
    raise AssertionError(f"mlflow server did not answer: {log.read_text()[-2000:]}")


def pause(seconds: float) -> None:
    """Wait between two looks at a condition."""
    select.select([], [], [], seconds)
