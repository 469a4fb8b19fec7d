from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from math import isnan

import pytest

from mlplatform.domain.rollout import Phase, Rollout
from mlplatform.domain.verdict import Evaluation, Measurement
from mlplatform.domain.watch import Action, Decision, Signal, State, Window
from mlplatform.errors import Conflict, LeaseHeld, LeaseLost, UnknownName
from mlplatform.ports.state import Firing, Intent, RetrainingRecord, Schedule
from mlplatform.testing.clock import START

HOUR = timedelta(hours=1)
TINY = timedelta(microseconds=1)


# --- evaluations --------------------------------------------------------------------------------------------


def evaluation(id, bundle="b", data="d", at=START):
    measurements = (
        Measurement("auc", 0.8123456789012345, 0.7, 0.9, 100),
        Measurement("size", 3.0, unit="MB"),
    )
    return Evaluation(id, bundle, data, 100, measurements, "/x.npz", at, {"slices": {"a": [1, 2.5]}})


def test_saved_evaluation_is_found_by_its_digests_and_its_id(state):
    state.evaluations.save(evaluation("e1"))
    assert state.evaluations.find("b", "d") == evaluation("e1")
    assert state.evaluations.get("e1") == evaluation("e1")
    assert state.evaluations.find("b", "other") is None
    assert state.evaluations.find("other", "d") is None
    assert state.evaluations.get("e2") is None
    assert state.evaluations.latest("other") is None


def test_the_newest_evaluation_counts_and_of_two_at_once_the_later_saved(state):
    state.evaluations.save(evaluation("z", at=START))
    state.evaluations.save(evaluation("y", data="d2", at=START + TINY))
    state.evaluations.save(evaluation("a", at=START))
    assert state.evaluations.find("b", "d").id == "a"
    assert state.evaluations.latest("b").id == "y"


def test_the_history_of_a_bundle_is_its_evaluations_oldest_first(state):
    for name, data, at in (("z", "d", START), ("y", "d2", START + TINY), ("a", "d3", START)):
        state.evaluations.save(evaluation(name, data=data, at=at))
    state.evaluations.save(evaluation("other", bundle="b2"))
    assert [e.id for e in state.evaluations.history("b")] == ["z", "a", "y"]
    assert state.evaluations.history("nobody") == []


def test_saving_an_evaluation_again_replaces_it(state):
    state.evaluations.save(evaluation("e1"))
    state.evaluations.save(replace(evaluation("e1"), rows=7))
    assert state.evaluations.get("e1").rows == 7


# --- deployments --------------------------------------------------------------------------------------------


def rollout(id, endpoint="churn", model="churn", phase=Phase.OPENED, at=START):
    return Rollout(id, model, 2, "production", endpoint, 1, phase, at, "os:ada", "better")


def test_opened_rollout_is_active_and_has_a_fence(state):
    opened = state.deployments.open(rollout("r1"))
    assert opened == replace(rollout("r1"), fence=opened.fence)
    assert state.deployments.active() == state.deployments.active("churn") == [opened]
    assert state.deployments.active("fraud") == []


def test_opening_the_same_rollout_again_returns_what_is_there(state):
    opened = state.deployments.open(rollout("r1"))
    stepped = state.deployments.save(opened.now_in(Phase.SHIFTED))
    assert state.deployments.open(rollout("r1")) == stepped


def test_every_saved_step_has_a_larger_fence(state):
    opened = state.deployments.open(rollout("r1"))
    shifted = state.deployments.save(opened.now_in(Phase.SHIFTED, "100 %"))
    assert shifted.fence > opened.fence
    since = START + TINY
    on_probation = state.deployments.save(replace(shifted, phase=Phase.PROBATION, probation_since=since))
    assert state.deployments.active() == [on_probation]
    assert on_probation.probation_since == since
    done = state.deployments.save(on_probation.now_in(Phase.DONE))
    assert state.deployments.active() == []
    assert state.deployments.history("churn") == [done]


