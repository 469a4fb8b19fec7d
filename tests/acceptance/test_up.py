"""`mlplatform up`: MLflow's UI, the model servers and the job runner come together, live together, end together."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from urllib.request import urlopen

import pytest

from mlplatform.domain.ledger import Kind
from mlplatform.domain.rollout import Phase
from mlplatform.ports.state import Firing, Schedule
from tests.small_project import MODEL, Place, SmallProject, answering

SECONDS = 90.0
ROOT = Path(__file__).parent.parent.parent
T = TypeVar("T")


@dataclass
class Command:
    """A command that stays, and what it has printed."""

    process: subprocess.Popen[bytes]
    log: Path

    def said(self, pattern: str) -> str:
        """The first group of the first match, as soon as there is one."""
        return until(lambda: self._match(pattern)).group(1)

    def _match(self, pattern: str) -> re.Match[str] | None:
        assert self.process.poll() is None, self.log.read_text()
        return re.search(pattern, self.log.read_text())


@pytest.fixture(scope="module")
def place(small_sqlite: SmallProject) -> Iterator[Place]:
    with small_sqlite.copied() as made:
        yield made


@pytest.fixture(scope="module")
def running(place: Place) -> Iterator[Command]:
    with staying(place, "up") as command:
        command.said("(Ctrl-C stops everything)")
        yield command


def test_the_addresses_that_are_printed_answer(running: Command) -> None:
    with urlopen(
        f"{running.said(r'MLflow.s UI is at (http://127.0.0.1:[0-9]+)')}/health", timeout=20
    ) as answer:
        assert answer.status == 200
    assert answering(running.said("serves churn@2 at (http://127.0.0.1:[0-9]+)/invocations")) == f"{MODEL}@2"


def test_a_second_one_says_that_the_first_runs_and_where(running: Command, place: Place) -> None:
    address = running.said("MLflow.s UI is at (http.*)")
    code, shown = place.run("up")
    assert code == 6
    assert shown.splitlines() == [
        f"`mlplatform up` is already running in this project (pid {running.process.pid}, MLflow at {address})",
        "Use the running one, or stop it with Ctrl-C in its terminal.",
    ]
    assert running.process.poll() is None


def test_a_killed_model_server_is_started_again_at_its_address(running: Command, place: Place) -> None:
    with place.opened() as platform:
        before = platform.endpoint(MODEL).server
        os.kill(before.pid, signal.SIGKILL)
        after = until(lambda: (s := platform.endpoint(MODEL).server).running and s.pid != before.pid and s)
    assert after.url == before.url
    assert running.said("died; started again at (http.*)") == after.url
    assert answering(after.url) == f"{MODEL}@2"


def test_a_server_that_was_stopped_on_purpose_stays_stopped(running: Command, place: Place) -> None:
    place.done("undeploy", MODEL)
    with place.opened() as platform:
        threading.Event().wait(2.5)  # longer than the watch's pause: nothing must happen
        assert not platform.endpoint(MODEL).server.running
    place.done("deploy", MODEL)


def test_a_due_job_runs_once_beside_a_second_runner(running: Command, place: Place) -> None:
    with staying(place, "schedule", "run") as second, place.opened() as platform:
        second.said("(Ctrl-C stops)")
        now = platform.world.clock.now()
        due = now + timedelta(seconds=7)
        cron = f"{due.second} {due.minute} {due.hour} * * *"
        platform.schedules.save(Schedule("watch-it", "monitor", MODEL, cron, "UTC", now))

        def finished() -> list[Firing] | None:
            found = platform.schedules.firings("watch-it")
            return found if found and all(f.outcome for f in found) else None

        [firing] = until(finished)
        assert not firing.outcome.startswith("failed"), firing
        until(lambda: "watch-it (due" in running.log.read_text() + second.log.read_text())
        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(SECONDS) == 0
        told = [command.log.read_text().count("watch-it (due") for command in (running, second)]
        assert sorted(told) == [0, 1]
        assert len(platform.schedules.firings("watch-it")) == 1


def test_a_version_whose_workers_die_on_probation_is_taken_back_without_a_monitor(
    running: Command, place: Place
) -> None:
    with place.opened() as platform:
        server = platform.endpoint(MODEL).server
        [before] = platform.world.deployments.active(MODEL)
        assert before.phase is Phase.PROBATION
        killed = set[int]()
        while not platform.world.ledger.entries(MODEL, kinds=(Kind.ROLLED_BACK,)):
            workers = {w.pid for w in platform.world.documents.workers(MODEL)} - killed
            for pid in workers:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            killed |= workers
            assert len(killed) < 20
            threading.Event().wait(0.1)
    assert "requests failed" in running.said(f"{MODEL}@{before.version} to production: (.*)")
    assert until(lambda: answering(server.url) == f"{MODEL}@{before.previous}")
    assert place.told("show", f"{MODEL}@{before.previous}")["place"] == "production"


def test_sigterm_ends_all_of_it_and_frees_the_ports(running: Command, place: Place) -> None:
    with place.opened() as platform:
        server = platform.endpoint(MODEL).server
        workers = {worker.pid for worker in platform.world.documents.workers(MODEL)}
    mlflow_port = int(running.said("MLflow.s UI is at http://127.0.0.1:([0-9]+)"))
    # The model server need not be its child: another command may have started it.
    family = {*descendants(running.process.pid), *workers, server.pid}
    assert workers and len(family) > len(workers) + 1
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(SECONDS) == 0
    until(lambda: not any(map(alive, family)), seconds=5)
    for port in (mlflow_port, server.port):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    assert "endpoint churn stopped" in running.log.read_text()
    assert not list(place.servers.rglob("server.json"))


# --- helpers --------------------------------------------------------------------------------------------------------


@contextmanager
def staying(place: Place, *words: str) -> Iterator[Command]:
    """A command that runs until it is told to stop, which happens at the end in any case."""
    log = place.folder / f"{words[0]}.log"
    environment = {**os.environ, **place.environment, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "mlplatform", *words]
        process = subprocess.Popen(command, cwd=place.folder, env=environment, stdout=output, stderr=output)
    try:
        yield Command(process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(SECONDS)


def until(condition: Callable[[], T | None], seconds: float = SECONDS) -> T:
    """Wait for a condition; what it answers."""
    give_up = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < give_up, "nothing happened"
        threading.Event().wait(0.1)
    return found


def descendants(pid: int) -> set[int]:
    """Every process below one, however deep."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended since
        parents[int(stat.parent.name)] = int(fields[1])
    found: set[int] = set()
    while more := {child for child, parent in parents.items() if parent in {pid, *found}} - found:
        found |= more
    return found


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent to notice does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
