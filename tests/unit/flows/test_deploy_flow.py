from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlplatform.domain.counts import Counted, Counts
from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.ladder import RETIRED, Change
from mlplatform.domain.ledger import Draft, Kind
from mlplatform.domain.rollout import Next, Phase, Rollout, Step
from mlplatform.domain.routes import Route, Routes
from mlplatform.errors import ChangedBytes, IllegalMove, Refused, ServerDidNotFollow, UnknownName
from mlplatform.flows.deploy import publish, start_server
from mlplatform.flows.plan import deployment
from mlplatform.flows.probation import next_step
from mlplatform.flows.promote import Wish, promote
from mlplatform.flows.reconcile import differences
from mlplatform.flows.rollback import finish_rollback, plan_rollback, rollback
from mlplatform.flows.rollout import advance, resume
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy


def two_live(fakes: Fakes) -> None:
    """Version 2 on probation in production, 1 kept warm."""
    given = policy()
    fakes.live(given, "run1")
    fakes.live(given, "run2")
    assert fakes.places == {1: "STANDBY", 2: "production"}


# --- rollouts -------------------------------------------------------------------------------------------------------


def test_the_first_version_of_an_endpoint_is_served_and_has_nothing_to_fall_back_on(fakes: Fakes) -> None:
    fakes.live(policy(), "run1")
    assert (fakes.served, fakes.warm()) == ([1], [])
    assert fakes.world.deployments.active(MODEL) == []
    assert fakes.kinds == ["registered", "promoted", "rollout_opened", "traffic_shifted", "promoted"]


def test_a_successor_is_loaded_beside_the_incumbent_before_it_gets_traffic(fakes: Fakes) -> None:
    two_live(fakes)
    told = [
        ([r.version for r in d.routes], [r.version for r in d.standby]) for d in fakes.documents.published
    ]
    assert told == [([], [1]), ([1], []), ([1], [2]), ([2], [1])]
    [rollout] = fakes.world.deployments.active(MODEL)
    assert (rollout.phase, rollout.previous) == (Phase.PROBATION, 1)


def test_other_models_of_the_endpoint_are_left_alone(fakes: Fakes) -> None:
    fraud = Routes("churn", 0, (Route("fraud", 7, "d7", "elsewhere"),), memory_mb=70)
    fakes.documents.publish(fraud, "fraud")
    two_live(fakes)
    routes = fakes.documents.routes("churn")
    assert routes
    assert [(r.model, r.version) for r in routes.routes] == [("fraud", 7), (MODEL, 2)]
    rollback(fakes.world, policy(), "production", ADA, "worse")
    publish(fakes.world, policy(), "production", None)
    routes = fakes.documents.routes("churn")
    assert routes
    assert (routes.models, routes.withdrawn) == (("fraud",), (MODEL,))
    assert [d for d in differences(fakes.world, policy()) if "endpoint" in d.what] == []


def test_who_joins_one_other_model_is_told_what_becomes_of_its_clients(fakes: Fakes) -> None:
    given, version = policy(), fakes.version("run1")
    fakes.promote(given, version, "staging")
    ask = f"ask /models/fraud/invocations and /models/{MODEL}/invocations"

    def told() -> list[str]:
        found = [line for line in fakes.said if ask in line]
        fakes.said.clear()
        return found

    promote(fakes.world, given, Wish(version, "production", ADA, "first", dry_run=True))
    assert told() == [], "it has the endpoint to itself"
    fakes.documents.publish(Routes("churn", 0, (Route("fraud", 7, "d7", "elsewhere"),)), "fraud")
    promote(fakes.world, given, Wish(version, "production", ADA, "first", dry_run=True))
    assert len(told()) == 1
    fakes.promote(given, version, "production")
    assert len(told()) == 1
    deployment(fakes.world, given, None)
    start_server(fakes.world, given, "production")
    publish(fakes.world, given, "production", version)
    assert told() == [], "both answer there already"
    publish(fakes.world, given, "production", None)
    assert told() == [], "it leaves"
    deployment(fakes.world, given, None)
    assert len(told()) == 1


def test_options_of_the_endpoint_reach_the_server(fakes: Fakes) -> None:
    given = policy()
    endpoint = Endpoint("churn", memory_mb=90, max_waiting_per_model=12)
    stages = {**given.stages, "production": replace(given.stage("production"), endpoint=endpoint)}
    fakes.live(replace(given, stages=stages), "run1")
    routes = fakes.documents.routes("churn")
    assert routes
    assert (routes.memory_mb, routes.routes[0].max_waiting) == (90, 12)


