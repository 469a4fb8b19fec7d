"""A rollout in steps: shares and shadow as the ledger says, judges between, taken back at once, whole after a crash."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.counts import BUCKETS_S, Counted, Counts
from mlplatform.domain.history import spells
from mlplatform.domain.ledger import Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.rollout import Phase, Rollout
from mlplatform.domain.rollout_plan import RolloutPlan
from mlplatform.domain.use import Use
from mlplatform.domain.version import Version
from mlplatform.errors import Refused, RolloutRunning
from mlplatform.flows import live
from mlplatform.flows.approve import reject
from mlplatform.flows.deploy import serve_holder
from mlplatform.flows.promote import Wish, promote
from mlplatform.flows.reconcile import differences, recover
from mlplatform.flows.rollback import rollback
from mlplatform.flows.rollout import advance, follow, resume
from mlplatform.testing.clock import START
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy, rows

STEPS = ("shadow:10m", "10%:10m", "50%:10m", "100%")
ERRORS = Use("error_rate", {"at_most": 0.01, "min_requests": 10})


def rolling(*judges: Use, steps: tuple[str, ...] = STEPS, key: str = "") -> Policy:
    given = policy()
    plan = RolloutPlan(steps, key, judges or (ERRORS,))
    stage = replace(given.stage("production"), rollout=plan)
    return replace(given, stages={**given.stages, "production": stage})


def begun(fakes: Fakes, given: Policy, skill: float = 1.0) -> Rollout:
    """Version 1 live, version 2 in the first step of its rollout."""
    fakes.live(given, "run1")
    second = fakes.version("run2", skill)
    fakes.promote(given, second, "staging")
    fakes.promote(given, second, "production")
    [rollout] = fakes.world.deployments.active(MODEL)
    return rollout


def look(fakes: Fakes, given: Policy) -> Rollout:
    """What every tick does; the rollout then."""
    for rollout in fakes.world.deployments.active(MODEL):
        (advance if rollout.phase is Phase.PROBATION else follow)(fakes.world, given, rollout)
    return fakes.world.deployments.history(MODEL)[-1]


def answered(fakes: Fakes, arm: str, requests: int, failed: int = 0) -> None:
    durations = (requests,) + (0,) * len(BUCKETS_S)
    counts = Counts(requests - failed, failed, durations)
    fakes.documents.counters["churn"] = Counted({(MODEL, 2, arm): counts})


def refusing(fakes: Fakes, server: str = "", **arms: Counts) -> None:
    """What the server says of version 2's arms, and of version 1 (`incumbent`)."""
    counted = {(MODEL, 1 if arm == "incumbent" else 2, arm): counts for arm, counts in arms.items()}
    fakes.documents.counters["churn"] = Counted(counted, server=server)


def told(fakes: Fakes) -> dict[int, tuple[str, float]]:
    """Versions in the server's document that do something, with arm and share."""
    routes = fakes.documents.routes("churn")
    assert routes
    active = [*routes.routes, *(r for r in routes.standby if r.arm == "shadow")]
    return {r.version: (r.arm, r.share) for r in active}


def through(fakes: Fakes, given: Policy) -> Rollout:
    answered(fakes, "canary", 100)
    for _ in STEPS[:-1]:
        fakes.clock.advance(600)
        rollout = look(fakes, given)
    return rollout


# --- steps ----------------------------------------------------------------------------------------------------------


def test_each_step_is_told_and_recorded_and_the_stage_changes_hands_at_the_end(fakes: Fakes) -> None:
    given = rolling(key="customer")
    given = replace(given, data=replace(given.data, context=("customer",)))
    begun(fakes, given)
    assert told(fakes) == {1: ("live", 1.0), 2: ("shadow", 0.0)}
    assert fakes.places == {1: "production", 2: "staging"}
    answered(fakes, "shadow", 100)
    fakes.clock.advance(600)
    look(fakes, given)
    assert told(fakes) == {1: ("live", 0.9), 2: ("canary", 0.1)}
    assert {r.key for r in fakes.documents.published[-1].routes} == {"customer"}
    fakes.clock.advance(600)
    look(fakes, given)
    assert told(fakes) == {1: ("live", 0.5), 2: ("canary", 0.5)}
    fakes.clock.advance(600)
    assert look(fakes, given).phase is Phase.PROBATION
    assert told(fakes) == {2: ("live", 1.0)}
    assert fakes.places == {1: "STANDBY", 2: "production"}
    found = [(s.version, s.share) for s in spells(fakes.ledger.entries(MODEL)) if s.stage == "production"]
    assert found == [(1, 1.0), (1, 0.9), (2, 0.1), (1, 0.5), (2, 0.5), (2, 1.0)]


