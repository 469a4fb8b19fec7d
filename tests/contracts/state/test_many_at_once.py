"""Real processes, all at the same moment, on SQLite and on PostgreSQL.

Promotions: `tests/acceptance/test_concurrency.py`.
"""

from __future__ import annotations

import pytest

from mlplatform.state.schema import REVISIONS
from tests.contracts.state.racers import PROCESSES, ROUNDS, race


@pytest.fixture
def ledger(database, clock):
    from mlplatform.state.ledger import SqlLedger

    return SqlLedger(database, clock)


def test_entries_of_many_writers_at_once_all_get_in_and_form_one_chain(database_url, ledger):
    rounds = race("append", database_url)
    assert sorted(seq for answers in rounds for seq in answers) == list(range(1, PROCESSES * ROUNDS + 1))
    assert ledger.verify("churn").holds


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
