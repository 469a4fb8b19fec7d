"""Real processes, all at the same moment, on SQLite and on PostgreSQL."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mlplatform
from mlplatform.state.schema import REVISIONS

PROCESSES, ROUNDS = 12, 2


def race(what, url, processes=PROCESSES, rounds=ROUNDS):
    """One list of answers per round."""
    racers = str(Path(__file__).with_name("racers.py"))
    command = [sys.executable, racers, what, url, str(processes), str(rounds)]
    environment = {**os.environ, "PYTHONPATH": str(Path(mlplatform.__file__).parents[1])}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


@pytest.fixture
def ledger(database, clock):
    from mlplatform.state.ledger import SqlLedger

    return SqlLedger(database, clock)


def test_of_many_promotions_at_once_exactly_one_wins_and_the_others_learn_who(database_url, ledger):
    winners = []
    for answers in race("promote", database_url, processes=24, rounds=4):
        won = [a for a in answers if isinstance(a, int)]
        lost = [a for a in answers if not isinstance(a, int)]
        assert len(won) == 1
        assert len(lost) == 23
        assert all(a.startswith("StageConflict") and f"held by version {won[0]}," in a for a in lost)
        winners += won
    entries = ledger.entries("churn")
    assert [e.draft.version for e in entries if e.draft.kind == "promoted"] == winners
    assert ledger.standings("churn").holder("production") == winners[-1]
    assert ledger.breaks("churn") == []


def test_entries_of_many_writers_at_once_all_get_in_and_form_one_chain(database_url, ledger):
    rounds = race("append", database_url)
    assert sorted(seq for answers in rounds for seq in answers) == list(range(1, PROCESSES * ROUNDS + 1))
    assert ledger.breaks("churn") == []


def test_one_key_from_many_writers_is_one_entry(database_url, ledger):
    rounds = race("same_key", database_url)
    assert [len(set(answers)) for answers in rounds] == [1] * ROUNDS
    assert len(ledger.entries("churn")) == ROUNDS


def test_one_of_many_gets_the_lease(database_url):
    for answers in race("lease", database_url):
        assert sorted(a for a in answers if isinstance(a, int)) == [1]
        assert sum("LeaseHeld" in str(a) for a in answers) == PROCESSES - 1


def test_one_of_many_runners_fires(database_url):
    for answers in race("claim", database_url):
        assert answers.count(True) == 1
        assert answers.count(False) == PROCESSES - 1


def test_one_of_many_rollouts_of_an_endpoint_opens(database_url):
    for answers in race("rollout", database_url):
        assert sum("is busy with the rollout" in a for a in answers) == PROCESSES - 1


def test_empty_database_opened_by_many_at_once_is_migrated_once(empty_database_url):
    (answers,) = race("initialise", empty_database_url, processes=12, rounds=1)
    assert answers == [REVISIONS[-1]] * 12
