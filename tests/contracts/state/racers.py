"""Run as a program: many processes do the same thing to one database at the same moment, round after round.

`racers.py WHAT URL PROCESSES ROUNDS` prints, as JSON, a list of rounds, each with one answer per process.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import mlplatform
from mlplatform.domain.ladder import CANDIDATE, Change, Ladder
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.rollout import Phase, Rollout
from mlplatform.domain.version import Version
from mlplatform.errors import Conflict
from mlplatform.state.deployments import SqlDeployments
from mlplatform.state.engine import Database
from mlplatform.state.leases import SqlLeases
from mlplatform.state.ledger import SqlLedger
from mlplatform.state.schedules import SqlSchedules
from mlplatform.state.schema import current_revision, open_database, upgrade

PROCESSES, ROUNDS = 12, 2
Attempt = Callable[[], object]
START = datetime(2026, 1, 5, tzinfo=UTC)


class WallClock:
    def now(self) -> datetime:
        return datetime.now(UTC)


def promote(database: Database, me: int, number: int, processes: int) -> Attempt:
    """Everybody wants the own version in production and has seen the same incumbent."""
    ledger = SqlLedger(database, WallClock())
    first = number * processes + 1
    if me == 0:  # for all, who wait: registering is not what is raced for
        for version in range(first, first + processes):
            changes = (Change(version, None, CANDIDATE),)
            new = Draft("churn", Kind.REGISTERED, version, Actor("os:ada"), "", changes)
            ledger.register(Version("churn", version, "d", "onnx", "r", START, "os:ada", 1), new)
    version = first + me

    def prepare() -> Attempt:
        changes = Ladder(("production",)).promotion(ledger.standings("churn"), version, "production")
        draft = Draft("churn", Kind.PROMOTED, version, Actor("os:ada"), "", tuple(changes), "production")
        return lambda: ledger.append(draft).draft.version

    return prepare


def append(database: Database, me: int, number: int, processes: int) -> Attempt:
    """Everybody writes an entry: all must get in."""
    ledger = SqlLedger(database, WallClock())
    return lambda: lambda: ledger.append(Draft("churn", Kind.REFUSED, 1, Actor("os:ada"), f"{me}")).seq


def same_key(database: Database, me: int, number: int, processes: int) -> Attempt:
    ledger = SqlLedger(database, WallClock())
    draft = Draft("churn", Kind.REFUSED, 1, Actor("os:ada"), f"{me}", key=f"round {number}")
    return lambda: lambda: ledger.append(draft).hash


def lease(database: Database, me: int, number: int, processes: int) -> Attempt:
    leases = SqlLeases(database, WallClock())
    return lambda: lambda: leases.acquire(f"round {number}", f"worker {me}", 600).fence


def claim(database: Database, me: int, number: int, processes: int) -> Attempt:
    schedules = SqlSchedules(database, WallClock())
    return lambda: lambda: schedules.claim("nightly", START + timedelta(hours=number), f"worker {me}")


def rollout(database: Database, me: int, number: int, processes: int) -> Attempt:
    deployments = SqlDeployments(database)
    one = Rollout(
        f"{number}-{me}", "churn", me, "p", f"endpoint {number}", None, Phase.OPENED, START, "a", ""
    )
    return lambda: lambda: deployments.open(one).id


def run(what: str, url: str, me: int, processes: int, rounds: int, barrier, answers) -> None:  # type: ignore[no-untyped-def]
    database = open_database(url, 60)
    for number in range(rounds):
        prepare = globals()[what](database, me, number, processes)
        barrier.wait(120)
        attempt = prepare()
        barrier.wait(120)
        answers.put((number, me, answer(attempt)))
        barrier.wait(120)
    database.close()


def initialise(url: str, me: int, barrier, answers) -> None:  # type: ignore[no-untyped-def]
    """Everybody opens a database that is empty."""
    barrier.wait(120)
    answers.put((0, me, answer(lambda: open_or_upgrade(url))))


def open_or_upgrade(url: str) -> str | None:
    if url.startswith("sqlite"):
        open_database(url, 60).close()
    else:
        upgrade(url)
    return current_revision(url)


def answer(attempt: Attempt) -> object:
    try:
        return attempt()
    except Conflict as error:
        return f"{type(error).__name__}: {error}"


def main(what: str, url: str, processes: int, rounds: int) -> None:
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(processes), context.SimpleQueue()
    if what == "initialise":
        jobs = [context.Process(target=initialise, args=(url, i, barrier, answers)) for i in range(processes)]
    else:
        rest = (processes, rounds, barrier, answers)
        jobs = [context.Process(target=run, args=(what, url, i, *rest)) for i in range(processes)]
    for job in jobs:
        job.start()
    found: list[list[object]] = [[] for _ in range(rounds)]
    for _ in range(processes * rounds):
        number, _, said = answers.get()
        found[number].append(said)
    for job in jobs:
        job.join()
    assert [job.exitcode for job in jobs] == [0] * processes
    print(json.dumps(found))


def race(what: str, url: str, processes: int = PROCESSES, rounds: int = ROUNDS) -> list[list[object]]:
    """Run this file as a program; one list of answers per round."""
    command = [sys.executable, __file__, what, url, str(processes), str(rounds)]
    environment = {**os.environ, "PYTHONPATH": str(Path(mlplatform.__file__).parents[1])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    answers: list[list[object]] = json.loads(ended.stdout)
    return answers


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