def test_other_settings_are_told_and_reach_a_server_that_runs(fakes: Fakes) -> None:
    given = policy()
    fakes.live(given, "run1")
    wider = replace(given.stage("production"), endpoint=Endpoint("churn", workers=3))
    changed = replace(given, stages={**given.stages, "production": wider})
    assert [c.name for c in deployment(fakes.world, changed, None).changes] == ["workers"]
    [found] = [d for d in differences(fakes.world, changed) if "otherwise" in d.what]
    assert found.what == "the server of endpoint churn runs otherwise than its policy says: workers 1 -> 3"
    fakes.said.clear()
    start_server(fakes.world, changed, "production")
    assert fakes.said == ["the server of endpoint churn is told other settings: workers 1 -> 3"]
    assert fakes.target.started[-1].workers == 3
    assert deployment(fakes.world, changed, None).changes == ()


def test_a_server_that_goes_on_demanding_more_than_its_policy_is_told(fakes: Fakes) -> None:
    given = policy()
    guarded = replace(given.stage("production"), endpoint=Endpoint("churn", auth=True))
    fakes.live(replace(given, stages={**given.stages, "production": guarded}), "run1")
    fakes.said.clear()
    assert start_server(fakes.world, given, "production").auth
    [told] = fakes.said
    assert "demands more than its policy (tokens) and goes on so" in told


def test_a_version_that_the_server_refuses_leaves_stage_and_traffic_where_they_were(fakes: Fakes) -> None:
    given = policy()
    fakes.live(given, "run1")
    version = fakes.version("run2")
    fakes.promote(given, version, "staging")
    outcome = promote(fakes.world, given, Wish(version, "production", ADA, "because"))
    assert outcome.rollout
    fakes.documents.refuses = "it does not load"
    failed = advance(fakes.world, given, outcome.rollout)
    assert failed.phase is Phase.FAILED
    assert "it does not load" in failed.because
    assert "could not be put back" in failed.because
    assert fakes.places == {1: "production", 2: "staging"}
    assert fakes.served == [1]
    assert fakes.kinds[-1] == "rollout_failed"


def test_a_stage_that_somebody_else_took_meanwhile_is_left_to_them(fakes: Fakes) -> None:
    given = policy()
    fakes.live(given, "run1")
    version = fakes.version("run2")
    fakes.promote(given, version, "staging")
    outcome = promote(fakes.world, given, Wish(version, "production", ADA, "because"))
    assert outcome.rollout
    shifted = advance(fakes.world, given, outcome.rollout)
    fakes.ledger.append(Draft(MODEL, Kind.RETIRED, 2, ADA, "gone", (Change(2, "staging", RETIRED),)))
    with pytest.raises(Refused):
        advance(fakes.world, given, shifted)
    assert fakes.places == {1: "production", 2: "RETIRED"}


def test_a_rollout_without_its_entry_never_began(fakes: Fakes) -> None:
    """Its process died between the two: what it was judged by was not recorded."""
    given = policy()
    fakes.live(given, "run1")
    version = fakes.version("run2")
    fakes.promote(given, version, "staging")
    outcome = promote(fakes.world, given, Wish(version, "production", ADA, "because"))
    assert outcome.rollout
    unrecorded = replace(outcome.rollout, id="other", endpoint="elsewhere", fence=0)
    fakes.world.deployments.open(unrecorded)
    resume(fakes.world, given)
    phases = {r.id: r.phase for r in fakes.world.deployments.history(MODEL)}
    assert phases["other"] is Phase.FAILED
    assert phases[outcome.rollout.id] is Phase.PROBATION
    assert fakes.served == [2]


# --- probation ------------------------------------------------------------------------------------------------------


def test_probation_ends_well_and_the_one_before_is_let_go(fakes: Fakes) -> None:
    given = policy()
    two_live(fakes)
    [rollout] = fakes.world.deployments.active(MODEL)
    assert advance(fakes.world, given, rollout) == rollout
    fakes.clock.advance(86400)
    assert advance(fakes.world, given, rollout).phase is Phase.DONE
    assert fakes.places == {1: "RETIRED", 2: "production"}
    assert (fakes.served, fakes.warm()) == ([2], [])
    assert fakes.kinds[-1] == "probation_passed"


def test_a_version_worse_than_the_one_before_on_the_same_rows_breaks_probation(fakes: Fakes) -> None:
    two_live(fakes)
    second = fakes.ledger.versions(MODEL)[1]
    fakes.answered(second, 200, 240, hour=0, right=False)
    fakes.observations.ingest("churn")
    [rollout] = fakes.world.deployments.active(MODEL)
    step = next_step(fakes.world, policy(), rollout)
    assert step.step is Step.TAKE_BACK
    assert "error rate on 40 labelled rows: churn@2 1, churn@1 would have had 0" in step.because


