"""Freeze windows as people meet them: refused with the end in the policy's zone, the glass breaks and is told of,
rollbacks pass, and a challenger that met a window goes on by itself when it is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from mlflow import MlflowClient

from mlplatform.cli import render
from mlplatform.control import Platform
from mlplatform.testing.clock import FixedClock
from tests import documents
from tests.small_project import MODEL, PLACES, UNTIL, Place

BERLIN = ZoneInfo("Europe/Berlin")
REASON = ("--reason", "hotfix")


def freeze(place: Place, stage: str, *windows: str) -> None:
    """Put windows into the stage's part of the policy, in place of what is there."""
    file = place.folder / "policy.toml"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("freeze")]
    lines.insert(lines.index(f"[stages.{stage}]") + 1, f"freeze = [{', '.join(windows)}]")
    file.write_text("\n".join(lines) + "\n")


def since_now(hours: int) -> tuple[str, str]:
    """A window in Berlin that opened some minutes ago: as the policy writes it, and its end on the wall."""
    begin = datetime.now(BERLIN) - timedelta(minutes=5)
    cron = f"{begin.minute} {begin.hour} {begin.day} {begin.month} *"
    end = (begin.replace(second=0).astimezone(UTC) + timedelta(hours=hours)).astimezone(BERLIN)
    window = f'{{ cron = "{cron}", for = "{hours}h", timezone = "Europe/Berlin" }}'
    return window, f"{end:%a %Y-%m-%d %H:%M %Z}"


def test_nothing_enters_a_frozen_stage_until_the_glass_is_broken(sqlite_place: Place) -> None:
    place = sqlite_place
    window, end = since_now(62)
    freeze(place, "staging", window)

    refused = f"(staging is frozen until {end} ("
    for words, word in (
        (("check", f"{MODEL}@4", "staging"), "would be refused"),
        (("promote", f"{MODEL}@4", "staging", *REASON, "--dry-run"), "would be refused"),
        (("promote", f"{MODEL}@4", "staging", *REASON), "refused"),
    ):
        told = place.done(*words, code=3)
        assert f"churn@4 to staging: {word} {refused}" in told
        assert "`--break-glass --reason ...` passes and is recorded" in told
    assert f"frozen    staging is frozen until {end}" in place.done("show", f"{MODEL}@4")
    with place.opened() as platform:
        assert dict(platform.world.ledger.standings(MODEL).places) == PLACES
        assert [e.draft.kind for e in platform.history(MODEL, stage="staging")][-1] == "refused"

    for blank in ((), ("--reason", " ")):
        assert "reason" in place.done("promote", f"{MODEL}@4", "staging", "--break-glass", *blank, code=2)
    done = place.done("promote", f"{MODEL}@4", "staging", "--break-glass", *REASON)
    assert "churn@4 to staging: done (break-glass: hotfix)" in done
    assert f"FROZEN       staging is frozen until {end}" in done
    [*_, entry] = place.told("history", MODEL)
    assert (entry["draft"]["data"]["break_glass"], end in entry["draft"]["data"]["frozen"]) == (True, True)
    assert "BREAK-GLASS hotfix" in place.done("history", MODEL)
    assert "BREAK-GLASS" in place.done("history", MODEL, "--stage", "staging").split("\n\n")[0]
    store = place.environment["MLPLATFORM_TRACKING_URI"]
    version = MlflowClient(store, registry_uri=store).get_model_version_by_alias(MODEL, "staging")
    assert int(version.version) == 4
    assert "**break-glass**" in version.description


def test_a_rollback_passes_a_frozen_stage(sqlite_place: Place) -> None:
    freeze(sqlite_place, "production", since_now(62)[0])
    told = sqlite_place.done("rollback", MODEL, "--reason", "refunds doubled")
    assert "version 2: production -> ROLLED_BACK, version 1: STANDBY -> production" in told


