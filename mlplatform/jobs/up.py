"""up: MLflow's UI, the model servers and the job runner, started together, watched, and stopped together."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.request import urlopen

from mlplatform.config.token_text import VARIABLE
from mlplatform.control import Platform
from mlplatform.domain.rollout import Phase
from mlplatform.errors import AlreadyRunning, LeaseHeld, MlplatformError, PortInUse, WorldError
from mlplatform.flows import deploy
from mlplatform.jobs.runner import Runner, stopping_on_signals
from mlplatform.ports.clock import Progress

START_SECONDS = 120.0
STOP_SECONDS = 10.0
WATCH_SECONDS, PAUSE_AFTER_FAILURE_SECONDS = 1.0, 30.0
ROLLOUT_SECONDS = 10.0
"""How often rollouts are looked at; judges read what was captured since."""
HOST = "127.0.0.1"


def up(platform: Platform, mlflow_port: int, tell: Progress) -> None:
    """Run everything until SIGTERM or Ctrl-C; raises AlreadyRunning for a second one in the same folder, PortInUse."""
    home = platform.settings.home
    platform.settings.make_home()
    with (
        _only_one(home / "up.lock"),
        stopping_on_signals() as stop,
        _mlflow(platform, mlflow_port, stop, tell),
        _stopped_at_the_end(platform, tell),
    ):
        for model in platform.policies:
            if not stop.is_set():
                _serve(platform, model, tell)
        tell("scheduled jobs run here; Ctrl-C stops everything")
        world = platform.world
        runner = Runner(platform, platform.schedules, world.leases, world.clock, platform.owner, tell)
        with _watched(platform, stop, tell):
            runner.run(stop)


@contextmanager
def _stopped_at_the_end(platform: Platform, tell: Progress) -> Iterator[None]:
    """Whatever happens inside, no model server is left running."""
    try:
        yield
    finally:
        for state in platform.endpoints():
            if state.server.running:
                try:
                    platform.undeploy(state.model, state.stage)
                    tell(f"endpoint {state.name} stopped")
                except MlplatformError as error:
                    tell(f"endpoint {state.name} did not stop: {error}")


@contextmanager
def _watched(platform: Platform, stop: threading.Event, tell: Progress) -> Iterator[None]:
    """A server that was killed is started again, also while a job runs: the watch is a thread of its own."""
    watch = threading.Thread(target=_watch, args=(Platform(platform.settings), stop, tell), name="watch")
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()


def _watch(platform: Platform, stop: threading.Event, tell: Progress) -> None:
    pause, looked_at = WATCH_SECONDS, time.monotonic()
    while not stop.wait(pause):
        pause = WATCH_SECONDS
        try:
            for policy in platform.policies.values():
                for stage in policy.ladder.stages:
                    endpoint = policy.stage(stage).endpoint
                    if endpoint and deploy.has_died(platform.world, endpoint) and not stop.is_set():
                        state = deploy.start_server(platform.world, policy, stage)
                        tell(f"the server of endpoint {endpoint.name} died; started again at {state.url}")
            if time.monotonic() >= looked_at + ROLLOUT_SECONDS and not stop.is_set():
                looked_at = time.monotonic()
                _roll_out(platform, tell)
        except MlplatformError as error:
            pause = PAUSE_AFTER_FAILURE_SECONDS
            tell(f"{error}; looking again in {pause:.0f} s")


def _roll_out(platform: Platform, tell: Progress) -> None:
    """Take the steps of rollouts that are due, and take back who fails on probation; what a command has in hand waits
    until the next look."""
    for rollout in platform.world.deployments.active():
        if rollout.model in platform.policies and (
            rollout.phase is Phase.SHIFTED or platform.fails_on_probation(rollout)
        ):
            with suppress(LeaseHeld):
                taken_back = platform.roll_out(rollout.model)
                [now] = [r for r in platform.world.deployments.history(rollout.model) if r.id == rollout.id]
                if taken_back or now.because != rollout.because:
                    tell(f"{rollout.model}@{rollout.version} to {rollout.stage}: {now.because}")


def _serve(platform: Platform, model: str, tell: Progress) -> None:
    """Servers for every endpoint whose stage is held; one that fails does not keep the others from starting."""
    policy = platform.policy(model)
    standings = platform.world.ledger.standings(model)
    for stage in policy.ladder.stages:
        if policy.stage(stage).endpoint is None or standings.holder(stage) is None:
            continue
        try:
            state = platform.deploy(model, stage)
            tell(f"endpoint {state.name} serves {' '.join(state.serving)} at {state.server.url}{state.path}")
        except MlplatformError as error:
            tell(f"endpoint of {model} {stage} did not start: {error}")


@contextmanager
def _only_one(lock: Path) -> Iterator[None]:
    with lock.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            known = json.loads(file.read() or "{}")
            address = f", MLflow at {known['mlflow']}" if known.get("mlflow") else ""
            raise AlreadyRunning(what="`mlplatform up`", pid=known.get("pid", "?"), address=address) from None
        _announce(lock)
        yield


def _announce(lock: Path, address: str = "") -> None:
    lock.write_text(json.dumps({"pid": os.getpid(), "mlflow": address}))


@contextmanager
def _mlflow(platform: Platform, port: int, stop: threading.Event, tell: Progress) -> Iterator[None]:
    """MLflow's UI on the embedded store; with a tracking server of its own there is nothing to start."""
    settings = platform.settings
    lock = settings.home / "up.lock"
    if settings.tracking_uri.startswith("http"):
        _announce(lock, settings.tracking_uri)
        tell(f"MLflow is {settings.tracking_uri}")
        yield
        return
    port = port or _free_port()
    _demand_free(port)
    address = f"http://{HOST}:{port}"
    platform.world.registry.outside("none")  # the embedded store is made before its server starts
    with (settings.home / "mlflow.log").open("ab") as log:
        process = _start_mlflow(platform, port, log)
        try:
            _wait(process, address, stop, settings.home / "mlflow.log")
            _announce(lock, address)
            tell(f"MLflow's UI is at {address}")
            yield
        finally:
            _end(process)


def _start_mlflow(platform: Platform, port: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    settings = platform.settings
    environment = {
        **{k: v for k, v in os.environ.items() if k != VARIABLE},  # the UI acts under nobody's name
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--host",
        HOST,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    command += ["--backend-store-uri", settings.tracking_uri]
    if settings.artifact_root:
        command += ["--default-artifact-root", str(settings.artifact_root)]
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def _wait(process: subprocess.Popen[bytes], address: str, stop: threading.Event, log: Path) -> None:
    waited = 0.0
    while waited < START_SECONDS and not stop.is_set():
        if process.poll() is not None:
            raise WorldError(what=f"MLflow's server ended with {process.returncode}", hint=f"Look at {log}.")
        try:
            with urlopen(f"{address}/health", timeout=1):
                return
        except OSError:
            stop.wait(0.2)
            waited += 0.2
    if not stop.is_set():
        raise WorldError(
            what=f"MLflow's server did not answer within {START_SECONDS:.0f} s", hint=f"Look at {log}."
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """By its process group: MLflow's server has workers of its own."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # workers that outlived it would keep the port
    process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _demand_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            raise PortInUse(
                "Choose another with --mlflow-port, or 0 for any free one.", port=port, host=HOST
            ) from None