def test_a_version_that_is_wrong_where_the_one_before_is_wrong_too_stays(fakes: Fakes) -> None:
    """The world changed, not the version."""
    given = policy()
    fakes.live(given, "run1", skill=0.9)
    fakes.live(given, "run2")
    first, second = fakes.ledger.versions(MODEL)
    fakes.teach(first, 0.0)
    fakes.answered(second, 200, 240, hour=0, right=False)
    fakes.observations.ingest("churn")
    [rollout] = fakes.world.deployments.active(MODEL)
    assert next_step(fakes.world, given, rollout).step is Step.WAIT


def test_requests_that_fail_break_probation(fakes: Fakes) -> None:
    two_live(fakes)
    fakes.documents.counters["churn"] = Counted({(MODEL, 2, "live"): Counts(50, 20)})
    [rollout] = fakes.world.deployments.active(MODEL)
    step = next_step(fakes.world, policy(), rollout)
    assert (step.step, step.because) == (Step.TAKE_BACK, "20 of 70 requests failed, 1.0% allowed")


def test_workers_that_die_break_probation(fakes: Fakes) -> None:
    two_live(fakes)
    fakes.documents.counters["churn"] = Counted({(MODEL, 2, "live"): Counts(76)}, restarts=8)
    [rollout] = fakes.world.deployments.active(MODEL)
    step = next_step(fakes.world, policy(), rollout)
    why = "8 of 84 requests failed, 8 of them by the death of a worker, 1.0% allowed"
    assert (step.step, step.because) == (Step.TAKE_BACK, why)


def refused(fakes: Fakes, before: Counts | None, now: Counts) -> Next:
    """What probation says where the version before had done this up to the switch, and the new one since."""
    given = policy()
    fakes.live(given, "run1")
    fakes.documents.counters["churn"] = Counted({(MODEL, 1, "live"): before} if before else {})
    fakes.live(given, "run2")
    fakes.documents.counters["churn"] = Counted({(MODEL, 2, "live"): now})
    [rollout] = fakes.world.deployments.active(MODEL)
    return next_step(fakes.world, given, rollout)


def test_a_version_that_refuses_what_the_one_before_answered_breaks_probation(fakes: Fakes) -> None:
    step = refused(fakes, Counts(990, refused=10), Counts(120, refused=30))
    why = "30 of 150 requests refused, 10 of 1000 by the version before; 5.0% more allowed"
    assert (step.step, step.because) == (Step.TAKE_BACK, why)


def test_clients_that_always_sent_nonsense_are_not_held_against_a_version(fakes: Fakes) -> None:
    assert refused(fakes, Counts(8000, refused=2000), Counts(790, refused=210)).step is Step.WAIT


def test_refusals_are_not_judged_where_the_version_before_was_asked_nothing(fakes: Fakes) -> None:
    step = refused(fakes, None, Counts(0, refused=500))
    assert step.step is Step.WAIT
    assert step.because.endswith("; refusals are not judged: the version before was asked nothing")


# --- rollback -------------------------------------------------------------------------------------------------------


def test_a_rollback_moves_traffic_stage_and_ends_the_rollout(fakes: Fakes) -> None:
    given = policy()
    two_live(fakes)
    entry = rollback(fakes.world, given, "production", ADA, "worse")
    assert fakes.places == {1: "production", 2: "ROLLED_BACK"}
    assert fakes.served == [1]
    assert (entry.draft.version, entry.draft.data["from"]) == (1, 2)
    [*_, rollout] = fakes.world.deployments.history(MODEL)
    assert (rollout.phase, rollout.because) == (Phase.FAILED, "worse")
    assert fakes.world.intents.left() == []


def test_a_mistaken_rollback_is_undone_by_name(fakes: Fakes) -> None:
    given = policy()
    two_live(fakes)
    rollback(fakes.world, given, "production", ADA, "refunds doubled")
    with pytest.raises(Refused, match="no earlier good version"):
        plan_rollback(fakes.world, given, "production")
    with pytest.raises(IllegalMove, match="it was rolled back itself"):
        rollback(fakes.world, given, "production", ADA, "as a judge would", to=2)
    told: list[str] = []
    world = replace(fakes.world, progress=told.append)
    plan_rollback(world, given, "production", 2, named=True)
    [shown] = told
    assert shown.endswith("(refunds doubled)")
    assert shown.startswith(f"{MODEL}@2 was taken back itself, by {ADA.name} on ")
    entry = rollback(world, given, "production", ADA, "they had not", to=2, named=True)
    assert told[1:] == [shown]
    assert (entry.draft.reason, entry.draft.data["returns_despite"]) == (
        "they had not",
        shown.partition("itself, ")[2],
    )
    assert fakes.places == {1: "RETIRED", 2: "production"}
    assert fakes.served == [2]
    assert plan_rollback(fakes.world, given, "production")[0] == 1


