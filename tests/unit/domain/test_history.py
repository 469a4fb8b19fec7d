"""Who answered when, with which share, and who wanted it: read from the ledger alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mlplatform.domain.history import is_glass_broken, spells, wishes
from mlplatform.domain.ladder import CANDIDATE, RETIRED, ROLLED_BACK, STANDBY, Change
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind

START = datetime(2026, 1, 5, 12, tzinfo=UTC)
ADA, EVE = Actor("ada", True), Actor("os:eve")
LIVE = "production"


def told(*drafts: Draft) -> list[Entry]:
    """The drafts as entries, an hour apart."""
    return [Entry(n, START + timedelta(hours=n), d, "", "") for n, d in enumerate(drafts)]


def draft(
    kind: Kind, version: int, *changes: Change, who: Actor = ADA, why: str = "", **data: object
) -> Draft:
    return Draft("churn", kind, version, who, why, changes, LIVE, data)


def up(version: int, before: int | None = None, **more: object) -> Draft:
    leaving = [Change(before, LIVE, STANDBY)] if before else []
    return draft(Kind.PROMOTED, version, *leaving, Change(version, "staging", LIVE), **more)  # type: ignore[arg-type]


def shares(entries: list[Entry]) -> list[tuple[int, float, int, int | None]]:
    """Version, share, and the hours from and to."""

    def hour(moment: datetime | None) -> int | None:
        return None if moment is None else round((moment - START).total_seconds() / 3600)

    return [(s.version, s.share, hour(s.since), hour(s.until)) for s in spells(entries) if s.stage == LIVE]


FIRST = (
    draft(Kind.REGISTERED, 1, Change(1, None, CANDIDATE)),
    draft(Kind.PROMOTED, 1, Change(1, CANDIDATE, "staging")),
    up(1),
)


def test_a_holder_answers_until_another_one_does() -> None:
    assert shares(told(*FIRST, up(2, before=1))) == [(1, 1.0, 2, 3), (2, 1.0, 3, None)]


def test_a_stage_below_is_left_when_the_version_climbs() -> None:
    [staging] = [s for s in spells(told(*FIRST)) if s.stage == "staging"]
    assert (staging.version, staging.since, staging.until) == (
        1,
        START + timedelta(hours=1),
        START + timedelta(hours=2),
    )


def test_traffic_is_shared_step_by_step() -> None:
    entries = told(
        *FIRST,
        draft(Kind.ROLLOUT_OPENED, 2, who=EVE, why="weekly"),
        draft(Kind.TRAFFIC_SHIFTED, 2, rollout="r", share=0.05),
        draft(Kind.TRAFFIC_SHIFTED, 2, rollout="r", share=0.25),
        draft(Kind.TRAFFIC_SHIFTED, 2, rollout="r", share=1.0),
        up(2, before=1, rollout="r"),
    )
    assert shares(entries) == [
        (1, 1.0, 2, 4),
        (1, 0.95, 4, 5),
        (2, 0.05, 4, 5),
        (1, 0.75, 5, 6),
        (2, 0.25, 5, 6),
        (2, 1.0, 6, None),
    ]


def test_the_wish_behind_a_share_is_the_one_that_opened_the_rollout() -> None:
    entries = told(
        *FIRST,
        draft(Kind.ROLLOUT_OPENED, 2, who=EVE, why="hotfix", break_glass=True),
        draft(Kind.TRAFFIC_SHIFTED, 2, rollout="r", share=1.0, why="100 % of churn"),
        up(2, before=1, rollout="r"),
    )
    [*_, live] = spells(entries)
    assert (live.wish.draft.actor, live.wish.draft.reason, live.break_glass) == (EVE, "hotfix", True)
    assert [is_glass_broken(wish) for wish in wishes(entries)] == [False, False, False, True, True, True]


def test_a_rollout_that_fails_gives_everything_back() -> None:
    entries = told(
        *FIRST,
        draft(Kind.ROLLOUT_OPENED, 2),
        draft(Kind.TRAFFIC_SHIFTED, 2, rollout="r", share=0.05),
        draft(Kind.ROLLOUT_FAILED, 2, rollout="r"),
    )
    assert shares(entries)[-2:] == [(2, 0.05, 4, 5), (1, 1.0, 5, None)]


def test_a_rollback_and_an_emptied_stage() -> None:
    back = draft(Kind.ROLLED_BACK, 1, Change(2, LIVE, ROLLED_BACK), Change(1, STANDBY, LIVE))
    out = draft(Kind.OUTSIDE_MOVE, 1, Change(1, LIVE, RETIRED))
    assert shares(told(*FIRST, up(2, before=1), back)) == [(1, 1.0, 2, 3), (2, 1.0, 3, 4), (1, 1.0, 4, None)]
    assert shares(told(*FIRST, out)) == [(1, 1.0, 2, 3)]


def test_an_entry_that_only_notes_something_changes_nothing() -> None:
    noted = draft(Kind.APPROVED, 1), draft(Kind.PROBATION_PASSED, 1, rollout="r"), draft(Kind.REFUSED, 2)
    assert shares(told(*FIRST, *noted)) == [(1, 1.0, 2, None)]


# --- who answered ---------------------------------------------------------------------------------------------------


def answered(entries: list[Entry], hour: int, **endpoints: str) -> dict[str, dict[int, float]]:
    """Shares of the requests at each endpoint, so many hours after the first entry."""
    at, found = START + timedelta(hours=hour), dict[str, dict[int, float]]()
    for spell in spells([e for e in entries if e.at <= at], endpoints):
        if spell.until is None and spell.endpoint:
            found.setdefault(spell.endpoint, {})[spell.version] = spell.share
    return found


def climbing() -> list[Entry]:
    """Version 2 stands in staging, where nothing answers, while it climbs into production."""
    return told(
        *FIRST[:2],
        draft(Kind.TRAFFIC_SHIFTED, 1, rollout="first", share=1.0, endpoint="churn"),
        up(1, rollout="first"),
        replace(draft(Kind.PROMOTED, 2, Change(2, CANDIDATE, "staging")), stage="staging"),
        draft(Kind.TRAFFIC_SHIFTED, 2, rollout="r", share=0.05, endpoint="churn"),
        draft(Kind.TRAFFIC_SHIFTED, 2, rollout="r", share=1.0, endpoint="churn"),
        up(2, before=1, rollout="r"),
    )


def test_a_version_on_its_way_answers_its_share_and_not_a_second_time_where_it_stands() -> None:
    entries = climbing()
    seen = [answered(entries, hour) for hour in range(1, len(entries))]
    alone, shared = {"churn": {1: 1.0}}, {"churn": {1: 0.95, 2: 0.05}}
    assert seen == [{}, alone, alone, alone, shared, {"churn": {2: 1.0}}, {"churn": {2: 1.0}}]


def test_the_shares_of_every_endpoint_make_a_whole() -> None:
    """Also where the version answers at an endpoint of the stage below."""
    below = draft(Kind.TRAFFIC_SHIFTED, 2, rollout="s", share=1.0, endpoint="trial")
    drafts = [entry.draft for entry in climbing()]
    drafts[3:5] = [drafts[3], replace(below, stage="staging"), replace(drafts[4], data={"rollout": "s"})]
    entries = told(*drafts)
    for hour in range(2, len(entries)):
        assert all(sum(shares.values()) == 1.0 for shares in answered(entries, hour).values())
    assert answered(entries, 6) == {"churn": {1: 0.95, 2: 0.05}, "trial": {2: 1.0}}
    assert answered(entries, 8) == {"churn": {2: 1.0}}


def test_a_holder_that_entered_before_its_stage_had_an_endpoint_answers_where_it_is_now() -> None:
    assert answered(told(*FIRST), 2) == {}
    assert answered(told(*FIRST), 2, production="churn") == {"churn": {1: 1.0}}


def test_a_stage_whose_endpoint_is_gone_answers_no_more() -> None:
    entries = told(
        *FIRST[:2],
        draft(Kind.TRAFFIC_SHIFTED, 1, rollout="r", share=1.0),
        up(1, rollout="r"),
        up(2, before=1),
    )
    assert answered(entries, 3) == {LIVE: {1: 1.0}}, "an entry that names no endpoint: the stage's name"
    assert answered(entries, 4) == {}
    assert shares(entries)[-1] == (2, 1.0, 4, None), "it holds the stage all the same"
