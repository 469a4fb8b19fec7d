"""What MLflow shows: cards of every version that matters, reports drawn only when something changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from mlplatform.domain.card import CardFacts
from mlplatform.domain.version import Version
from mlplatform.domain.watch import Action, Decision, Window
from mlplatform.errors import MlflowUnreachable
from mlplatform.flows.project import NEWEST, project, show_windows
from mlplatform.flows.review import card_facts
from mlplatform.flows.world import World
from mlplatform.ports.report import CloseLook
from mlplatform.testing.fakes.tracking import FakeRuns
from tests.unit.flows.worlds import ACCURACY, MODEL, Fakes, hours, policy

POLICY = policy()


class Drawer:
    """Draws a page with nothing on it."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, CloseLook]] = []

    def __call__(self, facts: CardFacts, look: CloseLook) -> Mapping[str, str]:
        self.seen.append((facts.version.ref, look))
        return {"report.html": f"<p>{facts.version.ref}</p>", "metrics.svg": "<svg/>"}


@pytest.fixture
def drawer(fakes: Fakes) -> Drawer:
    made = Drawer()
    fakes.world = replace(fakes.world, draw=made)
    return made


def card(fakes: Fakes, version: Version) -> str:
    return fakes.registry.cards[MODEL][version.number].markdown


def test_a_version_that_was_judged_has_a_report_and_its_card_leads_there(
    fakes: Fakes, drawer: Drawer
) -> None:
    first, second = fakes.version("first"), fakes.version("second")
    fakes.promote(POLICY, first, "staging")
    project(fakes.world, POLICY)
    assert [ref for ref, _ in drawer.seen] == [first.ref]
    assert fakes.runs.drawn["first"][f"churn-{first.number}"][1]["report.html"] == f"<p>{first.ref}</p>"
    assert "[Report](first/churn-1/report.html)" in card(fakes, first)
    assert "](" not in card(fakes, second)


def test_a_report_is_drawn_once_a_judgement_wherever_the_version_moves(fakes: Fakes, drawer: Drawer) -> None:
    first, second = fakes.version("first"), fakes.version("second", 0.9)
    fakes.promote(POLICY, first, "staging")
    project(fakes.world, POLICY)
    drawer.seen.clear()
    assert project(fakes.world, POLICY) == 0
    fakes.promote(POLICY, first, "production")  # without gates
    fakes.version("third")
    assert project(fakes.world, POLICY) == 3
    assert drawer.seen == [] and "[Report]" in card(fakes, first)
    fakes.promote(POLICY, second, "staging")
    fakes.promote(POLICY, second, "production")
    project(fakes.world, POLICY)
    assert [ref for ref, _ in drawer.seen] == [second.ref]  # first is on STANDBY now
    assert fakes.places[first.number] == "STANDBY" and "STANDBY" in card(fakes, first)


def test_the_report_has_what_the_version_replaced_on_the_same_rows(fakes: Fakes, drawer: Drawer) -> None:
    production = replace(POLICY.stage("production"), gates=(ACCURACY,))
    given = replace(POLICY, stages={**POLICY.stages, "production": production})
    first = fakes.live(given, "first", 0.85)
    second = fakes.live(given, "second", 1.0)
    facts = card_facts(fakes.world, given, second)
    assert facts.stage == "production" and facts.lineage and facts.lineage.before == first.number
    assert facts.rival and facts.rival.version == first
    project(fakes.world, given)
    look = dict(drawer.seen)[second.ref]
    assert look.confusion is not None and sum(map(sum, look.confusion.counts)) == 100
    (accuracy,) = look.metrics
    assert (accuracy.own.value, accuracy.rival and accuracy.rival.value) == (1.0, 0.85)
    assert accuracy.difference and accuracy.difference.value == pytest.approx(0.15)
    assert accuracy.said == "better"