def test_a_rollback_that_a_person_named_goes_on_as_such_after_a_crash(fakes: Fakes) -> None:
    given = policy()
    two_live(fakes)
    rollback(fakes.world, given, "production", ADA, "worse")

    class Dies:
        def append(self, draft: Draft) -> None:
            raise RuntimeError("killed")

        def __getattr__(self, name: str) -> object:
            return getattr(fakes.ledger, name)

    dying = replace(fakes.world, ledger=Dies())  # type: ignore[arg-type]
    with pytest.raises(RuntimeError):
        rollback(dying, given, "production", ADA, "it was not", to=2, named=True)
    [intent] = fakes.world.intents.left()
    finish_rollback(fakes.world, given, intent)
    assert fakes.places == {1: "RETIRED", 2: "production"}
    assert fakes.world.intents.left() == []


def test_a_rollback_to_a_corrupt_bundle_is_refused_and_the_live_version_stays(fakes: Fakes) -> None:
    given = policy()
    two_live(fakes)
    name = fakes.spoil(fakes.ledger.versions(MODEL)[0])
    for attempt in (rollback, lambda *a: plan_rollback(*a[:3])):
        with pytest.raises(ChangedBytes, match=name):
            attempt(fakes.world, given, "production", ADA, "worse")
    assert fakes.places == {1: "STANDBY", 2: "production"}
    assert fakes.served == [2]
    assert fakes.world.intents.left() == []


def test_a_rollback_that_the_server_cannot_follow_is_called_off(fakes: Fakes) -> None:
    given = policy()
    two_live(fakes)
    fakes.documents.refuses = "out of memory"
    with pytest.raises(ServerDidNotFollow):
        rollback(fakes.world, given, "production", ADA, "worse")
    assert fakes.places == {1: "STANDBY", 2: "production"}
    assert fakes.served == [2]


@pytest.mark.parametrize("phase", [Phase.OPENED, Phase.SHIFTED])
def test_a_rollout_that_the_ledger_never_opened_brings_nothing_into_the_stage(
    fakes: Fakes, phase: Phase
) -> None:
    given = policy()
    fakes.live(given, "run1")
    fakes.promote(given, fakes.version("run2"), "staging")
    row = Rollout("f" * 32, MODEL, 2, "production", "churn", 1, Phase.OPENED, fakes.clock.now(), "eve", "")
    fakes.world.deployments.save(replace(fakes.world.deployments.open(row), phase=phase))
    resume(fakes.world, given)
    assert fakes.places == {1: "production", 2: "staging"}


def test_a_rollback_to_version_0_is_not_one_to_the_last_good(fakes: Fakes) -> None:
    given = policy()
    for run in ("run1", "run2"):
        fakes.live(given, run)
    with pytest.raises(UnknownName, match="'0'"):
        plan_rollback(fakes.world, given, "production", 0)


def test_with_nothing_earlier_a_rollback_is_refused(fakes: Fakes) -> None:
    fakes.live(policy(), "run1")
    with pytest.raises(Refused, match="no earlier good version"):
        rollback(fakes.world, policy(), "production", ADA, "worse")


def test_a_half_done_rollback_whose_target_was_damaged_meanwhile_is_called_off(fakes: Fakes) -> None:
    """Else every later command would meet the same refusal."""
    given = policy()
    two_live(fakes)

    class Dies:
        def append(self, draft: Draft) -> None:
            raise KeyboardInterrupt

        def __getattr__(self, name: str) -> object:
            return getattr(fakes.ledger, name)

    with pytest.raises(KeyboardInterrupt):
        rollback(replace(fakes.world, ledger=Dies()), given, "production", ADA, "worse")  # type: ignore[arg-type]
    assert fakes.served == [1]
    fakes.spoil(fakes.ledger.versions(MODEL)[0])
    [intent] = fakes.world.intents.left()
    finish_rollback(fakes.world, given, intent)
    assert fakes.places == {1: "STANDBY", 2: "production"}
    assert (fakes.served, fakes.warm()) == ([2], [])
    assert fakes.world.intents.left() == []


def test_a_damaged_live_version_can_be_replaced(fakes: Fakes) -> None:
    given = policy()
    fakes.spoil(fakes.live(given, "run1"))
    fakes.live(given, "run2")
    assert fakes.places == {1: "STANDBY", 2: "production"}
    assert (fakes.served, fakes.warm()) == ([2], [])


def test_everything_served_was_verified(fakes: Fakes) -> None:
    given = policy()
    fakes.live(given, "run1")
    version = fakes.version("run2")
    fakes.promote(given, version, "staging")
    outcome = promote(fakes.world, given, Wish(version, "production", ADA, "because"))
    assert outcome.rollout
    fakes.spoil(version)
    failed = advance(fakes.world, given, outcome.rollout)
    assert failed.phase is Phase.FAILED
    assert "was changed" in failed.because
    assert fakes.served == [1]
    assert np.isin([r.version for d in fakes.documents.published for r in (*d.routes, *d.standby)], [1]).all()