def test_the_judges_findings_are_the_evidence_of_a_step(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    answered(fakes, "shadow", 100)
    fakes.clock.advance(600)
    look(fakes, given)
    entry = fakes.ledger.entries(MODEL)[-1]
    assert (entry.draft.kind, entry.draft.data["share"]) == (Kind.TRAFFIC_SHIFTED, 0.1)
    assert entry.draft.data["findings"][0]["because"] == "0 of 100 requests failed, 1.0% may"


def test_without_an_incumbent_there_is_nothing_to_roll_out_beside(fakes: Fakes) -> None:
    fakes.live(rolling(), "run1")
    assert told(fakes) == {1: ("live", 1.0)}


def test_a_step_bakes_before_the_next(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    answered(fakes, "shadow", 100)
    fakes.clock.advance(599)
    rollout = look(fakes, given)
    assert told(fakes)[2] == ("shadow", 0.0)
    assert rollout.because.startswith("shadow until ") and rollout.because.endswith(", then 10 %")
    assert look(fakes, given) == rollout, "nothing new is no step"


def test_too_few_requests_pause_and_say_how_many_more(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    answered(fakes, "shadow", 7)
    fakes.clock.advance(6000)
    assert look(fakes, given).because == "shadow waits: error_rate: 7 of 10 requests, 3 more to go"
    assert told(fakes)[2] == ("shadow", 0.0)


def test_what_was_counted_before_the_rollout_is_not_held_against_it(fakes: Fakes) -> None:
    given = rolling()
    answered(fakes, "canary", 50, failed=50)
    begun(fakes, given)
    fakes.clock.advance(600)
    assert "0 of 10 requests" in look(fakes, given).because


def test_a_policy_that_was_shortened_meanwhile_ends_sooner(fakes: Fakes) -> None:
    begun(fakes, rolling())
    shorter = rolling(steps=("shadow:10m", "100%"))
    answered(fakes, "shadow", 100)
    fakes.clock.advance(600)
    assert look(fakes, shorter).phase is Phase.PROBATION


# --- taken back -----------------------------------------------------------------------------------------------------


def test_a_version_that_fails_is_taken_back_before_its_step_is_over(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    answered(fakes, "shadow", 20, failed=15)
    rollout = look(fakes, given)
    assert rollout.phase is Phase.FAILED
    assert rollout.because == "taken back at shadow: error_rate: 15 of 20 requests failed, 1.0% may"
    assert told(fakes) == {1: ("live", 1.0)}
    assert fakes.places == {1: "production", 2: "staging"}
    assert fakes.kinds[-1] == "rollout_failed"


def test_a_rollback_in_the_middle_takes_the_newcomer_back_and_nothing_else(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    through(fakes, given)
    third = fakes.version("run3")
    fakes.promote(given, third, "staging")
    fakes.promote(given, third, "production")
    assert told(fakes)[3] == ("shadow", 0.0)
    entry = rollback(fakes.world, given, "production", ADA, "I do not like it")
    assert (entry.draft.kind, entry.draft.version, entry.draft.changes) == (Kind.ROLLOUT_FAILED, 3, ())
    assert told(fakes) == {2: ("live", 1.0)}
    assert fakes.warm() == [1], "the one before the incumbent stays warm: the incumbent is on probation"
    assert fakes.places == {1: "STANDBY", 2: "production", 3: "staging"}
    phases = [r.phase for r in fakes.world.deployments.history(MODEL)]
    assert phases == [Phase.DONE, Phase.PROBATION, Phase.FAILED]
    assert fakes.world.intents.left() == []


def test_a_rollback_to_an_earlier_version_ends_the_rollout_too(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    through(fakes, given)
    third = fakes.version("run3")
    fakes.promote(given, third, "staging")
    fakes.promote(given, third, "production")
    rollback(fakes.world, given, "production", ADA, "both are bad", to=1)
    assert told(fakes) == {1: ("live", 1.0)}
    assert fakes.world.deployments.active(MODEL) == []


def test_a_version_that_was_taken_back_may_be_tried_again(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    answered(fakes, "shadow", 20, failed=15)
    look(fakes, given)
    fakes.promote(given, fakes.ledger.versions(MODEL)[1], "production")
    fakes.clock.advance(600)
    assert "0 of 10 requests" in look(fakes, given).because


def test_when_probation_of_the_incumbent_ends_the_newcomer_keeps_its_share(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    through(fakes, given)
    third = fakes.version("run3")
    fakes.promote(given, third, "staging")
    fakes.promote(given, third, "production")
    fakes.clock.advance(86400)
    look(fakes, given)
    assert fakes.places == {1: "RETIRED", 2: "production", 3: "staging"}
    assert told(fakes) == {2: ("live", 1.0), 3: ("shadow", 0.0)}


REFUSALS = Use("refusals", {"min_requests": 50})


def test_a_shadow_that_refuses_what_the_live_one_answered_is_taken_back(fakes: Fakes) -> None:
    begun(fakes, given := rolling(REFUSALS))
    refusing(fakes, shadow=Counts(60, refused=20), incumbent=Counts(80))
    assert look(fakes, given).because == (
        "taken back at shadow: refusals: refused 20 of 80 requests that churn@1 had answered; 1.0% more may be"
    )


def test_a_version_that_refuses_more_than_its_incumbent_is_taken_back(fakes: Fakes) -> None:
    begun(fakes, given := rolling(REFUSALS, steps=STEPS[1:]))
    refusing(fakes, canary=Counts(60, refused=20), incumbent=Counts(700, refused=10))
    assert look(fakes, given).because == (
        "taken back at 10 %: refusals: refused 20 of 80 requests, churn@1 10 of 710; 1.0% more may be"
    )


def test_refusals_are_compared_within_each_step(fakes: Fakes) -> None:
    """Clients that begin to send nonsense as the share grows: pooled, the newcomer refuses twice as much."""
    begun(fakes, given := rolling(REFUSALS, steps=STEPS[1:]))
    refusing(fakes, canary=Counts(100), incumbent=Counts(900))
    fakes.clock.advance(600)
    look(fakes, given)
    assert told(fakes)[2] == ("canary", 0.5)
    refusing(fakes, canary=Counts(450, refused=150), incumbent=Counts(1250, refused=150))
    fakes.clock.advance(600)
    assert look(fakes, given).phase is Phase.PROBATION


def test_a_server_that_was_started_again_counts_anew(fakes: Fakes) -> None:
    """Its incumbent has passed the old number of answers already; the newcomer has not."""
    refusing(fakes, "first", incumbent=Counts(900, refused=300))
    begun(fakes, given := rolling(REFUSALS, steps=STEPS[1:]))
    refusing(fakes, "second", canary=Counts(75, refused=25), incumbent=Counts(950, refused=310))
    [split] = facts_of(fakes, given).splits
    assert (split.mine, split.theirs) == (Counts(75, refused=25), Counts(950, refused=310))


# --- others -----------------------------------------------------------------------------------------------------------


def test_a_second_version_has_to_wait(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    third = fakes.version("run3")
    wish = Wish(third, "staging", ADA, "because")
    with pytest.raises(RolloutRunning, match="churn@2 is being rolled out into production"):
        promote(fakes.world, given, wish)  # it would push version 2 out of staging
    with pytest.raises(RolloutRunning):
        promote(fakes.world, given, replace(wish, stage="production", dry_run=True))


def test_a_version_on_its_way_cannot_be_rejected(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    with pytest.raises(Refused, match="is being rolled out into production"):
        reject(fakes.world, given, fakes.ledger.versions(MODEL)[1], ADA, "no")


def test_deploy_and_reconcile_leave_a_running_rollout_as_it_is(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    answered(fakes, "shadow", 100)
    fakes.clock.advance(600)
    look(fakes, given)
    assert recover(fakes.world, given) == 0
    assert [d for d in differences(fakes.world, given) if "MLflow" not in d.what] == []
    serve_holder(fakes.world, given, "production", start=True)
    assert told(fakes) == {1: ("live", 0.9), 2: ("canary", 0.1)}


# --- after a crash ----------------------------------------------------------------------------------------------------


def test_a_share_that_no_entry_says_is_set_back(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    before = fakes.documents.routes("churn")
    assert before
    ahead = replace(before, routes=(replace(before.routes[0], version=2, share=0.5), before.routes[0]))
    fakes.documents.publish(replace(ahead, standby=()))
    resume(fakes.world, given)
    assert told(fakes) == {1: ("live", 1.0), 2: ("shadow", 0.0)}


def test_what_was_being_taken_back_stays_back(fakes: Fakes) -> None:
    given = rolling()
    begun(fakes, given)
    serve_holder(fakes.world, given, "production", alone=True)
    resume(fakes.world, given)
    assert told(fakes) == {1: ("live", 1.0)}
    assert fakes.world.deployments.active(MODEL) == []
    assert fakes.kinds[-1] == "rollout_failed"


# --- what judges are shown ------------------------------------------------------------------------------------------


def capture(
    fakes: Fakes, version: Version, arm: str, answers: Any, first: int = 0, minute: int = 1
) -> list[str]:
    """Rows that a version answered; a shadow's have the ids of the live ones."""
    count = len(answers)
    begin = np.datetime64(START.replace(tzinfo=None), "us").astype(np.int64)
    columns, _ = rows(first, first + count)
    requests = [f"{n:012d}" for n in range(first, first + count)]
    block = {
        "request": np.array(requests, "S12"),
        "row": np.zeros(count, np.int32),
        "time_us": begin + minute * 60_000_000 + np.arange(count),
        "version": np.full(count, version.number, np.int32),
        "model": np.full(count, MODEL),
        "arm": np.full(count, arm),
        "in:x": columns["x"],
        "prediction": np.asarray(answers),
    }
    fakes.observations.capture("churn", block)
    return [f"{request}/0" for request in requests]


def facts_of(fakes: Fakes, given: Policy) -> live.LiveFacts:
    [rollout] = fakes.world.deployments.active(MODEL)
    at = live.baking(fakes.world, given, rollout)
    assert at
    needs: Any = frozenset({"counts", "outputs", "pairs", "labels"})
    return live.Gathering(fakes.world, given, rollout, at).facts(needs, 0.01)


def test_both_answers_to_the_same_rows_are_paired_by_their_ids(fakes: Fakes) -> None:
    given = rolling(Use("disagreement", {"min_rows": 20}))
    begun(fakes, given)
    first, second = fakes.ledger.versions(MODEL)
    capture(fakes, first, "live", [0, 1] * 30)
    capture(fakes, second, "shadow", [1, 0] * 20, first=10)
    facts = facts_of(fakes, given)
    assert len(facts.pairs) == len(facts.incumbent_pairs) == 40
    assert (facts.pairs != facts.incumbent_pairs).all()
    assert "100.0% of 40 rows answered otherwise than by churn@1" in look(fakes, given).because


def test_a_shadows_answers_are_no_answers_to_anybody_else(fakes: Fakes) -> None:
    begun(fakes, rolling())
    first, second = fakes.ledger.versions(MODEL)
    capture(fakes, first, "live", [0, 1] * 5)
    capture(fakes, second, "shadow", [1, 0] * 5)
    fakes.observations.ingest("churn")
    assert set(fakes.observations.read("churn").versions) == {1}
    assert set(fakes.observations.read("churn", shadow=True).versions) == {2}


def test_labels_judge_shadow_and_canary_on_the_same_rows_as_the_incumbent(fakes: Fakes) -> None:
    given = rolling(Use("quality", {"min_labels": 20}))
    begun(fakes, given)
    first, second = fakes.ledger.versions(MODEL)
    _, truth = rows(0, 60)
    ids = capture(fakes, first, "live", truth)
    capture(fakes, second, "shadow", 1 - truth[:20])
    fakes.observations.post("churn", ids, truth.tolist())
    facts = facts_of(fakes, given)
    assert (facts.losses.sum(), facts.incumbent_losses.sum(), len(facts.losses)) == (20, 0, 20)
    assert look(fakes, given).phase is Phase.FAILED


def test_a_judge_that_cannot_look_pauses(fakes: Fakes) -> None:
    given = rolling(Use("quality", {"min_labels": 20}))
    begun(fakes, given)
    first, second = fakes.ledger.versions(MODEL)
    _, truth = rows(0, 30)
    fakes.observations.post("churn", capture(fakes, second, "canary", truth), truth.tolist())
    fakes.evaluator.models.pop(fakes.bundles.path(first.digest), None)
    fakes.clock.advance(600)
    assert "cannot be judged: quality:" in look(fakes, given).because