@pytest.mark.parametrize("error", [OSError("no space left"), ValueError("nan")])
def test_a_report_that_cannot_be_made_is_told_and_holds_nothing_back(fakes: Fakes, error: Exception) -> None:
    def fail(facts: CardFacts, look: CloseLook) -> Mapping[str, str]:
        raise error

    fakes.world = replace(fakes.world, draw=fail)
    first = fakes.version("first")
    fakes.promote(POLICY, first, "staging")
    assert project(fakes.world, POLICY) == 1
    assert fakes.registry.aliases[MODEL] == {"staging": first.number}
    assert "staging" in card(fakes, first)
    assert any("the report of churn@1 could not be made" in line for line in fakes.said)
    assert fakes.ledger.due() == []


def test_a_run_that_was_deleted_has_no_report(fakes: Fakes, drawer: Drawer) -> None:
    first = fakes.version("first")
    fakes.promote(POLICY, first, "staging")
    del fakes.runs.runs["first"]
    project(fakes.world, POLICY)
    assert drawer.seen == [] and "](" not in card(fakes, first)


class Away(FakeRuns):
    """MLflow does not answer."""

    def keep(self, *order: Any) -> dict[str, str]:
        raise MlflowUnreachable(uri="http://gone", cause="refused")


def test_without_mlflow_everything_stays_due(fakes: Fakes, drawer: Drawer) -> None:
    first = fakes.version("first")
    fakes.promote(POLICY, first, "staging")
    with pytest.raises(MlflowUnreachable):
        project(replace(fakes.world, runs=Away()), POLICY)
    assert [model for model, _ in fakes.ledger.due()] == [MODEL]
    assert project(fakes.world, POLICY) == 1
    assert "[Report]" in card(fakes, first)


def test_of_a_long_history_only_the_newest_versions_and_those_in_use_are_shown(fakes: Fakes) -> None:
    live = fakes.live(POLICY, "live")
    others = [fakes.version(f"other{i}", None) for i in range(NEWEST + 3)]
    fakes.registry.cards.clear()
    project(fakes.world, POLICY)
    shown = set(fakes.registry.cards[MODEL])
    assert live.number in shown
    assert shown == {live.number, *(v.number for v in others[-NEWEST:])}


def test_worlds_without_a_drawer_show_cards_alone(fakes: Fakes) -> None:
    world: World = fakes.world
    assert world.draw is None
    fakes.promote(POLICY, fakes.version("first"), "staging")
    assert project(world, POLICY) == 1


# --- the monitoring report ------------------------------------------------------------------------------------------


def seen(fakes: Fakes, hour: int) -> None:
    start = hours(hour)
    window = Window(MODEL, MODEL, start, start + timedelta(hours=1), 1, 50, 40)
    fakes.world.windows.save(window, Decision(Action.KEEP, "fine", window.end))


def test_the_monitoring_report_lies_beside_the_live_versions_run(fakes: Fakes) -> None:
    drawn = list[int]()

    def draw() -> str:
        drawn.append(1)
        return "<p>windows</p>"

    show_windows(fakes.world, POLICY, draw)  # nothing is live, nothing was seen
    fakes.live(POLICY, "first")
    show_windows(fakes.world, POLICY, draw)
    assert drawn == []
    seen(fakes, 0)
    show_windows(fakes.world, POLICY, draw)
    show_windows(fakes.world, POLICY, draw)
    assert drawn == [1]
    assert fakes.runs.drawn["first"]["churn-monitoring"][1] == {"monitoring.html": "<p>windows</p>"}
    seen(fakes, 1)
    show_windows(fakes.world, POLICY, draw)
    assert drawn == [1, 1]


def test_without_mlflow_monitoring_goes_on(fakes: Fakes) -> None:
    fakes.live(POLICY, "first")
    seen(fakes, 0)
    show_windows(replace(fakes.world, runs=Away()), POLICY, lambda: "")
    assert any("the monitoring report is not shown" in line for line in fakes.said)
