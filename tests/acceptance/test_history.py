"""History: who held which stage when, with which share, put there by whom and why; and the way back that it shows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from mlplatform.domain.ladder import Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from tests.small_project import MODEL, Place, answering


def entries(place: Place) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = place.told("history", MODEL)
    return found


def moment(place: Place, kind: str, version: int) -> datetime:
    """When it happened to the version for the first time."""
    at = next(
        e["at"] for e in entries(place) if (e["draft"]["kind"], e["draft"]["version"]) == (kind, version)
    )
    return datetime.fromisoformat(at)


def live(place: Place, at: datetime | str) -> list[tuple[str, int, float]]:
    told = place.told("history", MODEL, "--at", at if isinstance(at, str) else at.isoformat())
    return sorted((s["stage"], s["version"], s["share"]) for s in told["live"])


def test_what_was_live_at_a_time(place: Place) -> None:
    first, second = moment(place, "traffic_shifted", 1), moment(place, "traffic_shifted", 2)
    assert live(place, first - timedelta(microseconds=1)) == [], "it stands in staging, where nothing answers"
    assert ("production", 1, 1.0) in live(place, first)
    assert ("production", 1, 1.0) in live(place, second - timedelta(microseconds=1))
    assert ("production", 2, 1.0) in live(place, second)
    assert live(place, datetime.now(UTC)) == [("production", 2, 1.0)]


def test_times_may_name_a_zone_and_are_utc_without_one(sqlite_place: Place) -> None:
    second = moment(sqlite_place, "traffic_shifted", 2)
    in_india = second.astimezone(timezone(timedelta(hours=5, minutes=30)))
    plain = second.replace(tzinfo=None)
    for text in (in_india.isoformat(), plain.isoformat(), plain.isoformat(" "), f"{plain.isoformat()}Z"):
        assert ("production", 2, 1.0) in live(sqlite_place, text), text
    told = sqlite_place.done("history", MODEL, "--at", "2999-01-01T01:00+05:30")
    assert "churn at 2998-12-31 19:30:00 UTC" in told
    assert "is not a time; write for example" in sqlite_place.done("history", MODEL, "--at", "noon", code=2)


def test_the_future_is_as_it_is_now_and_before_the_first_there_was_nothing(sqlite_place: Place) -> None:
    told = sqlite_place.done("history", MODEL, "--at", "2999-01-01")
    assert "churn at 2999-01-01 00:00:00 UTC, which is to come: as it is now" in told
    assert "100 % of production" in told
    assert sqlite_place.done("history", MODEL, "--at", "2001-01-01").strip() == (
        "nothing of churn was there at 2001-01-01 00:00:00 UTC"
    )
    assert live(sqlite_place, "2001-01-01") == []


def test_who_put_it_there_and_why(sqlite_place: Place) -> None:
    """A share is told with the wish that opened the rollout, not with the step that moved it."""
    rows = [line.split() for line in sqlite_place.done("history", MODEL, "--at", "2999-01-01").splitlines()]
    [production] = [row for row in rows if row[:2] == ["2", "production"]]
    assert production[2:8] == ["100", "%", "of", "production", "at", MODEL]
    [staging] = [row for row in rows if row[:2] == ["3", "staging"]]
    assert staging[2] == "-"
    assert production[-3:] == ["ada", "(unverified)", "prepared"]


def test_a_stage_s_holders_one_after_the_other(sqlite_place: Place) -> None:
    told = sqlite_place.told("history", MODEL, "--stage", "production")
    [first, second] = told["held"]
    assert (first["version"], first["share"], first["until"]) == (1, 1.0, second["since"])
    assert (second["version"], second["until"]) == (2, None)
    assert {e["draft"]["kind"] for e in told["entries"]} >= {"rollout_opened", "traffic_shifted", "promoted"}
    text = sqlite_place.done("history", MODEL, "--stage", "production")
    assert [line.split()[:4] for line in text.splitlines()[1:3]] == [
        ["production", "1", "100", "%"],
        ["production", "2", "100", "%"],
    ]
    told = sqlite_place.done("history", MODEL, "--stage", "prodution", code=2)
    assert "Did you mean 'production'?" in told


def test_shares_in_between_are_part_of_history(place: Place) -> None:
    """What a stepwise rollout writes: 5 % to version 3, and back."""
    grace = Actor("grace", verified=True)
    with place.opened() as platform:
        ledger = platform.world.ledger

        def note(kind: Kind, who: Actor, why: str, **data: object) -> datetime:
            return ledger.append(Draft(MODEL, kind, 3, who, why, stage="production", data=data)).at

        note(Kind.ROLLOUT_OPENED, grace, "break-glass: weekly", break_glass=True)
        shifted = note(Kind.TRAFFIC_SHIFTED, grace, "5 % of churn", share=0.05, rollout="r")
        note(Kind.ROLLOUT_FAILED, grace, "errors", rollout="r")
    shared = [("production", 2, 0.95), ("production", 3, 0.05)]  # not again in staging, where 3 stands
    assert live(place, shifted) == shared
    text = place.done("history", MODEL, "--at", shifted.isoformat())
    assert "95 % of production" in text
    [row] = [line for line in text.splitlines() if "5 % of production" in line and "95" not in line]
    assert row.split()[:2] == ["3", "staging"] and "100 %" not in row
    assert row.rstrip().endswith("grace             BREAK-GLASS weekly")
    assert live(place, datetime.now(UTC)) == [("production", 2, 1.0)]


# --- the way back ---------------------------------------------------------------------------------------------------


def test_back_to_the_last_good_one_past_those_that_were_taken_back(sqlite_place: Place) -> None:
    place = sqlite_place
    place.done("promote", f"{MODEL}@3", "production", "--reason", "up")
    assert "version 2: STANDBY -> production" in place.done("rollback", MODEL, "--reason", "3 is worse")
    assert "version 1: RETIRED -> production" in place.done("rollback", MODEL, "--reason", "2 is worse")
    told = place.done("rollback", MODEL, "--reason", "1 is worse", code=3)
    assert "churn has no earlier good version in production to go back to" in told
    told = place.done("rollback", MODEL, "--to", "3", "--reason", "3 was not the mistake")
    assert "churn@3 was taken back itself, by ada" in told
    assert "version 3: ROLLED_BACK -> production" in told
    held = [s["version"] for s in place.told("history", MODEL, "--stage", "production")["held"]]
    assert held == [1, 2, 3, 2, 1, 3]


def test_a_corrupt_bundle_does_not_come_back_and_the_live_one_answers_on(sqlite_place: Place) -> None:
    place = sqlite_place
    place.done("deploy", MODEL)
    with place.opened() as platform:
        url = platform.endpoint(MODEL).server.url
        folder = platform.world.bundles.path(platform.version(f"{MODEL}@1").digest)
    file = next(path for path in sorted((folder / "model").rglob("*")) if path.is_file())
    file.chmod(0o644)
    file.write_bytes(b"X" + file.read_bytes()[1:])
    for words in (("--to", "1"), (), ("--dry-run",)):
        told = place.done("rollback", MODEL, *words, "--reason", "back", code=3)
        assert f"{file.relative_to(folder)} was changed" in told
    assert answering(url) == f"{MODEL}@2"
    assert entries(place)[-1]["draft"]["kind"] != "rolled_back"


# --- retiring -------------------------------------------------------------------------------------------------------


def test_a_version_that_nobody_needs_leaves_its_stage_and_mlflow_s_alias(place: Place) -> None:
    told = place.done("retire", f"{MODEL}@staging", "--reason", "the price list is gone")
    assert "churn: retired (the price list is gone); version 3: staging -> RETIRED" in told
    with place.opened() as platform:
        assert dict(platform.world.registry.outside(MODEL).aliases) == {"production": 2}
        assert platform.differences(MODEL) == []
    told = place.done("retire", f"{MODEL}@production", "--reason", "away", code=3)
    assert "churn@2 cannot go from production to RETIRED: it is live" in told
    assert "mlplatform rollback churn --stage production" in told
    assert "it is out already" in place.done("retire", f"{MODEL}@3", "--reason", "again", code=3)


@pytest.mark.parametrize("number", [1, 4])
def test_candidates_and_warm_versions_retire(sqlite_place: Place, number: int) -> None:
    sqlite_place.done("retire", f"{MODEL}@{number}", "--reason", "memory")
    with sqlite_place.opened() as platform:
        assert platform.world.ledger.standings(MODEL).place(number) == "RETIRED"
        routes = platform.world.documents.routes(MODEL)
        assert routes is not None
        assert ([r.version for r in routes.routes], [r.version for r in routes.standby]) == (
            [2],
            [1] if number == 4 else [],
        )


def test_moves_by_nobody_known_are_told_so(sqlite_place: Place) -> None:
    with sqlite_place.opened() as platform:
        change = (Change(3, "staging", "RETIRED"),)
        platform.world.ledger.append(
            Draft(MODEL, Kind.OUTSIDE_MOVE, 3, Actor("mlflow"), "moved", change, "staging")
        )
    assert [s["until"] is None for s in sqlite_place.told("history", MODEL, "--stage", "staging")["held"]][
        -1
    ] is False
    assert "mlflow (unverified)" in sqlite_place.done("history", MODEL, "--stage", "staging")
