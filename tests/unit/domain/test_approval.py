from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from mlplatform.domain.approval import Approval, Demand, Evidence, tally
from mlplatform.testing.clock import START

EVIDENCE = Evidence("bytes", "evaluation", "policy", author="os:ada")
GIVEN = Approval("os:bob", True, START, "looks good", "production", "bytes", "evaluation", "policy")
NOW = START + timedelta(days=1)


def test_approval_of_these_bytes_this_evidence_and_this_policy_counts():
    count = tally([GIVEN], Demand(count=1), EVIDENCE, NOW)
    assert (count.counting, count.void, count.enough) == ((GIVEN,), (), True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bundle_digest": "other"}, "bytes changed"),
        ({"evaluation_id": "other"}, "evaluation changed"),
        ({"policy_digest": "other"}, "policy changed"),
        ({"at": START - timedelta(days=13, seconds=1)}, "expired after 14d"),
        ({"actor": "os:ada"}, "author may not approve"),
        ({"verified": False}, "not verified"),
    ],
)
def test_approval_is_void_when_something_changed(change, why):
    count = tally([replace(GIVEN, **change)], Demand(count=1), EVIDENCE, NOW)
    assert not count.enough
    assert why in count.void[0][1]


def test_policy_may_let_authors_and_unverified_people_approve():
    given = replace(GIVEN, actor="os:ada", verified=False)
    demand = Demand(count=1, author_may_approve=True, unverified=True)
    assert tally([given], demand, EVIDENCE, NOW).enough


def test_one_person_counts_once():
    twice = [GIVEN, replace(GIVEN, at=NOW)]
    assert not tally(twice, Demand(count=2), EVIDENCE, NOW).enough
    assert tally([*twice, replace(GIVEN, actor="os:eve")], Demand(count=2), EVIDENCE, NOW).enough


def test_nothing_is_wanted_where_the_policy_wants_nothing():
    assert tally([], Demand(), EVIDENCE, NOW).enough


@pytest.mark.parametrize("wrong", [{"count": -1}, {"expires": "soon"}])
def test_nonsense_demand_is_refused(wrong):
    with pytest.raises(ValueError):
        Demand(**wrong)