def test_step_taken_with_an_old_fence_is_a_conflict_and_changes_nothing(state):
    opened = state.deployments.open(rollout("r1"))
    shifted = state.deployments.save(opened.now_in(Phase.SHIFTED))
    with pytest.raises(Conflict):
        state.deployments.save(opened.now_in(Phase.FAILED))
    assert state.deployments.history("churn") == [shifted]


def test_step_of_a_rollout_that_was_never_opened_is_a_conflict(state):
    with pytest.raises(Conflict):
        state.deployments.save(rollout("r9"))


@pytest.mark.parametrize("phase", [Phase.OPENED, Phase.SHIFTED])
def test_endpoint_that_is_moving_traffic_takes_no_second_rollout(state, phase):
    state.deployments.save(state.deployments.open(rollout("r1")).now_in(phase))
    with pytest.raises(Conflict, match="endpoint churn is busy"):
        state.deployments.open(rollout("r2", model="other"))
    assert state.deployments.open(rollout("r3", endpoint="fraud")).endpoint == "fraud"


@pytest.mark.parametrize("phase", [Phase.PROBATION, Phase.DONE, Phase.FAILED])
def test_endpoint_that_moves_no_traffic_takes_the_next_rollout(state, phase):
    state.deployments.save(state.deployments.open(rollout("r1")).now_in(phase))
    assert state.deployments.open(rollout("r2", at=START + HOUR)).id == "r2"
    assert [r.id for r in state.deployments.history("churn")] == ["r1", "r2"]


def test_rollout_cannot_go_back_to_moving_traffic_beside_another(state):
    first = state.deployments.save(state.deployments.open(rollout("r1")).now_in(Phase.PROBATION))
    state.deployments.open(rollout("r2"))
    with pytest.raises(Conflict, match="busy"):
        state.deployments.save(first.now_in(Phase.SHIFTED))


# --- windows and retrainings --------------------------------------------------------------------------------


def window(start=START, endpoint="churn", **more):
    signal = Signal(
        "drift", State.ALARM, "x moved", True, (Measurement("psi", 0.3, n=5),), {"columns": {"x": 0.3}}
    )
    return Window("churn", endpoint, start, start + HOUR, 1, 100, 5, (signal,), **more)


def test_window_and_decision_come_back_as_they_were(state):
    decision = Decision(Action.RETRAIN, "three alarms", START + HOUR + TINY)
    state.windows.save(window(), decision)
    assert state.windows.recent("churn", 10) == [(window(), decision)]
    assert state.windows.recent("fraud", 10) == []


def test_recent_windows_are_the_newest_and_the_newest_is_last(state):
    decision = Decision(Action.KEEP, "calm", START)
    for hours in (3, 1, 2):
        state.windows.save(window(START + hours * HOUR), decision)
    starts = [w.start for w, _ in state.windows.recent("churn", 2)]
    assert starts == [START + 2 * HOUR, START + 3 * HOUR]
    assert state.windows.recent("churn", 0) == []


def test_window_with_late_labels_replaces_the_first_reading(state):
    state.windows.save(window(), Decision(Action.KEEP, "calm", START))
    late = replace(window(), labelled=90, end=START + 2 * HOUR)
    state.windows.save(late, Decision(Action.ALERT, "worse", START))
    ((kept, decision),) = state.windows.recent("churn", 10)
    assert (kept, decision.action) == (late, Action.ALERT)


def test_windows_of_two_endpoints_at_the_same_time_are_both_kept(state):
    for endpoint in ("b", "a"):
        state.windows.save(window(endpoint=endpoint), Decision(Action.KEEP, "", START))
    assert [w.endpoint for w, _ in state.windows.recent("churn", 10)] == ["a", "b"]


def test_metric_may_say_that_its_number_is_unknown(state):
    signal = Signal("quality", State.UNKNOWN, "no labels", measurements=(Measurement("auc", float("nan")),))
    state.windows.save(replace(window(), signals=(signal,)), Decision(Action.KEEP, "", START))
    ((kept, _),) = state.windows.recent("churn", 1)
    assert isnan(kept.signals[0].measurements[0].value)


