"""When an approval counts: these bytes, this incumbent, this policy, and gates that say nothing worse than it saw."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.domain.approval import Approval, Demand, Evidence, person, tally, undecided, why_void
from mlplatform.domain.verdict import Finding, Verdict, rank
from mlplatform.testing.clock import START

PASS, INCONCLUSIVE, ERROR, FAIL = Verdict
SEEN = (Finding("auc", PASS, ""), Finding("no_regression", INCONCLUSIVE, ""))
EVIDENCE = Evidence("bytes", "evaluation", "policy", ("os:ada",), "before", SEEN)
GIVEN = Approval(
    "bob", True, START, "looks good", "production", "bytes", "evaluation", "policy", ("risk",), "t1", "before",
    (PASS, INCONCLUSIVE),
)  # fmt: skip
NOW = START + timedelta(days=1)


def findings(*verdicts: Verdict) -> tuple[Finding, ...]:
    return tuple(Finding(f"gate{n}", verdict, "") for n, verdict in enumerate(verdicts))


def test_approval_of_these_bytes_this_evidence_and_this_policy_counts():
    count = tally([GIVEN], Demand(count=1), EVIDENCE, NOW)
    assert (count.counting, count.void, count.enough) == ((GIVEN,), (), True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"bundle_digest": "other"}, "the bytes changed since"),
        ({"policy_digest": "other"}, "the policy changed since"),
        ({"incumbent": ""}, "the version that it would replace changed since"),
        (
            {"verdicts": (PASS, PASS)},
            "the evidence changed since: no_regression was PASS, is INCONCLUSIVE now",
        ),
        ({"verdicts": (PASS, FAIL)}, "the gates said FAIL, which no approval can settle"),
        ({"verdicts": (ERROR,)}, "the gates said ERROR, which no approval can settle"),
        ({"evaluation_id": "other"}, "the evaluation changed since"),
        ({"verdicts": (PASS,)}, "the gates changed since"),
        ({"at": START - timedelta(days=13, seconds=1)}, "it expired after 14d"),
        ({"token": "revoked"}, "the approver's token was revoked since"),
        ({"actor": "os:ada"}, "the author may not approve"),
        ({"actor": "Ada"}, "the author may not approve"),
        ({"verified": False}, "the approver is not verified"),
        ({"roles": ()}, "the approver had none of the roles risk, legal"),
        ({"roles": ("admin",)}, "the approver had none of the roles risk, legal"),
    ],
)
def test_approval_is_void_and_says_why(change, why):
    evidence = replace(EVIDENCE, revoked=frozenset({"revoked"}))
    count = tally([replace(GIVEN, **change)], Demand(1, roles=("risk", "legal")), evidence, NOW)
    assert not count.enough
    assert [said for _, said in count.void] == [why]


def test_new_rows_void_nothing_where_the_policy_binds_verdicts_and_the_gates_say_no_worse():
    demand = Demand(1, bound_to="verdicts")
    for verdicts in ((PASS, INCONCLUSIVE), (PASS, PASS)):
        newer = replace(EVIDENCE, evaluation_id="newer", findings=findings(*verdicts))
        assert why_void(GIVEN, demand, newer, NOW) == ""
        assert why_void(GIVEN, Demand(1), newer, NOW) == "the evaluation changed since"
    worse = replace(EVIDENCE, evaluation_id="newer", findings=findings(INCONCLUSIVE, PASS))
    assert (
        why_void(GIVEN, demand, worse, NOW)
        == "the evidence changed since: gate0 was PASS, is INCONCLUSIVE now"
    )


def test_policy_may_let_authors_and_unverified_people_approve():
    given = replace(GIVEN, actor="os:ada", verified=False)
    demand = Demand(count=1, author_may_approve=True, unverified=True)
    assert tally([given], demand, EVIDENCE, NOW).enough


def test_one_person_counts_once_under_whatever_name():
    same = [GIVEN, replace(GIVEN, at=NOW), replace(GIVEN, actor="os:bob", verified=False)]
    demand = Demand(count=2, unverified=True)
    assert not tally(same, demand, EVIDENCE, NOW).enough
    assert tally([*same, replace(GIVEN, actor="eve")], demand, EVIDENCE, NOW).enough


def test_nothing_is_wanted_where_the_policy_wants_nothing_but_somebody_must_settle_what_gates_cannot_tell():
    count = tally([], Demand(), EVIDENCE, NOW)
    assert count.enough and not count.settles
    assert tally([GIVEN], Demand(), EVIDENCE, NOW).settles
    assert not tally([GIVEN], Demand(2), EVIDENCE, NOW).settles


def test_only_what_cannot_be_told_is_left_for_people():
    assert undecided(SEEN) == ["no_regression"]
    assert undecided(findings(PASS, PASS)) == []
    assert undecided(findings(INCONCLUSIVE, FAIL)) == undecided(findings(INCONCLUSIVE, ERROR)) == []


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"count": -1}, "negative"),
        ({"expires": "soon"}, "not a duration"),
        ({"roles": ("Risk Office",)}, "'Risk Office'"),
        ({"roles": ("risk",), "unverified": True}, "roles are held by tokens"),
    ],
)
def test_nonsense_demand_is_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        Demand(**wrong)


# --- whatever the values are ----------------------------------------------------------------------------------------

NAMES = st.sampled_from(["ada", "os:ada", "Ada", "bob", "os:bob", "eve", "mlflow"])
WORDS = st.sampled_from(["a", "b"])
VERDICTS = st.lists(st.sampled_from(list(Verdict)), max_size=3)
APPROVALS = st.builds(
    Approval,
    actor=NAMES,
    verified=st.booleans(),
    at=st.integers(0, 30).map(lambda days: NOW - timedelta(days=days)),
    reason=st.just("r"),
    stage=st.just("production"),
    bundle_digest=WORDS,
    evaluation_id=WORDS,
    policy_digest=WORDS,
    roles=st.lists(st.sampled_from(["risk", "admin"]), max_size=2).map(tuple),
    token=st.sampled_from(["", "t1", "t2"]),
    incumbent=st.sampled_from(["", "a"]),
    verdicts=VERDICTS.map(tuple),
)
DEMANDS = st.one_of(
    st.builds(
        Demand,
        st.integers(0, 3),
        author_may_approve=st.booleans(),
        unverified=st.booleans(),
        bound_to=st.sampled_from(["evaluation", "verdicts"]),
    ),
    st.builds(Demand, st.integers(0, 3), roles=st.just(("risk",)), author_may_approve=st.booleans()),
)
EVIDENCES = st.builds(
    Evidence,
    WORDS,
    WORDS,
    WORDS,
    authors=st.lists(NAMES, max_size=2).map(tuple),
    incumbent=st.sampled_from(["", "a"]),
    findings=st.none() | VERDICTS.map(lambda v: findings(*v)),
    revoked=st.frozensets(st.sampled_from(["t1", "t2"])),
)


@given(st.lists(APPROVALS, max_size=6), DEMANDS, EVIDENCES)
def test_whatever_counts_was_said_of_this_by_somebody_who_may(approvals, demand, evidence):
    count = tally(approvals, demand, evidence, NOW)
    people = [person(a.actor) for a in count.counting]
    assert len(set(people)) == len(people)
    assert len(count.void) + len(count.counting) <= len(approvals)
    for a in count.counting:
        assert (a.bundle_digest, a.policy_digest) == (evidence.bundle_digest, evidence.policy_digest)
        assert a.incumbent == evidence.incumbent
        assert NOW - a.at <= timedelta(days=14)
        assert a.token not in evidence.revoked
        assert a.verified or demand.unverified
        assert not demand.roles or set(a.roles) & set(demand.roles)
        assert demand.author_may_approve or person(a.actor) not in map(person, evidence.authors)
        assert not set(a.verdicts) & {FAIL, ERROR}
    assert all(why for _, why in count.void)


@given(APPROVALS, DEMANDS, EVIDENCES)
def test_an_approval_that_counts_saw_every_gate_at_least_as_bad(approval, demand, evidence):
    if evidence.findings is None or why_void(approval, demand, evidence, NOW):
        return
    if demand.bound_to == "evaluation":
        assert approval.evaluation_id == evidence.evaluation_id
    for seen, finding in zip(approval.verdicts, evidence.findings, strict=True):
        assert rank(finding.verdict) <= rank(seen) <= rank(INCONCLUSIVE)


@given(APPROVALS, DEMANDS, EVIDENCES, st.integers(0, 60))
def test_a_void_approval_never_comes_back_with_time(approval, demand, evidence, days):
    if why_void(approval, demand, evidence, NOW):
        assert why_void(approval, demand, evidence, NOW + timedelta(days=days))


@pytest.mark.parametrize("spelled", ["ada", "os:Ada", "os:os:ADA", " ada ", "os: ada", "\uff41da"])
def test_one_person_has_one_name_however_it_is_spelled(spelled):
    assert person(spelled) == "ada"
    assert "author" in why_void(replace(GIVEN, actor=spelled), Demand(count=1), EVIDENCE, NOW)
