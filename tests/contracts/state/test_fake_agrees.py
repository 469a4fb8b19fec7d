"""The fake ledger and the SQL one give the same answers to the same questions, sensible or not."""

from __future__ import annotations

from itertools import count

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlplatform.domain.ladder import CANDIDATE, REJECTED, RETIRED, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.errors import Conflict
from mlplatform.state.ledger import SqlLedger
from mlplatform.testing.fakes.state import FakeLedger

PLACES = (CANDIDATE, RETIRED, REJECTED, "staging", "production")
CHANGES = st.builds(Change, st.integers(1, 4), st.sampled_from((*PLACES, None)), st.sampled_from(PLACES))
DRAFTS = st.lists(
    st.tuples(st.lists(CHANGES, max_size=3), st.sampled_from((None, None, "a", "b"))), max_size=12
)

QUESTIONS = (
    {"version": 1},
    {"version": 4, "newest": 2},
    {"stage": "staging"},
    {"stage": CANDIDATE, "newest": 3},
    {"key": "a"},
    {"kinds": (Kind.PROMOTED,), "version": 2},
)
FRESH = count()


def answer(ledger, draft):
    try:
        return ledger.append(draft)
    except Conflict as error:
        return type(error), error.facts


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drafts=DRAFTS)
def test_fake_and_sql_answer_alike(database, clock, make, drafts):
    model = f"model {next(FRESH)}"
    fake, real = FakeLedger(clock), SqlLedger(database, clock)
    for ledger in (fake, real):
        make.register(ledger, 1, 2, 3, model=model)
    for changes, key in drafts:
        draft = Draft(model, Kind.PROMOTED, 1, Actor("os:ada"), "", tuple(changes), key=key)
        assert answer(fake, draft) == answer(real, draft)
        assert fake.standings(model) == real.standings(model)
    assert fake.entries(model) == real.entries(model)
    for only in QUESTIONS:
        assert fake.entries(model, **only) == real.entries(model, **only)
    assert fake.standings(model, clock.now()) == real.standings(model, clock.now())
    assert fake.verify(model) == real.verify(model)
    assert real.verify(model).holds
