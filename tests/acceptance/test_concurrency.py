"""Many promote into one stage at the same moment, on SQLite and on PostgreSQL: one wins, the others are told who.

At the ledger: 50 processes, 20 times. With the real command: 8 processes, 3 times.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.flows.lease import holding
from mlplatform.state.engine import closing
from mlplatform.state.ledger import SqlLedger
from mlplatform.state.schema import open_database
from mlplatform.testing.clock import FixedClock
from tests.bare_project import MODEL, bare_project
from tests.contracts.state.racers import race
from tests.forking import Forker, order
from tests.mlflow_stores import pause
from tests.small_project import Place

PROCESSES, ROUNDS = 50, 20
COMMANDS, COMMAND_ROUNDS = 8, 3
PATIENCE_SECONDS = 120.0


def test_of_fifty_processes_that_promote_at_once_one_wins_each_of_twenty_times(database_url: str) -> None:
    rounds = race("promote", database_url, PROCESSES, ROUNDS)
    winners = [winner_of(answers) for answers in rounds]
    with closing(open_database(database_url)) as database:
        ledger = SqlLedger(database, FixedClock())
        assert [e.draft.version for e in ledger.entries(MODEL, stage="production")] == winners
        assert ledger.standings(MODEL).holder("production") == winners[-1]
        found = ledger.verify()
    assert found.holds
    assert found.entries == PROCESSES * ROUNDS + ROUNDS


def winner_of(answers: list[object]) -> object:
    won = [a for a in answers if isinstance(a, int)]
    lost = [str(a) for a in answers if not isinstance(a, int)]
    assert (len(won), len(lost)) == (1, PROCESSES - 1), answers
    assert all(said.startswith("StageConflict") for said in lost), lost
    assert all(f"production is held by version {won[0]}, expected" in said for said in lost), lost
    return won[0]


# --- the real command -----------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path: Path, empty_mlflow: Path, database_url: str, forking: Forker) -> Iterator[Place]:
    candidates = COMMANDS + COMMAND_ROUNDS - 1
    with bare_project(tmp_path / "churn", empty_mlflow, database_url, forking, candidates) as made:
        yield made


def test_of_eight_commands_that_promote_at_once_one_is_done_and_seven_name_it(project: Place) -> None:
    held = None
    for number in range(1, COMMAND_ROUNDS + 1):
        contenders = candidates(project)[:COMMANDS]
        codes, said = promoted_at_once(project, contenders, f"round {number}")
        (winner,) = [version for version, code in codes.items() if code == 0]
        assert [codes[version] for version in contenders if version != winner] == [5] * (COMMANDS - 1), said
        told = f"staging is held by version {winner}, expected {held or 'none'}"
        assert all(told in said[version] for version in contenders if version != winner), said
        assert standing(project)["staging"] == held_in_mlflow(project) == winner
        held = winner
    assert project.told("verify")["breaks"] == []
    promotions = [e for e in project.told("history", MODEL) if e["draft"]["kind"] == "promoted"]
    assert len(promotions) == COMMAND_ROUNDS


def promoted_at_once(place: Place, versions: list[int], reason: str) -> tuple[dict[int, int], dict[int, str]]:
    """Exit codes and what was said. The model's lease is held until every process has seen the stage and waits."""
    logs = {version: place.folder / f"promote-{version}.log" for version in versions}
    orders = [_promotion(place, version, reason, log) for version, log in logs.items()]
    with place.opened() as platform:
        with holding(platform.world.leases, f"change:{MODEL}", platform.owner):
            for log in logs.values():
                log.write_text("")
            place.forker.start(orders)
            give_up = time.monotonic() + PATIENCE_SECONDS
            while not all("waiting for" in log.read_text() for log in logs.values()):
                assert time.monotonic() < give_up, {v: log.read_text() for v, log in logs.items()}
                pause(0.02)
        codes = dict(zip(versions, place.forker.ended(), strict=True))
    return codes, {version: log.read_text() for version, log in logs.items()}


def _promotion(place: Place, version: int, reason: str, log: Path) -> dict[str, object]:
    # Gates would measure models, which these are not; who wins is decided before them and in the commit after them.
    words = ["promote", f"{MODEL}@{version}", "staging", "--break-glass", "--reason", reason]
    return order(words, place.folder, place.environment, place.folder / f"output-{version}.log", log)


def candidates(place: Place) -> list[int]:
    with place.opened() as platform:
        places = platform.world.ledger.standings(MODEL).places
    return [version for version, where in places.items() if where == "CANDIDATE"]


def standing(place: Place) -> dict[str, int]:
    with place.opened() as platform:
        return {where: version for version, where in platform.world.ledger.standings(MODEL).places.items()}


def held_in_mlflow(place: Place) -> int:
    with place.opened() as platform:
        return platform.world.registry.outside(MODEL).aliases["staging"]