def test_retrainings_are_kept_oldest_first_and_saving_one_again_replaces_it(state):
    first = RetrainingRecord("b", "churn", START, "manual", "started")
    second = RetrainingRecord("a", "churn", START, "trigger:x", "refused: cooldown")
    third = RetrainingRecord("c", "churn", START - TINY, "manual", "started")
    for record in (first, second, third, RetrainingRecord("d", "fraud", START, "manual", "started")):
        state.retrainings.save(record)
    ended = replace(first, outcome="went live", run_id="r", version=3)
    state.retrainings.save(ended)
    assert state.retrainings.history("churn") == [third, ended, second]


# --- leases -------------------------------------------------------------------------------------------------


def test_held_lease_is_refused_and_the_holder_is_named(state):
    state.leases.acquire("retrain:churn", "one", 60)
    with pytest.raises(LeaseHeld) as caught:
        state.leases.acquire("retrain:churn", "two", 60)
    assert caught.value.facts["owner"] == "one"
    with pytest.raises(LeaseHeld):
        state.leases.acquire("retrain:churn", "one", 60)


def test_leases_of_other_names_do_not_matter(state):
    state.leases.acquire("a", "one", 60)
    assert state.leases.acquire("b", "two", 60).owner == "two"


def test_fence_grows_with_every_holder_after_release_and_after_expiry(state):
    first = state.leases.acquire("a", "one", 60)
    state.leases.release(first)
    second = state.leases.acquire("a", "one", 60)
    state.clock.advance(60)
    third = state.leases.acquire("a", "two", 60)
    assert first.fence < second.fence < third.fence
    assert third.until == state.clock.now() + timedelta(seconds=60)


def test_renewed_lease_lasts_longer(state):
    lease = state.leases.acquire("a", "one", 60)
    state.clock.advance(59)
    renewed = state.leases.renew(lease, 60)
    state.clock.advance(59)
    assert renewed.fence == lease.fence
    with pytest.raises(LeaseHeld):
        state.leases.acquire("a", "two", 60)


def test_expired_lease_that_nobody_took_can_be_renewed(state):
    lease = state.leases.acquire("a", "one", 60)
    state.clock.advance(61)
    assert state.leases.renew(lease, 60).until == state.clock.now() + timedelta(seconds=60)


def test_lease_that_was_taken_over_is_lost_and_releasing_it_disturbs_nobody(state):
    stale = state.leases.acquire("a", "one", 60)
    state.clock.advance(61)
    state.leases.acquire("a", "one", 60)
    with pytest.raises(LeaseLost):
        state.leases.renew(stale, 60)
    state.leases.release(stale)
    with pytest.raises(LeaseHeld):
        state.leases.acquire("a", "three", 60)


def test_released_lease_is_lost_to_its_old_holder(state):
    lease = state.leases.acquire("a", "one", 60)
    state.leases.release(lease)
    state.leases.release(lease)
    with pytest.raises(LeaseLost):
        state.leases.renew(lease, 60)


def test_lease_of_a_dead_holder_can_be_seized_before_it_expires(state):
    stale = state.leases.acquire("a", "dead", 60)
    seized = state.leases.seize("a", "new", "dead", 60)
    assert (seized.owner, seized.until) == ("new", state.clock.now() + timedelta(seconds=60))
    assert seized.fence > stale.fence
    with pytest.raises(LeaseLost):
        state.leases.renew(stale, 60)


def test_of_two_that_seize_a_lease_the_second_learns_who_was_faster(state):
    state.leases.acquire("a", "dead", 60)
    state.leases.seize("a", "one", "dead", 60)
    with pytest.raises(LeaseHeld) as caught:
        state.leases.seize("a", "two", "dead", 60)
    assert caught.value.facts["owner"] == "one"


def test_holder_is_told_until_the_lease_is_given_back(state):
    assert state.leases.holder("a") is None
    lease = state.leases.acquire("a", "one", 10)
    assert state.leases.holder("a") == lease
    state.clock.advance(20)
    assert state.leases.holder("a") == lease
    state.leases.release(lease)
    assert state.leases.holder("a") is None


