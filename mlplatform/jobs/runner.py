"""Fires schedules: each due time once, over any number of runners, and what a dead runner left is settled.

Three things of our own state carry this, and nothing else: a firing is a row that only one runner can claim; a
runner holds a lease while it works on a schedule; a firing that is unfinished while its lease is free has lost
its runner. DBOS, the library that was considered, resumes the work of a process that comes back under its old name,
but live peers do not take over from a dead one: that needs a reaper with a lease around it, which is all there is to
this file, and it would bring a second store to back up and to keep in step with ours.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from types import FrameType
from typing import Protocol

from mlplatform.calendar import newest_due, next_due
from mlplatform.errors import LeaseHeld, LeaseLost, MlplatformError, WorldError
from mlplatform.flows.lease import holding
from mlplatform.ports.clock import Clock, Progress
from mlplatform.ports.state import Firing, Lease, Leases, Schedule, Schedules

REPEATABLE = frozenset({"monitor", "reconcile"})
"""Verbs that may run again after a runner died in the middle. A training is not: the next due time brings another."""

_FOR_EVER = 10 * 365 * 86400.0

log = logging.getLogger(__name__)


class Jobs(Protocol):
    def run_job(self, schedule: Schedule) -> str:
        """Do what the schedule asks for; one line that says what came of it."""


class Runner:
    """One process's share in firing schedules. Jobs run one after the other; start a second runner for more."""

    def __init__(
        self,
        jobs: Jobs,
        schedules: Schedules,
        leases: Leases,
        clock: Clock,
        owner: str,
        tell: Progress = lambda line: None,
        lease_seconds: float = 60.0,
        poll_seconds: float = 5.0,
    ) -> None:
        self.jobs, self.schedules, self.leases, self.clock, self.owner = jobs, schedules, leases, clock, owner
        self.tell, self.lease_seconds, self.poll_seconds = tell, lease_seconds, poll_seconds
        self._newest: dict[str, datetime] = {}

    def run(self, stop: threading.Event) -> None:
        """Tick until told to stop; a job that is running then is finished first.

        Between ticks it waits for the next due time, and at most `poll_seconds`: so long a new schedule may be
        overlooked. When the database does not answer it says so and tries again.
        """
        while not stop.is_set():
            try:
                self.tick(stop)
                pause = self._pause()
            except WorldError as error:
                self.tell(f"{error}; trying again in {self.poll_seconds:g} s")
                pause = self.poll_seconds
            stop.wait(pause)

    def tick(self, stop: threading.Event | None = None) -> None:
        """Fire what is due now, and settle what dead runners left. Of several missed firings only the newest runs."""
        left = {firing.schedule for firing in self.schedules.firings(unfinished=True)}
        schedules = {schedule.name: schedule for schedule in self.schedules.all()}
        for name in sorted(left | schedules.keys()):
            if stop is not None and stop.is_set():
                return
            schedule = schedules.get(name)
            due = self._due(schedule) if schedule else None
            if name in left or due:
                self._attend(name, schedule, due)

    def _attend(self, name: str, schedule: Schedule | None, due: datetime | None) -> None:
        try:
            with holding(self.leases, f"schedule:{name}", self.owner, self.lease_seconds) as lease:
                # Whoever holds the lease knows that nobody works on what is unfinished.
                for firing in self.schedules.firings(name, unfinished=True):
                    self._take_over(schedule, firing, lease)
                if schedule and due and self.schedules.claim(name, due, self.owner):
                    self._fire(schedule, due, lease)
                if due:
                    self._newest[name] = due
        except LeaseHeld:
            return  # another runner is at it

    def _due(self, schedule: Schedule) -> datetime | None:
        if schedule.name not in self._newest:
            fired = [firing.due_at for firing in self.schedules.firings(schedule.name)]
            self._newest[schedule.name] = max(fired, default=schedule.created_at)
        after = max(self._newest[schedule.name], schedule.created_at)
        return newest_due(schedule, after, self.clock.now())

    def _take_over(self, schedule: Schedule | None, firing: Firing, lease: Lease) -> None:
        """Run a dead runner's firing again, once, if its verb allows; else it has failed."""
        died = f"its runner {firing.owner} died"
        if schedule is None:
            self._finish(
                firing.schedule, firing.due_at, f"failed: {died} and the schedule was removed", lease
            )
        elif schedule.verb not in REPEATABLE:
            self._finish(
                firing.schedule, firing.due_at, f"failed: {died}; `{schedule.verb}` is not repeated", lease
            )
        elif not self._first_to_take_over(firing):
            self._finish(
                firing.schedule, firing.due_at, f"failed: {died}, and so did the one after it", lease
            )
        else:
            self._fire(schedule, firing.due_at, lease, note=f"taken over, {died}: ")

    def _first_to_take_over(self, firing: Firing) -> bool:
        """Leave a mark that outlives this process: a job that kills its runners must not go round for ever."""
        try:
            mark = f"taken-over:{firing.schedule}:{firing.due_at.isoformat()}"
            self.leases.acquire(mark, self.owner, _FOR_EVER)
        except LeaseHeld:
            return False
        return True

    def _fire(self, schedule: Schedule, due: datetime, lease: Lease, note: str = "") -> None:
        try:
            outcome = self._outcome(schedule)
        except BaseException:
            self._finish(schedule.name, due, f"{note}failed: interrupted", lease)
            raise
        self._finish(schedule.name, due, note + outcome, lease)

    def _outcome(self, schedule: Schedule) -> str:
        try:
            return self.jobs.run_job(schedule)
        except MlplatformError as error:
            return f"failed: {error}"
        except Exception as error:
            log.exception("the job of schedule %s failed", schedule.name)
            return f"failed: {type(error).__name__}: {error}"

    def _finish(self, name: str, due: datetime, outcome: str, lease: Lease) -> None:
        try:
            self.leases.renew(lease, self.lease_seconds)
        except LeaseLost:
            self.tell(f"{name}: another runner took over; not recorded here: {outcome}")
            return
        self.schedules.finish(name, due, outcome)
        self.tell(f"{name} (due {due:%Y-%m-%d %H:%M:%S} UTC): {outcome}")

    def _pause(self) -> float:
        now = self.clock.now()
        waits = [(next_due(schedule, now) - now).total_seconds() for schedule in self.schedules.all()]
        return min([self.poll_seconds, *waits])


@contextmanager
def stopping_on_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM or Ctrl-C sets; a second one interrupts. Only in the main thread."""
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
