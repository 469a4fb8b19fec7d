"""monitor and retrain: windows, late labels, decisions, the governor, and which rows a challenger is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from mlplatform.domain.duration import duration
from mlplatform.domain.governor import Limits
from mlplatform.domain.policy import Capture, Data, EvaluateOn, Keep, Policy, Retrain, Watch
from mlplatform.domain.use import Use
from mlplatform.domain.version import Version
from mlplatform.domain.watch import Action, Signal, State
from mlplatform.errors import TrainingFailed
from mlplatform.flows.intake import slice_length, take_in
from mlplatform.flows.monitor import Watched, monitor
from mlplatform.flows.plan import watching
from mlplatform.flows.retrain import bury, left_behind, past, retrain, settle, unanswered, waiting
from mlplatform.ports.data import Observed, Profiling
from mlplatform.ports.extensions import Reference, WindowData
from mlplatform.ports.state import RetrainingRecord
from mlplatform.ports.tracking import Candidate
from tests.unit.flows.worlds import MODEL, Fakes, hours, policy, rows

PROJECT = Path("project")


@pytest.fixture
def live(fakes: Fakes) -> Version:
    return fakes.live(policy(), "run1")


def watch(fakes: Fakes, until: float, keep: bool = True, given: Policy | None = None) -> Watched:
    return monitor(fakes.world, given or policy(), "churn", hours(until), keep)


def stored(fakes: Fakes) -> list[tuple[int, int, str]]:
    """(rows, labelled, action) of the windows that are kept."""
    return [(w.rows, w.labelled, d.action.value) for w, d in fakes.world.windows.recent(MODEL, 10)]


def label(fakes: Fakes, ids: list[str], first: int, last: int) -> None:
    fakes.observations.post("churn", ids, rows(first, last)[1].tolist())


# --- monitor --------------------------------------------------------------------------------------------------------


def test_a_window_is_read_once_it_is_over(fakes: Fakes, live: Version) -> None:
    fakes.answered(live, 200, 230, hour=0)
    assert watch(fakes, until=0.9).windows == ()
    [(window, decision)] = watch(fakes, until=1).windows
    assert (window.version, window.rows, window.labelled) == (1, 30, 30)
    assert decision.action is Action.KEEP
    assert watch(fakes, until=1.5).windows == ()


def test_wrong_answers_ask_for_a_retraining(fakes: Fakes, live: Version) -> None:
    fakes.answered(live, 200, 230, hour=0, right=False)
    [(_, decision)] = watch(fakes, until=1).windows
    assert decision.action is Action.RETRAIN
    assert "accuracy 0.000" in decision.because
    assert unanswered(fakes.world, MODEL) == decision


def test_without_labels_nothing_is_known_and_nothing_is_fine(fakes: Fakes, live: Version) -> None:
    fakes.answered(live, 200, 230, hour=0, labelled=False)
    [(_, decision)] = watch(fakes, until=1).windows
    assert decision.action is Action.KEEP
    assert decision.because.startswith("not enough data")


@dataclass(frozen=True)
class Looking:
    """A metric that looks at columns, or at what was profiled of them only."""

    columns: bool

    def measure(self, reference: Reference, current: WindowData) -> Signal:
        assert current.profile is not None
        seen = current.columns["x"].tolist() if self.columns else current.profile.rows
        return Signal("looking", State.OK, str(seen))


def looked(fakes: Fakes, columns: bool) -> tuple[str, int]:
    """What the metric saw of a window, and how often features were read for it."""
    read = fakes.observations.read
    times = 0

    def counting(*given: Any, columns: bool = True, **more: Any) -> Observed:
        nonlocal times
        times += columns
        return read(*given, columns=columns, **more)

    world = replace(fakes.world, build=lambda kind, use: Looking(columns))
    given = replace(policy(), retrain=Retrain())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes.observations, "read", counting)
        [(window, _)] = monitor(world, given, "churn", hours(1), keep=False).windows
    return window.signals[0].because, times


def test_features_are_read_when_a_metric_looks_at_them_and_otherwise_not(fakes: Fakes, live: Version) -> None:
    fakes.answered(live, 200, 230, hour=0)
    profiled, without = looked(fakes, columns=False)
    seen, with_columns = looked(fakes, columns=True)
    assert (profiled, seen) == ("30", str(rows(200, 230)[0]["x"].tolist()))
    assert with_columns == without + 1


def test_rows_of_another_version_are_not_among_those_that_are_read_late(fakes: Fakes, live: Version) -> None:
    fakes.answered(live, 200, 230, hour=0)
    fakes.answered(replace(live, number=7), 300, 310, hour=0.5)
    assert looked(fakes, columns=True)[0] == str(rows(200, 230)[0]["x"].tolist())


def test_a_bundle_without_a_profile_of_its_reference_is_watched_by_the_rest(
    fakes: Fakes, live: Version
) -> None:
    folder = fakes.bundles.path(live.digest)
    folder.chmod(0o755)
    (folder / "reference.json").unlink()
    drift = Use("drift", {"min_rows": 10})
    given = replace(policy(), watch=Watch("1h", 10, (*policy().watch.metrics, drift)))
    fakes.answered(live, 200, 230, hour=0)
    [(window, _)] = watch(fakes, until=1, given=given).windows
    assert [(s.metric, s.state.value) for s in window.signals] == [("quality", "OK"), ("drift", "OK")]
    assert [column["column"] for column in window.signals[1].details["columns"]] == ["(prediction)"]


@pytest.mark.parametrize("content", ["{", "[]", '{"spec": {"columns": {"x": {}}}}'])
def test_rows_do_not_wait_for_a_bundle_whose_reference_was_changed(
    fakes: Fakes, live: Version, content: str
) -> None:
    asked: list[Profiling] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fakes.observations, "ingest", lambda *given: asked.append(given[-1]))
        take_in(fakes.world, policy(), "churn")
    [profiling] = asked
    assert profiling.spec_of("churn", 1) is not None
    assert profiling.spec_of("churn", 9) is None
    profiling.spec_of.cache_clear()  # type: ignore[attr-defined]
    file = fakes.bundles.path(live.digest) / "reference.json"
    file.chmod(0o644)
    file.write_text(content)
    assert profiling.spec_of("churn", 1) is None


@pytest.mark.parametrize(
    ("window", "step"),
    [("5m", "5m"), ("1h", "1h"), ("24h", "24h"), ("36h", "12h"), ("7d", "24h"), ("25h", "1h")],
)
def test_slices_are_as_long_as_windows_can_share(window: str, step: str) -> None:
    assert slice_length(duration(window)) == duration(step)


def test_rows_go_when_the_policy_no_longer_keeps_them(fakes: Fakes, live: Version) -> None:
    fakes.answered(live, 200, 230, hour=0)
    fakes.answered(live, 230, 240, hour=48)
    watch(fakes, until=1)
    fakes.clock.set(hours(49))
    assert watch(fakes, until=1).ingested.expired == 0
    given = replace(policy(), capture=Capture(keep=Keep(for_="24h")))
    assert watch(fakes, until=1, given=given).ingested.expired == 30
    assert fakes.observations.read("churn").rows == 10


def test_too_few_rows_make_no_window(fakes: Fakes, live: Version) -> None:
    fakes.answered(live, 200, 205, hour=0)
    assert watch(fakes, until=1).windows == ()


def test_late_labels_re_read_a_window_and_decide_again(fakes: Fakes, live: Version) -> None:
    ids = fakes.answered(live, 200, 230, hour=0, right=False, labelled=False)
    watch(fakes, until=1)
    assert stored(fakes) == [(30, 0, "KEEP")]
    label(fakes, ids, 200, 230)
    [(window, decision)] = watch(fakes, until=1).windows
    assert (window.labelled, decision.action) == (30, Action.RETRAIN)
    assert stored(fakes) == [(30, 30, "RETRAIN")]
    assert watch(fakes, until=1).windows == ()


def test_late_labels_of_an_earlier_window_reach_the_newest_decision(fakes: Fakes, live: Version) -> None:
    """What is asked for is read from the newest window; it must not wait for the one after."""
    ids = fakes.answered(live, 200, 230, hour=0, right=False, labelled=False)
    fakes.answered(live, 300, 330, hour=1, labelled=False)
    watch(fakes, until=2)
    assert unanswered(fakes.world, MODEL) is None
    label(fakes, ids, 200, 230)
    seen = watch(fakes, until=2).windows
    assert [d.action for _, d in seen] == [Action.RETRAIN, Action.RETRAIN]
    assert stored(fakes) == [(30, 30, "RETRAIN"), (30, 0, "RETRAIN")]
    wish = unanswered(fakes.world, MODEL)
    assert wish is not None and wish.at == hours(2)


def test_a_dry_run_stores_nothing_and_says_the_same(fakes: Fakes, live: Version) -> None:
    ids = fakes.answered(live, 200, 230, hour=0, right=False, labelled=False)
    watch(fakes, until=1)
    label(fakes, ids, 200, 230)
    fakes.answered(live, 300, 330, hour=1, labelled=False)
    before = stored(fakes)
    dry = watch(fakes, until=2, keep=False)
    assert stored(fakes) == before
    assert [d.action for _, d in dry.windows] == [Action.RETRAIN, Action.RETRAIN]
    assert watch(fakes, until=2).windows == dry.windows


# --- retrain --------------------------------------------------------------------------------------------------------


def trained_with(fakes: Fakes) -> list[Mapping[str, str]]:
    """Trainings leave a candidate; what each of them was given."""
    given: list[Mapping[str, str]] = []

    def train(parameters: Mapping[str, str], folder: Path) -> Candidate:
        given.append(parameters)
        return fakes.candidate(f"trained{len(given)}", folder)

    fakes.runs.trainer = train
    return given


def ask(fakes: Fakes, given: Policy, at: float, **more: Any) -> Any:
    return retrain(fakes.world, given, PROJECT, "trigger: it fell", hours(at), **more)


def test_a_challenger_is_trained_with_the_labelled_rows(fakes: Fakes, live: Version) -> None:
    parameters = trained_with(fakes)
    fakes.answered(live, 200, 230, hour=0)
    fakes.answered(live, 230, 260, hour=1, labelled=False)
    done = ask(fakes, policy(), 2)
    assert (done.run_id, done.rows) == ("run0002", 30)
    table = fakes.world.tables.read(Path(parameters[0]["extra_data"]))
    assert sorted(table) == ["x", "y"]
    assert table["x"].tolist() == rows(200, 230)[0]["x"].tolist()
    assert parameters[0]["cause"] == "trigger: it fell"


def test_the_newest_labelled_rows_are_kept_back_for_the_evaluation(fakes: Fakes, live: Version) -> None:
    parameters = trained_with(fakes)
    for hour in range(4):
        fakes.answered(live, 200 + 30 * hour, 230 + 30 * hour, hour=hour)
    given = policy(data=Data("y", evaluate=EvaluateOn("labelled_window", last="1h", min_rows=40)))
    done = ask(fakes, given, 4)
    table = fakes.world.tables.read(Path(parameters[0]["extra_data"]))
    kept_back = rows(200, 320)[0]["x"][len(table["x"]) :]
    assert 40 <= len(kept_back) <= 60
    assert done.rows == len(table["x"]) == 120 - len(kept_back)
    assert table["x"].tolist() == rows(200, 320)[0]["x"][: len(table["x"])].tolist()


@pytest.mark.parametrize(("labelled", "given"), [(30, 0), (50, 10), (120, 60)])
def test_while_all_labels_are_young_a_retraining_takes_the_older_half(
    fakes: Fakes, live: Version, labelled: int, given: int
) -> None:
    parameters = trained_with(fakes)
    fakes.answered(live, 200, 200 + labelled, hour=0)
    wanted = policy(data=Data("y", evaluate=EvaluateOn("labelled_window", last="30d", min_rows=40)))
    done = ask(fakes, wanted, 4)
    assert done.rows == given
    if given:
        table = fakes.world.tables.read(Path(parameters[0]["extra_data"]))
        assert table["x"].tolist() == rows(200, 200 + given)[0]["x"].tolist()


def test_the_governor_refuses_within_its_cooldown_and_the_reason_is_kept(fakes: Fakes, live: Version) -> None:
    parameters = trained_with(fakes)
    given = policy()
    given = replace(given, retrain=replace(given.retrain, governor=Limits(cooldown="5h")))
    first = ask(fakes, given, 1)
    settle(fakes.world, first.record, 2, True, "better")
    second = ask(fakes, given, 2)
    assert (second.run_id, second.permit.allowed) == (None, False)
    outcomes = [r.outcome for r in fakes.world.retrainings.history(MODEL)]
    assert outcomes == ["went live: better", "refused: cooldown of 5h: 4h left"]
    assert len(parameters) == 1
    assert ask(fakes, given, 3, forced=True).run_id is not None, "a person may insist"
    assert ask(fakes, given, 9).run_id is not None, "a refused one starts no cooldown"


def test_after_enough_losses_it_stops_and_says_why(fakes: Fakes, live: Version) -> None:
    trained_with(fakes)
    given = policy()
    limits = Limits(cooldown="1h", per_week=99, stop_after_losses=2)
    given = replace(given, retrain=replace(given.retrain, governor=limits))
    for at in (1, 3):
        settle(fakes.world, ask(fakes, given, at).record, None, False, "worse")
    refused = ask(fakes, given, 5)
    assert "the last 2 challengers did not go live" in refused.permit.because


def test_a_training_that_fails_is_recorded(fakes: Fakes, live: Version) -> None:
    with pytest.raises(TrainingFailed):
        ask(fakes, policy(), 1)
    [record] = fakes.world.retrainings.history(MODEL)
    assert record.outcome.startswith("failed: ")


# --- a wish is answered once ----------------------------------------------------------------------------------------


def wish(fakes: Fakes, live: Version) -> None:
    fakes.answered(live, 200, 230, hour=0, right=False)
    watch(fakes, until=1)
    assert unanswered(fakes.world, MODEL) is not None


def test_a_wish_that_was_refused_or_granted_is_answered(fakes: Fakes, live: Version) -> None:
    trained_with(fakes)
    wish(fakes, live)
    done = ask(fakes, policy(), 1)
    assert unanswered(fakes.world, MODEL) is None
    settle(fakes.world, done.record, 2, False, "worse")
    assert unanswered(fakes.world, MODEL) is None


def test_a_wish_whose_process_died_before_anything_was_recorded_is_still_there(
    fakes: Fakes, live: Version
) -> None:
    wish(fakes, live)
    assert watch(fakes, until=1).windows == ()
    assert unanswered(fakes.world, MODEL) is not None


def test_a_retraining_that_died_is_tried_once_more_and_not_for_ever(fakes: Fakes, live: Version) -> None:
    wish(fakes, live)
    for again in (True, False):

        def die(parameters: Mapping[str, str], folder: Path) -> Candidate:
            raise KeyboardInterrupt

        fakes.runs.trainer = die
        with pytest.raises(KeyboardInterrupt):
            ask(fakes, policy(), 1)
        assert unanswered(fakes.world, MODEL) is None, "it may still be running"
        record = left_behind(fakes.world, MODEL)
        assert record is not None and record.run_id is None
        bury(fakes.world, record)
        assert left_behind(fakes.world, MODEL) is None
        assert (unanswered(fakes.world, MODEL) is not None) == again
    trained_with(fakes)
    assert ask(fakes, policy(), 2).permit.allowed, "a death is no loss and starts no cooldown"


# --- looking ahead --------------------------------------------------------------------------------------------------


def test_looking_ahead_sees_what_monitor_would_see_and_keeps_nothing(fakes: Fakes, live: Version) -> None:
    fakes.answered(live, 200, 230, hour=0, right=False)
    planned = watching(fakes.world, policy(), "churn", hours(1))
    [(_, decision)] = planned.watched.windows
    assert (planned.watched.ingested.rows, decision.action) == (30, Action.RETRAIN)
    assert planned.then == ("a challenger would be trained: within cooldown, budget and losses",)
    assert stored(fakes) == []
    assert fakes.observations.read("churn").rows == 0
    assert watch(fakes, until=1).windows[0][1].because == decision.because


def test_looking_ahead_tells_of_a_version_that_would_be_taken_back(fakes: Fakes, live: Version) -> None:
    second = fakes.live(policy(), "run2")
    fakes.answered(second, 300, 345, hour=0, right=False)
    planned = watching(fakes.world, policy(), "churn", hours(1))
    [taken_back] = planned.then
    assert taken_back.startswith("churn@2 would be taken back: error rate on 45 labelled rows")
    assert fakes.places[2] == "production"


def test_a_challenger_that_met_a_freeze_window_has_not_lost(fakes: Fakes) -> None:
    record = RetrainingRecord("r1", MODEL, hours(0), "drift", "started", "run1")
    settled = settle(fakes.world, record, 1, False, "production is frozen until Monday", waits=True)
    assert settled.outcome == "waits: production is frozen until Monday"
    assert waiting(fakes.world, MODEL) == settled
    assert [r.went_live for r in past([settled])] == [None]
    fakes.world.retrainings.save(RetrainingRecord("r2", MODEL, hours(1), "drift", "went live: better"))
    assert waiting(fakes.world, MODEL) is None