def test_lease_that_nobody_holds_cannot_be_seized(state):
    with pytest.raises(LeaseHeld):
        state.leases.seize("a", "one", "dead", 60)
    state.leases.release(state.leases.acquire("a", "dead", 60))
    with pytest.raises(LeaseHeld):
        state.leases.seize("a", "one", "dead", 60)


def test_clock_put_back_does_not_lock_a_released_lease(state):
    state.leases.release(state.leases.acquire("a", "one", 60))
    state.clock.advance(-3600)
    assert state.leases.acquire("a", "two", 60).owner == "two"


# --- intents ------------------------------------------------------------------------------------------------


def intent(key, at=START, payload=None):
    return Intent(
        key, "rollback", "churn", payload or {"stage": "production", "to": 3, "deep": [1, {"a": None}]}, at
    )


def test_open_intents_are_left_oldest_first(state):
    for one in (intent("b"), intent("a"), intent("c", START - TINY)):
        state.intents.open(one)
    assert [i.key for i in state.intents.left()] == ["c", "b", "a"]
    assert state.intents.left()[1] == intent("b")


def test_closed_intent_is_gone_and_closing_it_again_is_harmless(state):
    state.intents.open(intent("a"))
    state.intents.close("a")
    state.intents.close("a")
    assert state.intents.left() == []


def test_opening_an_intent_again_keeps_one_with_the_newer_payload(state):
    state.intents.open(intent("a"))
    state.intents.open(intent("a", payload={"to": 4}))
    assert state.intents.left() == [intent("a", payload={"to": 4})]


# --- schedules ----------------------------------------------------------------------------------------------


def schedule(name, cron="0 3 * * MON"):
    return Schedule(name, "retrain", "churn", cron, "Europe/Berlin", START + TINY)


def test_schedules_are_kept_by_name_and_saving_one_again_replaces_it(state):
    state.schedules.save(schedule("nightly"))
    state.schedules.save(schedule("hourly"))
    state.schedules.save(schedule("nightly", "0 4 * * *"))
    assert state.schedules.all() == [schedule("hourly"), schedule("nightly", "0 4 * * *")]


def test_removed_schedule_is_gone_and_an_unknown_one_is_named(state):
    state.schedules.save(schedule("nightly"))
    state.schedules.claim("nightly", START, "one")
    with pytest.raises(UnknownName, match="nightl'"):
        state.schedules.remove("nightl")
    state.schedules.remove("nightly")
    assert state.schedules.all() == []
    assert len(state.schedules.firings("nightly")) == 1


def test_one_runner_gets_each_firing(state):
    assert state.schedules.claim("nightly", START, "one") is True
    assert state.schedules.claim("nightly", START, "two") is False
    assert state.schedules.claim("nightly", START, "one") is False
    assert state.schedules.claim("nightly", START + HOUR, "two") is True
    assert state.schedules.claim("hourly", START, "two") is True


def test_firing_is_unfinished_until_its_outcome_is_kept_and_the_first_outcome_stays(state):
    state.clock.advance(1)
    state.schedules.claim("nightly", START, "one")
    started = Firing("nightly", START, "one", START + timedelta(seconds=1))
    assert state.schedules.firings(unfinished=True) == [started]
    state.clock.advance(1)
    state.schedules.finish("nightly", START, "done")
    state.schedules.finish("nightly", START, "failed: the runner died")
    ended = replace(started, finished_at=START + timedelta(seconds=2), outcome="done")
    assert state.schedules.firings("nightly") == [ended]
    assert state.schedules.firings(unfinished=True) == []


def test_firings_are_listed_by_due_time(state):
    for name, due in (("b", START + HOUR), ("b", START), ("a", START)):
        state.schedules.claim(name, due, "one")
    assert [(f.schedule, f.due_at) for f in state.schedules.firings()] == [
        ("a", START),
        ("b", START),
        ("b", START + HOUR),
    ]
    assert len(state.schedules.firings("b")) == 2
