"""The whole life of a model on real data, through the real command: the same story on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests.demo_story import Told

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(params=["sqlite", "postgresql"])
def story(request: pytest.FixtureRequest, tell_demo: Callable[[str | None], Told]) -> Told:
    if request.param == "sqlite":
        return tell_demo(None)
    return tell_demo(request.getfixturevalue("session_postgres_url"))


def moves(entries: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [e for e in entries if e["draft"]["kind"] == kind]


def test_history_tells_every_move_with_actor_and_reason(story: Told) -> None:
    entries = story.json("history", "digits")
    made = [e["draft"] for e in entries if e["draft"]["changes"]]
    assert len(made) >= 4
    assert all(d["actor"]["name"] and d["reason"] for d in made)
    to_production = [
        (c["version"], d["kind"]) for d in made for c in d["changes"] if c["target"] == "production"
    ]
    assert to_production == [(2, "promoted"), (4, "promoted"), (6, "promoted"), (4, "rolled_back")]


def test_history_at_an_earlier_moment_names_the_earlier_version(story: Told) -> None:
    entries = story.json("history", "digits")
    second = [e for e in moves(entries, "promoted") if e["draft"]["stage"] == "production"][1]
    before = datetime.fromisoformat(second["at"]) - timedelta(milliseconds=1)
    then = story.json("history", "digits", "--at", before.isoformat())["standings"]["places"]
    now = story.json("history", "digits", "--at", entries[-1]["at"])["standings"]["places"]
    assert then["2"] == "production"
    assert now["4"] == "production"
    assert now["6"] == "ROLLED_BACK"


def test_accuracy_fell_and_the_challenger_was_better_on_rows_neither_had_seen(story: Told) -> None:
    opened = [e["draft"] for e in moves(story.json("history", "digits"), "rollout_opened")]
    challenger = next(d for d in opened if d["version"] == 4)
    finding = next(f for f in challenger["data"]["findings"] if f["gate"] == "no_regression")
    seen = {m["name"]: m for m in finding["measurements"]}
    assert finding["verdict"] == "PASS"
    assert seen["accuracy of the incumbent"]["value"] < 0.85
    assert seen["accuracy gained"]["low"] > -0.02
    assert seen["accuracy"]["n"] >= 100


def test_the_broken_version_was_forced_in_and_taken_back_by_the_monitor(story: Told) -> None:
    entries = story.json("history", "digits")
    forced = [e["draft"] for e in entries if e["draft"]["data"].get("break_glass")]
    assert {d["version"] for d in forced} == {6}
    back = moves(entries, "rolled_back")[-1]["draft"]
    assert back["actor"]["name"] == "monitor"
    assert "sequential test" in back["reason"]


def test_nothing_differs_after_the_story(story: Told) -> None:
    assert story.json("doctor")["differences"] == []
    assert "every ledger holds" in story.run("db", "status")


def test_report_and_closing_table_are_there(story: Told) -> None:
    assert (story.folder / ".mlplatform" / "reports" / "digits.html").stat().st_size > 10_000
    assert "seconds in all" in story.output
    assert "digits@4" in story.output
