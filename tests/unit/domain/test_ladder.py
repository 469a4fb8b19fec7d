from __future__ import annotations

import pytest

from mlplatform.domain.ladder import (
    CANDIDATE,
    REJECTED,
    RETIRED,
    ROLLED_BACK,
    STANDBY,
    Change,
    Ladder,
    Standings,
    last_good,
    replay,
    vacating_first,
)
from mlplatform.errors import IllegalMove, UnknownName

LADDER = Ladder(("staging", "production"))


def standings(**places):
    return Standings("churn", {int(k[1:]): v for k, v in places.items()})


def test_candidate_enters_the_lowest_stage_and_the_incumbent_retires():
    changes = LADDER.promotion(standings(v1="staging", v2=CANDIDATE), 2, "staging")
    assert changes == [Change(1, "staging", RETIRED), Change(2, CANDIDATE, "staging")]


def test_incumbent_is_kept_warm_on_request():
    changes = LADDER.promotion(standings(v1="production", v2="staging"), 2, "production", keep_warm=True)
    assert changes == [Change(1, "production", STANDBY), Change(2, "staging", "production")]


@pytest.mark.parametrize(
    ("place", "stage", "why"),
    [
        (CANDIDATE, "production", "the next stage is staging"),
        ("staging", "staging", "there already"),
        ("production", "staging", "above it, in production"),
        (REJECTED, "staging", "rejected stays out"),
        (ROLLED_BACK, "staging", "rolled back stays out"),
        (RETIRED, "staging", "rollback --to"),
        (STANDBY, "production", "rollback --to"),
    ],
)
def test_illegal_promotion_says_why(place, stage, why):
    with pytest.raises(IllegalMove, match=why):
        LADDER.promotion(standings(v1=place), 1, stage)


@pytest.mark.parametrize(
    ("place", "stage", "next_step"),
    [
        (CANDIDATE, "production", "mlplatform promote churn@1 staging --reason"),
        ("staging", "staging", "mlplatform show churn@1"),
        ("production", "staging", "mlplatform rollback churn --stage production"),
        (REJECTED, "staging", "mlplatform train churn"),
        (ROLLED_BACK, "staging", "mlplatform rollback churn --stage staging --to 1"),
        (RETIRED, "staging", "mlplatform rollback churn --stage staging --to 1"),
        (STANDBY, "production", "mlplatform rollback churn --stage production --to 1"),
    ],
)
def test_illegal_promotion_names_the_next_step(place, stage, next_step):
    with pytest.raises(IllegalMove) as caught:
        LADDER.promotion(standings(v1=place), 1, stage)
    assert next_step in caught.value.next_step


@pytest.mark.parametrize("place", [CANDIDATE, STANDBY, "staging", "qa"])
def test_a_version_that_nobody_needs_retires(place):
    """From a stage that the policy dropped, too."""
    assert LADDER.retirement(standings(v1=place), 1, {"production"}) == [Change(1, place, RETIRED)]


@pytest.mark.parametrize(
    ("place", "why", "next_step"),
    [
        ("production", "it is live", "mlplatform undeploy churn --stage production"),
        (RETIRED, "out already", "mlplatform show churn@1"),
        (REJECTED, "out already", "mlplatform show churn@1"),
        (ROLLED_BACK, "out already", "mlplatform show churn@1"),
    ],
)
def test_a_version_that_is_live_or_out_does_not_retire(place, why, next_step):
    with pytest.raises(IllegalMove, match=why) as caught:
        LADDER.retirement(standings(v1=place), 1, {"production"})
    assert next_step in caught.value.next_step


@pytest.mark.parametrize(
    ("place", "above"),
    [
        (CANDIDATE, ("staging", "production")),
        ("staging", ("production",)),
        ("production", ()),
        ("qa", ("staging", "production")),
        (RETIRED, ()),
        (STANDBY, ()),
        (REJECTED, ()),
    ],
)
def test_stages_that_are_still_ahead(place, above):
    assert LADDER.above(place) == above


def test_version_in_a_stage_that_the_policy_dropped_climbs_from_below():
    assert LADDER.promotion(standings(v1="qa"), 1, "staging") == [Change(1, "qa", "staging")]
    with pytest.raises(IllegalMove, match="next stage is staging"):
        LADDER.promotion(standings(v1="qa"), 1, "production")


def test_unknown_stage_and_version_are_named_with_the_nearest():
    with pytest.raises(UnknownName) as caught:
        LADDER.promotion(standings(v1=CANDIDATE), 1, "prodution")
    assert "production" in caught.value.next_step
    with pytest.raises(UnknownName):
        LADDER.promotion(standings(v1=CANDIDATE), 2, "staging")


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        ((), "at least one"),
        (("Production",), "lower-case"),
        (("1st",), "lower-case"),
        (("latest",), "reserves"),
        (("v2",), "reserves"),
        (("pre-prod", "preprod"), "'pre-prod' and 'preprod' are too alike"),
        (("prod-eu", "qa", "prod_eu"), "'prod-eu' and 'prod_eu' are too alike"),
        (("a", "a"), "too alike"),
        (("a" * 64,), "lower-case"),
    ],
)
def test_stage_names_that_mlflow_or_people_would_confuse_are_refused(stages, why):
    with pytest.raises(ValueError, match=why):
        Ladder(stages)


def test_changes_that_do_not_fit_are_refused_as_a_whole():
    before = standings(v1="staging", v2=CANDIDATE)
    with pytest.raises(IllegalMove, match="it is in staging"):
        before.after([Change(2, CANDIDATE, RETIRED), Change(1, CANDIDATE, RETIRED)])
    with pytest.raises(IllegalMove, match="same stage"):
        before.after([Change(2, CANDIDATE, "staging")])
    with pytest.raises(IllegalMove, match="same stage"):
        before.after(change for change in [Change(2, CANDIDATE, "staging")])
    assert before.places == {1: "staging", 2: CANDIDATE}


def test_replay_follows_the_entries():
    told = replay("m", [[Change(1, None, CANDIDATE)], [], [Change(1, CANDIDATE, "staging")]])
    assert told.places == {1: "staging"}
    assert (told.holder("staging"), told.holder("production")) == (1, None)


def test_a_version_that_enters_waits_for_the_one_that_leaves():
    up = [Change(3, CANDIDATE, "a"), Change(2, "a", "b"), Change(1, "b", RETIRED)]
    assert vacating_first(up) == list(reversed(up))


def test_changes_of_one_version_stay_in_their_order():
    climb = [Change(1, CANDIDATE, "a"), Change(1, "a", "b")]
    assert vacating_first(climb) == climb


def test_two_versions_that_swap_stages_come_out_in_some_order():
    swap = [Change(1, "a", "b"), Change(2, "b", "a")]
    assert sorted(vacating_first(swap), key=lambda c: c.version) == swap


def test_last_good_is_the_latest_earlier_holder_that_was_not_taken_back():
    assert last_good(standings(v1=RETIRED, v2=STANDBY, v3="production"), [1, 2, 3]) == 2
    assert last_good(standings(v1=RETIRED, v2=ROLLED_BACK, v3="production"), [1, 2, 3]) == 1
    assert last_good(standings(v1="production", v2=ROLLED_BACK), [1, 2, 1]) is None
    assert last_good(standings(v1=REJECTED, v2="production"), [1, 2]) is None
    assert last_good(standings(), []) is None
    assert last_good(standings(v1=RETIRED, v2=RETIRED, v3="production"), [1, 2, 3], {2}) == 1
