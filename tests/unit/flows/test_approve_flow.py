"""approve and reject on fakes: who may, what an approval is bound to, what it settles, what MLflow's tags are worth."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from mlplatform.domain.approval import Tally
from mlplatform.domain.ledger import Actor
from mlplatform.domain.policy import Data, EvaluateOn, Policy
from mlplatform.domain.token import Identity
from mlplatform.domain.use import Use
from mlplatform.domain.version import Version
from mlplatform.errors import ChangedBytes, IllegalMove, MlflowUnreachable, Refused
from mlplatform.flows.approve import Approved, approve, plan_rejection, reject
from mlplatform.flows.project import project
from mlplatform.flows.promote import Outcome
from mlplatform.flows.reconcile import differences, reconcile
from mlplatform.flows.register import compress
from mlplatform.flows.tokens import issue, revoke
from tests.unit.flows.worlds import ACCURACY, ADA, MODEL, Fakes, policy, staging, wanting

EVE, BOB = (Identity(Actor(name, verified=True), ("risk",), f"token-{name}") for name in ("eve", "bob"))
UNSURE = Use("metric", {"name": "accuracy", "at_least": 0.8, "min_n": 1000})
"""A gate that wants more rows than there are."""


def say_yes(fakes: Fakes, given: Policy, version: Version, who: Identity = EVE, **more: Any) -> Approved:
    return approve(fakes.world, given, version, "staging", who, "looks good", **more)


def waits(fakes: Fakes, given: Policy, version: Version, because: str) -> Tally:
    outcome = fakes.promote(given, version, "staging")
    assert (outcome.status, outcome.exit_code) == ("waiting", 4)
    assert because in outcome.because
    assert outcome.tally is not None
    return outcome.tally


def void(fakes: Fakes, given: Policy, version: Version) -> str:
    [(_, why)] = waits(fakes, given, version, "0 of 1 approval").void
    return why


# --- who ------------------------------------------------------------------------------------------------------------


def test_a_stage_that_wants_approvals_waits_for_enough_people(fakes: Fakes) -> None:
    given, version = wanting(policy(), 2), fakes.version("run1")
    for _ in range(2):
        say_yes(fakes, given, version)
    waits(fakes, given, version, "1 of 2 approvals")
    assert len(say_yes(fakes, given, version, BOB).tally.counting) == 2
    assert fakes.promote(given, version, "staging").status == "done"
    told = fakes.ledger.entries(MODEL)[-1].draft.data
    assert (told["approvals"], told["approvals_wanted"]) == (["eve", "bob"], 2)


@pytest.mark.parametrize(
    ("who", "why"),
    [
        (Identity(Actor("os:mallory")), "the approver is not verified"),
        (Identity(ADA), "the approver had none of the roles risk"),
        (Identity(Actor("ada", True), ("risk",)), "the author may not approve"),
        (Identity(Actor("Grace", True), ("risk",)), "the author may not approve"),
    ],
    ids=["nobody in particular", "no role", "who registered it", "who trained it"],
)
def test_who_could_never_count_is_refused_at_once(fakes: Fakes, who: Identity, why: str) -> None:
    version = fakes.version("run1")
    with pytest.raises(Refused, match=why) as caught:
        say_yes(fakes, wanting(policy(), 1, roles=("risk",)), version, who)
    assert caught.value.next_step
    assert fakes.kinds == ["registered"]


def test_who_made_the_parent_is_an_author_of_the_compressed_child(fakes: Fakes) -> None:
    parent = fakes.version("run1")
    child = compress(fakes.world, parent, (Use("copying"),), EVE.actor)
    for who in (EVE, Identity(ADA)):
        with pytest.raises(Refused, match="the author may not approve"):
            say_yes(fakes, wanting(policy(), 1), child, who)
    say_yes(fakes, wanting(policy(), 1), parent, EVE)


def test_whoever_approved_may_also_promote(fakes: Fakes) -> None:
    """Two people stand behind it in any case: an author, and somebody else who looked."""
    given, version = wanting(policy(), 1), fakes.version("run1")
    say_yes(fakes, given, version)
    assert fakes.promote(given, version, "staging", actor=EVE.actor).status == "done"


def test_an_approval_for_another_stage_does_not_count(fakes: Fakes) -> None:
    given, version = wanting(policy(), 1), fakes.version("run1")
    approve(fakes.world, given, version, "production", EVE, "later")
    waits(fakes, given, version, "0 of 1 approval")


def test_a_revoked_token_takes_its_open_approvals_with_it(fakes: Fakes) -> None:
    given, version, now = wanting(policy(), 1), fakes.version("run1"), fakes.clock.now()
    boss = issue(fakes.tokens, now, Identity(Actor("os:ada")), "boss", ["admin"]).token
    admin = Identity(Actor("boss", True), boss.roles, boss.id)
    eves = issue(fakes.tokens, now, admin, "eve", []).token
    say_yes(fakes, given, version, replace(EVE, token=eves.id))
    revoke(fakes.tokens, now, admin, eves.id)
    assert void(fakes, given, version) == "the approver's token was revoked since"


# --- bound to -------------------------------------------------------------------------------------------------------


LIVE = EvaluateOn("labelled_window", min_rows=10)


def test_an_approval_is_void_when_the_evaluation_changed(fakes: Fakes) -> None:
    given, version = wanting(policy(data=Data("y", evaluate=LIVE)), 1), fakes.version("run1")
    say_yes(fakes, given, version)
    fakes.answered(version, 200, 240, hour=0)
    fakes.observations.ingest("churn")
    assert void(fakes, given, version) == "the evaluation changed since"
    say_yes(fakes, given, version)
    assert fakes.promote(given, version, "staging").status == "done"


def test_bound_to_verdicts_new_labels_alone_void_nothing(fakes: Fakes) -> None:
    """The gates are asked again on the newest rows; what was approved is what they said."""
    given = wanting(policy(data=Data("y", evaluate=LIVE)), 1, bound_to="verdicts")
    version = fakes.version("run1")
    approved = say_yes(fakes, given, version)
    fakes.answered(version, 200, 240, hour=0)
    fakes.observations.ingest("churn")
    outcome = fakes.promote(given, version, "staging")
    assert outcome.status == "done"
    assert approved.entry is not None
    assert outcome.evaluation_id != approved.entry.draft.data["approval"]["evaluation_id"]


def test_bound_to_verdicts_new_labels_that_make_a_gate_less_sure_void_it(fakes: Fakes) -> None:
    given = wanting(policy(data=Data("y", evaluate=LIVE)), 1, bound_to="verdicts")
    version = fakes.version("run1")
    say_yes(fakes, given, version)
    fakes.answered(version, 200, 215, hour=0)
    fakes.observations.ingest("churn")
    tally = waits(fakes, given, version, "cannot tell yet")
    assert [why for _, why in tally.void] == [
        "the evidence changed since: metric was PASS, is INCONCLUSIVE now"
    ]
    say_yes(fakes, given, version)
    assert fakes.promote(given, version, "staging").status == "done"


def test_an_approval_is_void_when_the_policy_changed(fakes: Fakes) -> None:
    given, version = wanting(policy(), 1), fakes.version("run1")
    say_yes(fakes, given, version)
    assert void(fakes, staging(given, gates=()), version) == "the policy changed since"


def test_an_approval_is_void_when_another_version_would_be_replaced(fakes: Fakes) -> None:
    given, version, other = wanting(policy(), 1), fakes.version("run1"), fakes.version("run2")
    say_yes(fakes, given, version)
    fakes.promote(given, other, "staging", break_glass=True)
    assert void(fakes, given, version) == "the version that it would replace changed since"


def test_an_approval_is_void_for_other_bytes(fakes: Fakes) -> None:
    given, version = wanting(policy(), 1), fakes.version("run1")
    say_yes(fakes, given, version)
    impostor = replace(fakes.version("run2"), number=version.number)
    assert void(fakes, given, impostor) == "the bytes changed since"


def test_changed_bytes_cannot_be_approved(fakes: Fakes) -> None:
    version = fakes.version("run1")
    fakes.spoil(version)
    with pytest.raises(ChangedBytes):
        say_yes(fakes, wanting(policy(), 1), version)
    assert fakes.kinds == ["registered"]


def test_an_approval_expires(fakes: Fakes) -> None:
    given, version = wanting(policy(), 1, expires="2d"), fakes.version("run1")
    say_yes(fakes, given, version)
    fakes.clock.advance(3 * 86400)
    assert void(fakes, given, version) == "it expired after 2d"


def test_a_dry_run_records_nothing_and_says_what_would_count(fakes: Fakes) -> None:
    version = fakes.version("run1")
    approved = say_yes(fakes, wanting(policy(), 2), version, dry_run=True)
    assert (approved.status, approved.dry_run, approved.entry) == ("done", True, None)
    assert len(approved.tally.counting) == 1
    assert fakes.kinds == ["registered"]


def test_a_version_that_is_there_or_out_cannot_be_approved(fakes: Fakes) -> None:
    given, version = policy(), fakes.version("run1")
    fakes.promote(given, version, "staging")
    with pytest.raises(IllegalMove, match="it is there already"):
        say_yes(fakes, given, version)
    reject(fakes.world, given, version, ADA, "no")
    with pytest.raises(IllegalMove, match="rejected stays out"):
        say_yes(fakes, given, version)


# --- what it settles ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2])
def test_people_settle_what_gates_cannot_tell(fakes: Fakes, count: int) -> None:
    given, version = staging(wanting(policy(), count), gates=(ACCURACY, UNSURE)), fakes.version("run1")
    left = "2 approvals would settle it" if count == 2 else "1 approval would settle it"
    waits(fakes, given, version, left)
    people = (EVE, BOB)[: max(count, 1)]
    for who in people:
        say_yes(fakes, given, version, who)
    outcome = fakes.promote(given, version, "staging")
    names = ", ".join(p.actor.name for p in people)
    assert (outcome.status, outcome.because) == (
        "done",
        f"because (passed by approval of {names}: metric INCONCLUSIVE)",
    )
    entry = fakes.ledger.entries(MODEL)[-1].draft
    assert (entry.reason, entry.data["passed_by_approval"]) == (outcome.because, ["metric"])


def test_nobody_settles_what_fails_or_could_not_be_looked_at(fakes: Fakes) -> None:
    given = wanting(policy(), 1)
    bad, broken = fakes.version("run1", skill=0.5), fakes.version("run2", skill=None)
    refused, error = say_yes(fakes, given, bad), say_yes(fakes, given, broken)
    assert (refused.status, refused.exit_code) == ("refused", 3)
    assert (error.status, error.exit_code) == ("error", 6)
    assert "no approval settles a gate that fails: metric" in refused.because
    assert fakes.kinds == ["registered", "registered"]


def test_an_approval_of_what_passed_does_not_settle_what_fails_now(fakes: Fakes) -> None:
    given = wanting(policy(data=Data("y", evaluate=EvaluateOn("labelled_window", min_rows=20))), 1)
    version = fakes.version("run1")
    say_yes(fakes, given, version)
    fakes.teach(version, 0.1)
    fakes.answered(version, 200, 290, hour=0)
    fakes.observations.ingest("churn")
    assert fakes.promote(given, version, "staging").status == "refused"


# --- reject ---------------------------------------------------------------------------------------------------------


def test_a_rejected_version_stays_out_and_frees_its_stage(fakes: Fakes) -> None:
    given, version = policy(), fakes.version("run1")
    fakes.promote(given, version, "staging")
    assert [c.target for c in plan_rejection(fakes.world, given, version)] == ["REJECTED"]
    assert fakes.places == {1: "staging"}
    entry = reject(fakes.world, given, version, EVE.actor, "wrong months")
    assert (entry.draft.kind.value, entry.draft.actor, entry.draft.reason) == (
        "rejected",
        EVE.actor,
        "wrong months",
    )
    assert fakes.places == {1: "REJECTED"}
    with pytest.raises(IllegalMove, match="rejected stays out"):
        fakes.promote(given, version, "staging", break_glass=True)
    with pytest.raises(IllegalMove, match="it is out already"):
        reject(fakes.world, given, version, EVE.actor, "again")


def test_what_is_live_or_kept_warm_is_not_rejected(fakes: Fakes) -> None:
    given = policy()
    first, second = fakes.live(given, "run1"), fakes.live(given, "run2")
    with pytest.raises(IllegalMove, match="it is live") as caught:
        reject(fakes.world, given, second, ADA, "no")
    assert "mlplatform rollback churn --stage production" in caught.value.next_step
    with pytest.raises(IllegalMove, match="kept warm"):
        reject(fakes.world, given, first, ADA, "no")
    assert fakes.places == {1: "STANDBY", 2: "production"}


# --- tags in MLflow -------------------------------------------------------------------------------------------------


def tagged(fakes: Fakes, number: int = 1, stage: str = "staging", reason: str = "seen in the UI") -> None:
    fakes.registry.tag(MODEL, number, stage, reason)


def answer(fakes: Fakes, given: Policy, number: int = 1, stage: str = "staging") -> str:
    project(fakes.world, given)
    return fakes.registry.cards[MODEL][number].tags[f"mlplatform.approval.{stage}"]


def taken_up(fakes: Fakes, given: Policy) -> list[str]:
    project(fakes.world, given)
    return [d.what for d in reconcile(fakes.world, given)]


def test_a_tag_is_taken_up_by_the_promotion_that_needs_it(fakes: Fakes) -> None:
    given, version = wanting(policy(), 1, unverified=True), fakes.version("run1")
    tagged(fakes)
    assert fakes.promote(given, version, "staging", dry_run=True).status == "done"
    assert "approved" not in fakes.kinds
    assert fakes.promote(given, version, "staging").status == "done"
    assert fakes.kinds == ["registered", "approved", "promoted"]
    entry = fakes.ledger.entries(MODEL)[1].draft
    assert (entry.actor, entry.reason) == (Actor("mlflow"), "seen in the UI")
    assert answer(fakes, given) == "counted: 1 of 1 approvals"


def test_a_tag_becomes_one_entry_however_often_it_is_looked_at(fakes: Fakes) -> None:
    given = wanting(policy(), 2, unverified=True)
    fakes.version("run1")
    tagged(fakes)
    assert taken_up(fakes, given) == ["a tag in MLflow approves version 1 for staging"]
    assert taken_up(fakes, given) == []
    assert differences(fakes.world, given) == []
    assert fakes.kinds == ["registered", "approved"]
    assert answer(fakes, given) == "counted: 1 of 2 approvals"


def test_two_tags_are_the_word_of_one_somebody(fakes: Fakes) -> None:
    given, version = wanting(policy(), 2, unverified=True), fakes.version("run1")
    for reason in ("good", "very good"):
        tagged(fakes, reason=reason)
        taken_up(fakes, given)
    assert fakes.kinds.count("approved") == 2
    waits(fakes, given, version, "1 of 2 approvals")


def test_where_the_policy_wants_verified_people_a_tag_is_answered_and_does_not_count(fakes: Fakes) -> None:
    given, version = wanting(policy(), 1), fakes.version("run1")
    tagged(fakes)
    assert void_before_taking_up(fakes.promote(given, version, "staging")) == 0
    taken_up(fakes, given)
    assert fakes.kinds[-1] == "approved"
    assert void(fakes, given, version) == "the approver is not verified"
    assert answer(fakes, given) == "void: the approver is not verified"


def void_before_taking_up(outcome: Outcome) -> int:
    assert outcome.status == "waiting"
    assert outcome.tally is not None
    return len(outcome.tally.void)


def test_the_answer_follows_what_the_approval_is_worth(fakes: Fakes) -> None:
    given = wanting(policy(), 2, unverified=True, expires="1d")
    fakes.version("run1")
    tagged(fakes)
    taken_up(fakes, given)
    assert answer(fakes, given) == "counted: 1 of 2 approvals"
    fakes.clock.advance(2 * 86400)
    fakes.version("run2")  # anything that happens writes the cards anew
    assert answer(fakes, given) == "void: it expired after 1d"


@pytest.mark.parametrize(
    ("stage", "reason", "told"),
    [
        ("prod", "yes", "void: There is no stage named 'prod'. Known: production, staging."),
        ("staging", " ", "void: write the reason as the tag's value"),
    ],
)
def test_a_tag_that_is_no_approval_is_told_so_once(fakes: Fakes, stage: str, reason: str, told: str) -> None:
    given = policy()
    fakes.version("run1")
    tagged(fakes, stage=stage, reason=reason)
    assert len(taken_up(fakes, given)) == 1
    assert taken_up(fakes, given) == []
    assert fakes.kinds == ["registered", "refused"]
    assert answer(fakes, given, stage=stage) == told


def test_a_tag_on_what_fails_is_void(fakes: Fakes) -> None:
    given = wanting(policy(), 1, unverified=True)
    fakes.version("run1", skill=0.5)
    tagged(fakes)
    taken_up(fakes, given)
    assert answer(fakes, given) == "void: the gates said FAIL, which no approval can settle"


def test_a_tag_waits_until_the_gates_can_look(fakes: Fakes) -> None:
    given, version = wanting(policy(), 1, unverified=True), fakes.version("run1", skill=None)
    tagged(fakes)
    project(fakes.world, given)
    [told] = reconcile(fakes.world, given)
    assert "could not be repaired" in told.repair
    assert fakes.kinds == ["registered"]
    fakes.teach(version, 1.0)
    taken_up(fakes, given)
    assert fakes.kinds == ["registered", "approved"]


def test_tags_of_versions_that_are_not_ours_are_left_alone(fakes: Fakes) -> None:
    given = policy()
    fakes.version("run1")
    fakes.registry.keys[MODEL][9] = "made by hand"
    tagged(fakes, number=9)
    taken_up(fakes, given)
    assert "approved" not in fakes.kinds


def test_without_mlflow_a_promotion_goes_by_the_ledger(fakes: Fakes) -> None:
    class Down:
        def __getattr__(self, name: str) -> Any:
            def fail(*arguments: object) -> None:
                raise MlflowUnreachable(uri="http://mlflow", cause="refused")

            return fail

    given, version = wanting(policy(), 1, unverified=True), fakes.version("run1")
    tagged(fakes)
    world, fakes.world = fakes.world, replace(fakes.world, registry=Down())  # type: ignore[arg-type]
    waits(fakes, given, version, "0 of 1 approval")
    assert any("do not count now" in line for line in fakes.said)
    approve(world, given, version, "staging", EVE, "fine")
    assert fakes.promote(given, version, "staging").status == "done"


def test_what_took_a_version_into_its_stage_is_shown_as_it_was(fakes: Fakes) -> None:
    given, version = wanting(policy(), 1), fakes.version("run1")
    say_yes(fakes, given, version)
    fakes.promote(given, version, "staging")
    fakes.clock.advance(40 * 86400)
    changed = staging(given, auto=False)
    project(fakes.world, changed)
    assert "**Approvals for staging: 1 of 1**" in fakes.registry.cards[MODEL][1].markdown
    assert "eve (risk)" in fakes.registry.cards[MODEL][1].markdown