def test_every_mistake_is_told_at_once(sqlite_place: Place) -> None:
    freeze(
        sqlite_place,
        "staging",
        '{ cron = "0 18 * * FRY", for = "62 hours", timezone = "Europe/Berln" }',
        '{ cron = "0 18 * * FRI", fro = "62h" }',
    )
    told = sqlite_place.done("policy", "check", code=2)
    line = "line 10: stages.staging.freeze"
    for mistake in (
        f"{line}[0].timezone: there is no time zone named 'Europe/Berln'. Did you mean 'Europe/Berlin'?",
        f"{line}[0].for: '62 hours' is not a duration",
        f"{line}[0].cron: '0 18 * * FRY' is not a schedule: bad day-of-week",
        f"{line}[1].fro: unknown key, did you mean 'for'?",
        f"{line}[1].for: missing",
    ):
        assert mistake in told


def test_the_page_shows_a_broken_glass_and_what_the_history_says_of_it(
    sqlite_place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    freeze(sqlite_place, "staging", '{ cron = "0 18 * * FRI", for = "62h", timezone = "Europe/Berlin" }')
    first = datetime(datetime.now(UTC).year + 2, 11, 20, 9, 30, tzinfo=UTC)
    saturday = FixedClock(first + timedelta(days=(5 - first.weekday()) % 7))
    with sqlite_place.opened() as opened:
        platform = at_this_clock(opened, saturday)

        def shows(command: str) -> None:
            documents.assert_shown("operations.md", command, capsys.readouterr().out)

        render.outcome(platform.promote(f"{MODEL}@4", "staging", "weekly"))
        shows("mlplatform promote churn@4 staging --reason weekly")
        render.outcome(platform.promote(f"{MODEL}@4", "staging", "refunds are wrong, see INC-81", True))
        shows('mlplatform promote churn@4 staging --break-glass --reason "refunds are wrong, see INC-81"')
        held = platform.spells(MODEL, stage="staging")
        render.tenures(held, platform.history(MODEL, stage="staging"))
        shows("mlplatform history churn --stage staging")
        now = saturday.now()
        live, standings = platform.answering(MODEL, now), platform.standings_at(MODEL, now)
        render.moment(now, now, standings, live, platform.history(MODEL, now))
        shows("mlplatform history churn --at 2026-11-21T10:30+01:00")


@pytest.fixture
def friday(sqlite_place: Place) -> FixedClock:
    """A Friday evening of the year after next, so that nothing in the project is younger."""
    freeze(sqlite_place, "production", '{ cron = "0 18 * * FRI", for = "62h", timezone = "Europe/Berlin" }')
    with (sqlite_place.folder / "policy.toml").open("a") as policy:
        policy.write('\n[capture]\nkeep = { for = "3650d" }\n')  # what was captured is of today
    year = datetime.now(UTC).year + 2
    first = datetime(year, 6, 1, 16, tzinfo=UTC)  # 18:00 on the wall
    return FixedClock(first + timedelta(days=(4 - first.weekday()) % 7))


def at_this_clock(platform: Platform, clock: FixedClock) -> Platform:
    platform._wiring.clock = clock  # type: ignore[assignment]
    return platform


def test_a_challenger_that_met_a_window_goes_on_when_it_is_over(
    sqlite_place: Place, friday: FixedClock
) -> None:
    with sqlite_place.opened() as opened:
        platform = at_this_clock(opened, friday)
        loop = platform.monitor(MODEL, datetime.fromisoformat(UNTIL))
        assert loop.promoted is not None
        assert (loop.promoted.status, loop.promoted.stage) == ("refused", "production")
        [record] = platform.world.retrainings.history(MODEL)
        assert record.outcome.startswith("waits: production is frozen until Mon ")
        assert platform.world.ledger.standings(MODEL).place(6) == "staging"
        assert platform.history(MODEL)[-1].draft.reason.startswith("production is frozen until Mon")

        friday.advance(61 * 3600)
        platform.monitor(MODEL)
        assert platform.world.ledger.standings(MODEL).place(6) == "staging", "an hour is left"

        friday.advance(3600)
        [difference] = platform.differences(MODEL)
        assert difference.what == "version 6 waited for the end of a freeze window or of a rollout"
        platform.monitor(MODEL)
        assert platform.world.ledger.standings(MODEL).place(6) == "production"
        [record] = platform.world.retrainings.history(MODEL)
        assert record.outcome.startswith("went live")
        assert platform.differences(MODEL) == []
