"""Who may return to a stage: whoever held it, and one that was rolled back itself only where a person names it."""

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
)
from mlplatform.domain.taking_back import rollback
from mlplatform.errors import IllegalMove

LADDER = Ladder(("staging", "production"))


def standings(**places):
    return Standings("churn", {int(k[1:]): v for k, v in places.items()})


@pytest.mark.parametrize("place", [RETIRED, STANDBY])
def test_the_holder_leaves_and_an_earlier_version_returns(place):
    changes = rollback(LADDER, standings(v1=place, v2="production"), "production", 1, [1, 2])
    assert changes == [Change(2, "production", ROLLED_BACK), Change(1, place, "production")]


def test_an_empty_stage_is_filled():
    changes = rollback(LADDER, standings(v1=RETIRED), "production", 1)
    assert changes == [Change(1, RETIRED, "production")]


def test_a_mistaken_rollback_is_undone_by_name_and_the_stand_in_is_none_the_worse():
    found = standings(v1="production", v2=ROLLED_BACK)
    changes = rollback(LADDER, found, "production", 2, [1, 2, 1], named=True)
    assert changes == [Change(1, "production", RETIRED), Change(2, ROLLED_BACK, "production")]
    assert last_good(found.after(changes), [1, 2, 1, 2]) == 1


def test_a_version_that_was_rolled_back_long_ago_takes_the_place_of_one_that_is_bad():
    found = standings(v1=RETIRED, v2=ROLLED_BACK, v3="production")
    changes = rollback(LADDER, found, "production", 2, [1, 2, 1, 3], named=True)
    assert changes == [Change(3, "production", ROLLED_BACK), Change(2, ROLLED_BACK, "production")]


def test_what_was_rolled_back_does_not_return_unless_a_person_names_it():
    found = standings(v1="production", v2=ROLLED_BACK)
    with pytest.raises(IllegalMove, match="it was rolled back itself") as caught:
        rollback(LADDER, found, "production", 2, [1, 2, 1])
    assert "mlplatform rollback churn --stage production --to 2" in caught.value.next_step
    assert last_good(found, [1, 2, 1]) is None


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("production", "live already"),
        (REJECTED, "rejected stays out"),
        (CANDIDATE, "once held production"),
        ("staging", "it is in staging by now"),
    ],
)
def test_a_version_that_may_not_return_is_refused_with_the_reason(place, why):
    with pytest.raises(IllegalMove, match=why):
        rollback(LADDER, standings(v1=place), "production", 1, named=True)


@pytest.mark.parametrize("place", [RETIRED, ROLLED_BACK, REJECTED, "staging"])
def test_a_version_that_never_held_the_stage_does_not_return_to_it(place):
    with pytest.raises(IllegalMove, match="once held production"):
        rollback(LADDER, standings(v1=place, v2="production"), "production", 1, [2], named=True)
