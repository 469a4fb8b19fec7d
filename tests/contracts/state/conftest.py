"""Every state port, three times: in memory, on SQLite, on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from mlplatform.ports.state import (
    Deployments,
    Evaluations,
    Intents,
    Leases,
    Ledger,
    Outbox,
    Retrainings,
    Schedules,
    Tokens,
    Windows,
)
from mlplatform.state.deployments import SqlDeployments
from mlplatform.state.engine import Database
from mlplatform.state.evaluations import SqlEvaluations
from mlplatform.state.intents import SqlIntents
from mlplatform.state.leases import SqlLeases
from mlplatform.state.ledger import SqlLedger
from mlplatform.state.schedules import SqlSchedules
from mlplatform.state.schema import open_database
from mlplatform.state.tokens import SqlTokens
from mlplatform.state.windows import SqlRetrainings, SqlWindows
from mlplatform.testing.clock import FixedClock
from mlplatform.testing.fakes import state as fakes
from mlplatform.testing.fakes.tokens import FakeTokens


@dataclass(frozen=True)
class State:
    clock: FixedClock
    ledger: Ledger
    outbox: Outbox
    evaluations: Evaluations
    deployments: Deployments
    windows: Windows
    retrainings: Retrainings
    leases: Leases
    intents: Intents
    schedules: Schedules
    tokens: Tokens


def fake_state(clock: FixedClock) -> State:
    ledger = fakes.FakeLedger(clock)
    return State(
        clock=clock,
        ledger=ledger,
        outbox=ledger,
        evaluations=fakes.FakeEvaluations(),
        deployments=fakes.FakeDeployments(),
        windows=fakes.FakeWindows(),
        retrainings=fakes.FakeRetrainings(),
        leases=fakes.FakeLeases(clock),
        intents=fakes.FakeIntents(),
        schedules=fakes.FakeSchedules(clock),
        tokens=FakeTokens(),
    )


def sql_state(database: Database, clock: FixedClock) -> State:
    ledger = SqlLedger(database, clock)
    return State(
        clock=clock,
        ledger=ledger,
        outbox=ledger,
        evaluations=SqlEvaluations(database),
        deployments=SqlDeployments(database),
        windows=SqlWindows(database),
        retrainings=SqlRetrainings(database),
        leases=SqlLeases(database, clock),
        intents=SqlIntents(database),
        schedules=SqlSchedules(database, clock),
        tokens=SqlTokens(database),
    )


@pytest.fixture
def clock() -> FixedClock:
    return FixedClock()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """An open database, SQLite and PostgreSQL in turn."""
    opened = open_database(database_url)
    yield opened
    opened.close()


@pytest.fixture(params=["fake", "sqlite", "postgresql"])
def state(request: pytest.FixtureRequest, clock: FixedClock) -> Iterator[State]:
    if request.param == "fake":
        yield fake_state(clock)
        return
    names = {"sqlite": "sqlite_url", "postgresql": "postgres_url"}
    opened = open_database(request.getfixturevalue(names[request.param]))
    yield sql_state(opened, clock)
    opened.close()


@pytest.fixture
def make() -> Any:
    """Versions and drafts with as few words as possible."""
    from types import SimpleNamespace

    from mlplatform.domain.ladder import CANDIDATE, Change, Ladder
    from mlplatform.domain.ledger import Actor, Draft, Kind
    from mlplatform.domain.version import Version
    from mlplatform.testing.clock import START

    ladder = Ladder(("staging", "production"))

    def version(number: int, model: str = "churn") -> Version:
        return Version(model, number, f"{number:064x}", "onnx", f"run{number}", START, "os:ada", 1234)

    def registered(number: int, model: str = "churn", **more: Any) -> Draft:
        changes = (Change(number, None, CANDIDATE),)
        return Draft(model, Kind.REGISTERED, number, Actor("os:ada"), "new", changes, **more)

    def register(ledger: Ledger, *numbers: int, model: str = "churn") -> None:
        for number in numbers:
            ledger.register(version(number, model), registered(number, model))

    def promotion(ledger: Ledger, number: int, stage: str = "staging", **more: Any) -> Draft:
        standings = ledger.standings("churn")
        changes = tuple(ladder.promotion(standings, number, stage))
        return Draft("churn", Kind.PROMOTED, number, Actor("os:ada"), "good", changes, stage, **more)

    return SimpleNamespace(
        ladder=ladder, version=version, registered=registered, register=register, promotion=promotion
    )
