from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from mlplatform.errors import DatabaseUnreachable, MlflowUnreachable
from mlplatform.jobs.runner import Runner, stopping_on_signals
from mlplatform.ports.state import Schedule
from mlplatform.testing.clock import FixedClock
from mlplatform.testing.fakes.state import FakeLeases, FakeSchedules

NOON = datetime(2026, 1, 5, 12, 0, tzinfo=UTC)
LEASE_SECONDS = 60.0


class Jobs:
    """Remembers what it was asked for; `do` is what a job does."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.do: Callable[[], str] = lambda: "done"

    def run_job(self, schedule: Schedule) -> str:
        self.ran.append(schedule.name)
        return self.do()


class House:
    """Shared state, and as many runners on it as a test wants."""

    def __init__(self) -> None:
        self.clock = FixedClock(NOON)
        self.schedules = FakeSchedules(self.clock)
        self.leases = FakeLeases(self.clock)
        self.jobs = Jobs()
        self.told: list[str] = []

    def runner(self, owner: str = "one") -> Runner:
        return Runner(
            self.jobs,
            self.schedules,
            self.leases,
            self.clock,
            owner,
            self.told.append,
            LEASE_SECONDS,
            poll_seconds=0.01,
        )

    def add(self, name: str = "hourly", verb: str = "monitor", cron: str = "0 * * * *") -> None:
        self.schedules.save(Schedule(name, verb, "churn", cron, "UTC", self.clock.now()))

    def leave_a_dead_firing(self, name: str = "hourly") -> None:
        """As a runner leaves it that was killed in the middle of a job: claimed, leased, unfinished."""
        due = NOON.replace(hour=13)
        self.clock.advance(3600)
        self.leases.acquire(f"schedule:{name}", "dead", LEASE_SECONDS)
        assert self.schedules.claim(name, due, "dead")

    @property
    def outcomes(self) -> list[str]:
        return [firing.outcome for firing in self.schedules.firings()]


@pytest.fixture
def house() -> House:
    return House()


def test_nothing_fires_before_its_time(house: House) -> None:
    house.add()
    house.clock.advance(3599)
    house.runner().tick()
    assert house.jobs.ran == []


def test_a_due_time_fires_once_over_two_runners(house: House) -> None:
    house.add()
    one, two = house.runner("one"), house.runner("two")
    one.tick()
    two.tick()
    house.clock.advance(3600)
    for runner in (one, two, one):
        runner.tick()
    assert house.jobs.ran == ["hourly"]
    assert house.outcomes == ["done"]


def test_after_a_long_pause_only_the_newest_firing_runs(house: House) -> None:
    house.add()
    house.clock.advance(10 * 3600 + 60)
    house.runner().tick()
    assert [firing.due_at.hour for firing in house.schedules.firings()] == [22]


def test_a_new_runner_does_not_repeat_what_an_earlier_one_fired(house: House) -> None:
    house.add()
    house.clock.advance(3600)
    house.runner("one").tick()
    house.runner("two").tick()
    assert house.jobs.ran == ["hourly"]


def test_a_job_that_fails_is_told_and_does_not_stop_the_others(house: House) -> None:
    house.add("a")
    house.add("b")
    failures = iter([MlflowUnreachable(uri="http://x", cause="refused"), ZeroDivisionError("by zero")])

    def fail() -> str:
        raise next(failures)

    house.jobs.do = fail
    house.clock.advance(3600)
    house.runner().tick()
    assert house.outcomes == [
        "failed: MLflow at http://x does not answer: refused",
        "failed: ZeroDivisionError: by zero",
    ]


def test_while_its_runner_may_live_a_firing_is_left_alone(house: House) -> None:
    house.add()
    house.leave_a_dead_firing()
    house.clock.advance(LEASE_SECONDS - 1)
    house.runner("two").tick()
    assert house.jobs.ran == []


def test_a_dead_runners_firing_is_taken_over(house: House) -> None:
    house.add()
    house.leave_a_dead_firing()
    house.clock.advance(LEASE_SECONDS + 1)
    house.runner("two").tick()
    house.runner("three").tick()
    assert house.jobs.ran == ["hourly"]
    assert house.outcomes == ["taken over, its runner dead died: done"]


def test_a_training_whose_runner_died_has_failed(house: House) -> None:
    house.add(verb="retrain")
    house.leave_a_dead_firing()
    house.clock.advance(LEASE_SECONDS + 1)
    house.runner("two").tick()
    assert house.jobs.ran == []
    assert house.outcomes == ["failed: its runner dead died; `retrain` is not repeated"]


def test_a_job_that_kills_its_runners_is_taken_over_only_once(house: House) -> None:
    house.add()
    house.leave_a_dead_firing()
    house.clock.advance(LEASE_SECONDS + 1)
    house.leases.acquire(f"taken-over:hourly:{NOON.replace(hour=13).isoformat()}", "dead too", 1e9)
    house.runner("three").tick()
    assert house.jobs.ran == []
    assert house.outcomes == ["failed: its runner dead died, and so did the one after it"]


def test_what_is_left_of_a_removed_schedule_is_closed(house: House) -> None:
    house.add()
    house.leave_a_dead_firing()
    house.schedules.remove("hourly")
    house.clock.advance(LEASE_SECONDS + 1)
    house.runner("two").tick()
    assert house.outcomes == ["failed: its runner dead died and the schedule was removed"]


def test_a_runner_that_lost_its_lease_records_nothing(house: House) -> None:
    house.add()
    house.clock.advance(3600)

    def sleep_through_the_lease() -> str:
        house.clock.advance(LEASE_SECONDS + 1)
        house.leases.acquire("schedule:hourly", "two", LEASE_SECONDS)
        return "done"

    house.jobs.do = sleep_through_the_lease
    house.runner("one").tick()
    assert house.outcomes == [""]
    assert house.told == ["hourly: another runner took over; not recorded here: done"]


def test_the_runner_waits_stops_when_told_and_finishes_its_job(house: House) -> None:
    house.add()
    stop = threading.Event()

    def stop_meanwhile() -> str:
        stop.set()
        return "done"

    house.jobs.do = stop_meanwhile
    house.clock.advance(3600)
    house.runner().run(stop)
    assert house.outcomes == ["done"]


def test_a_database_that_does_not_answer_is_waited_for(house: House) -> None:
    stop = threading.Event()

    class Flaky(FakeSchedules):
        answers = iter([DatabaseUnreachable(url="postgresql://db", cause="refused")])

        def all(self) -> list[Schedule]:
            for error in self.answers:
                raise error
            stop.set()
            return super().all()

    house.schedules = Flaky(house.clock)
    house.runner().run(stop)
    assert "trying again" in house.told[0]


def test_sigterm_asks_to_stop_and_a_second_one_interrupts() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping_on_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            threading.Event().wait(5)
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_interrupted_job_is_not_left_open(house: House) -> None:
    house.add()
    house.clock.advance(3600)

    def interrupt() -> str:
        raise KeyboardInterrupt

    house.jobs.do = interrupt
    with pytest.raises(KeyboardInterrupt):
        house.runner().tick()
    assert house.outcomes == ["failed: interrupted"]
    house.leases.acquire("schedule:hourly", "two", LEASE_SECONDS)
