"""A runner as a process of its own. Its jobs leave a mark, and `monitor` and `retrain` wait for the file `go`."""

from __future__ import annotations

import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from mlplatform.flows.lease import owner_name
from mlplatform.jobs.runner import Runner, stopping_on_signals
from mlplatform.ports.state import Schedule
from mlplatform.state.leases import SqlLeases
from mlplatform.state.schedules import SqlSchedules
from mlplatform.state.schema import open_database


class Clock:
    def now(self) -> datetime:
        return datetime.now(UTC)


class Jobs:
    def __init__(self, folder: Path, name: str, schedules: SqlSchedules, owner: str) -> None:
        self.folder, self.name, self.schedules, self.owner = folder, name, schedules, owner

    def run_job(self, schedule: Schedule) -> str:
        [firing] = self.schedules.firings(schedule.name, unfinished=True)
        (self.folder / f"started.{firing.due_at:%Y%m%dT%H%M%S}.{uuid4().hex}").touch()
        deadline, pause = time.monotonic() + 60, threading.Event()
        while (
            schedule.verb != "reconcile" and not (self.folder / "go").exists() and time.monotonic() < deadline
        ):
            pause.wait(0.02)
        return f"done by {self.name}"


def main(url: str, folder: str, name: str) -> None:
    database, clock, owner = open_database(url), Clock(), owner_name(name)
    schedules = SqlSchedules(database, clock)
    jobs = Jobs(Path(folder), name, schedules, owner)
    with stopping_on_signals() as stop:
        leases = SqlLeases(database, clock)
        Runner(jobs, schedules, leases, clock, owner, print, lease_seconds=3.0, poll_seconds=0.2).run(stop)
    database.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
