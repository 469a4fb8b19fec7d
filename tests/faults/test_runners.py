"""Two real runner processes on one real database, one of them killed in the middle of a job."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mlplatform.calendar import newest_due
from mlplatform.ports.state import Firing, Schedule
from mlplatform.state.schedules import SqlSchedules
from mlplatform.state.schema import open_database, upgrade

RUNNER = Path(__file__).with_name("runner_process.py")
PATIENCE_SECONDS = 60.0


class Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class House:
    """A database with schedules, a folder in which jobs leave marks, and the runners on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = f"sqlite:///{folder / 'platform.db'}"
        upgrade(self.url)
        self.database = open_database(self.url)
        self.schedules = SqlSchedules(self.database, Clock())
        self.runners: list[subprocess.Popen[bytes]] = []

    def start(self, name: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(RUNNER), self.url, str(self.folder), name]
        log = (self.folder / f"{name}.log").open("wb")
        with log:
            runner = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        self.runners.append(runner)
        return runner

    def add(self, verb: str, cron: str, hours_old: int = 0) -> Schedule:
        made = datetime.now(UTC) - timedelta(hours=hours_old)
        schedule = Schedule(f"{verb}-it", verb, "churn", cron, "UTC", made)
        self.schedules.save(schedule)
        return schedule

    def marks(self, what: str) -> list[str]:
        return sorted(path.name for path in self.folder.glob(f"{what}.*"))

    def wait(self, until: Callable[[], bool]) -> None:
        """Look again every 50 ms; what the runners said is part of a failure."""
        deadline, pause = time.monotonic() + PATIENCE_SECONDS, threading.Event()
        while not until():
            logs = "".join(path.read_text() for path in self.folder.glob("*.log"))
            assert time.monotonic() < deadline, f"waited in vain\n{self.schedules.firings()}\n{logs}"
            pause.wait(0.05)

    def close(self) -> None:
        for runner in self.runners:
            if runner.poll() is None:
                runner.kill()
            runner.wait()
        self.database.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def ended(house: House) -> list[Firing]:
    return [firing for firing in house.schedules.firings() if firing.finished_at]


def test_two_runners_fire_each_due_time_once(house: House) -> None:
    schedule = house.add("reconcile", "* * * * * *")
    house.start("one")
    house.start("two")
    house.wait(lambda: len(ended(house)) >= 6)
    fired = [firing.due_at for firing in ended(house)]
    assert len(set(fired)) == len(fired)
    runs = [mark.split(".")[1] for mark in house.marks("started")]
    assert len(set(runs)) == len(runs), "a due time ran twice"
    assert newest_due(schedule, fired[0], fired[-1]) == fired[-1]


def test_a_killed_runners_job_is_taken_over_once(house: House) -> None:
    house.add("monitor", "0 * * * *", hours_old=3)
    first = house.start("one")
    house.wait(lambda: bool(house.marks("started")))
    (house.folder / "go").touch()  # the next one to run the job need not wait
    first.send_signal(signal.SIGKILL)
    first.wait()
    house.start("two")
    house.wait(lambda: bool(ended(house)))
    [firing] = ended(house)
    assert firing.outcome.startswith("taken over, its runner")
    assert firing.outcome.endswith("done by two")
    assert len(house.marks("started")) == 2


def test_a_killed_training_fails_cleanly(house: House) -> None:
    house.add("retrain", "0 * * * *", hours_old=3)
    first = house.start("one")
    house.wait(lambda: bool(house.marks("started")))
    first.send_signal(signal.SIGKILL)
    first.wait()
    house.start("two")
    house.wait(lambda: bool(ended(house)))
    [firing] = ended(house)
    assert firing.outcome.startswith("failed: its runner")
    assert len(house.marks("started")) == 1


def test_sigterm_lets_the_job_finish_and_ends_with_zero(house: House) -> None:
    house.add("monitor", "0 * * * *", hours_old=3)
    runner = house.start("one")
    house.wait(lambda: bool(house.marks("started")))
    os.kill(runner.pid, signal.SIGTERM)
    (house.folder / "go").touch()
    assert runner.wait(PATIENCE_SECONDS) == 0
    assert [firing.outcome for firing in ended(house)] == ["done by one"]
