"""label, and what becomes of labels that cannot be true: nobody stops, nobody counts them, everybody is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.bundle import Task
from mlplatform.domain.ledger import Kind
from mlplatform.domain.policy import Data, EvaluateOn, Policy, Stage
from mlplatform.domain.rollout import Phase, Rollout, Step
from mlplatform.domain.truth import LabelRule, anything
from mlplatform.domain.use import Use
from mlplatform.domain.verdict import Verdict
from mlplatform.domain.watch import Action
from mlplatform.flows import labelling, probation
from mlplatform.flows.evaluate import judge
from mlplatform.flows.labelling import TruthRules
from mlplatform.flows.monitor import Watched, monitor
from mlplatform.flows.retrain import extra_rows
from tests.unit.flows.worlds import ADA, CLASSES, MODEL, Fakes, hours, policy, rows

REGRESSION = Task("regression", "value", (), "y")
MAE = Use("quality", {"name": "mae", "at_most": 0.2, "min_labels": 10})
BAD = ["six", "?", "", "<=50K"]


@pytest.fixture
def numbers(fakes: Fakes) -> Fakes:
    """Versions answer numbers from now on."""
    fakes.task = REGRESSION
    return fakes


def watching(metric: Use = MAE, **data: Any) -> Policy:
    given = policy(data=Data("y", **data))
    stages = {**given.stages, "staging": Stage(auto=True)}
    return replace(given, stages=stages, watch=replace(given.watch, metrics=(metric,)))


def look(fakes: Fakes, given: Policy, until: float = 1) -> Watched:
    return monitor(fakes.world, given, "churn", hours(until))


def on_probation(fakes: Fakes) -> Rollout:
    [rollout] = [r for r in fakes.world.deployments.active(MODEL) if r.phase is Phase.PROBATION]
    return rollout


def post(fakes: Fakes, ids: Sequence[str], labels: Sequence[Any]) -> None:
    fakes.observations.post("churn", ids, labels)


def before_there_were_rules(fakes: Fakes, ids: Sequence[str], labels: Sequence[Any]) -> None:
    """What an earlier release has written to the disk."""
    rules, fakes.observations.rules = fakes.observations.rules, anything
    post(fakes, ids, labels)
    fakes.observations.ingest("churn")
    fakes.observations.rules = rules


KEEPS = [post, before_there_were_rules]


# --- probation ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", KEEPS)
def test_a_bad_version_is_taken_back_whatever_else_is_among_the_labels(numbers: Fakes, keep: Any) -> None:
    given = watching()
    numbers.live(given, "good")
    bad = numbers.live(given, "bad", skill=0.0)
    ids = numbers.answered(bad, 200, 260, hour=0, right=False, labelled=False)
    keep(numbers, ids, [*BAD, *map(str, rows(204, 260)[1].tolist())])
    look(numbers, given)
    step = probation.next_step(numbers.world, given, on_probation(numbers))
    assert step.step is Step.TAKE_BACK
    assert step.because.startswith("mean absolute error on 56 labelled rows: churn@2 1")


@pytest.mark.parametrize("keep", KEEPS)
def test_probation_says_that_it_is_blind(numbers: Fakes, keep: Any) -> None:
    given = watching()
    numbers.live(given, "good")
    new = numbers.live(given, "new")
    ids = numbers.answered(new, 200, 230, hour=0, labelled=False)
    keep(numbers, ids, ["six"] * 30)
    look(numbers, given)
    step = probation.next_step(numbers.world, given, on_probation(numbers))
    assert step.step is Step.WAIT
    assert "30 labels were refused: not what the version can answer" in step.because


# --- windows --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", KEEPS)
def test_a_window_is_judged_by_the_labels_that_fit_and_says_what_was_left_out(
    numbers: Fakes, keep: Any
) -> None:
    given = watching()
    ids = numbers.answered(numbers.live(given, "good"), 200, 230, hour=0, labelled=False)
    keep(numbers, ids, [*BAD, *rows(204, 230)[1].tolist()])
    [(window, decision)] = look(numbers, given).windows
    assert (window.labelled, window.refused) == (26, 4)
    assert decision.because == (
        "every metric within its limits; 4 labels were refused: not what the version can answer"
    )
    assert look(numbers, given).windows == ()


def test_a_blind_window_says_why_also_when_the_bad_labels_come_late(numbers: Fakes) -> None:
    given = watching()
    ids = numbers.answered(numbers.live(given, "good"), 200, 230, hour=0, labelled=False)
    look(numbers, given)
    post(numbers, ids, ["six"] * 30)
    seen = look(numbers, given)
    [(window, decision)] = seen.windows
    assert (window.labelled, decision.action) == (0, Action.KEEP)
    assert "0 labelled rows, 10 needed to judge mae" in decision.because
    assert "30 labels were refused" in decision.because
    assert seen.refused_labels.labels == 30
    assert "expected a finite number" in str(seen.refused_labels.examples[0])
    post(numbers, ids, rows(200, 230)[1].tolist())
    seen = look(numbers, given)
    assert (seen.windows[0][0].labelled, seen.refused_labels.labels) == (30, 0)


def test_a_class_that_no_version_knows_counts_as_wrong_where_the_policy_says_so(fakes: Fakes) -> None:
    given = policy()
    ids = fakes.answered(fakes.live(given, "run1"), 200, 230, hour=0, labelled=False)
    post(fakes, ids, ["banana"] * 15 + rows(215, 230)[1].tolist())
    [(window, decision)] = look(fakes, given).windows
    assert (window.labelled, window.refused, decision.action) == (15, 15, Action.KEEP)
    fakes.observations.rules = TruthRules(fakes.ledger, fakes.bundles, lambda model: True)
    [(window, decision)] = look(fakes, given).windows
    assert (window.labelled, window.refused, decision.action) == (30, 0, Action.RETRAIN)
    assert "accuracy 0.500" in decision.because


# --- gates and retraining -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("task", [REGRESSION, CLASSES])
def test_gates_look_at_the_rows_whose_labels_fit(fakes: Fakes, task: Task, keep: Any) -> None:
    fakes.task = task
    name = "mae" if task.kind == "regression" else "accuracy"
    level = {"at_most": 0.2} if name == "mae" else {"at_least": 0.8}
    given = watching(evaluate=EvaluateOn("labelled_window", min_rows=20))
    gate = Use("metric", {"name": name, "min_n": 10, **level})
    given = replace(given, stages={**given.stages, "staging": Stage(gates=(gate,), auto=True)})
    version = fakes.version("run1")
    for stage in given.ladder.stages:
        fakes.promote(given, version, stage)
    ids = fakes.answered(version, 200, 230, hour=0, labelled=False)
    keep(fakes, ids, [*BAD, *map(str, rows(204, 230)[1].tolist())])
    fakes.observations.ingest("churn")
    judgement = judge(fakes.world, given, "staging", fakes.version("run2"), version)
    [finding] = judgement.findings
    assert finding.verdict is Verdict.PASS, finding.because
    assert judgement.evaluation is not None and judgement.evaluation.rows == 26
    assert "4 labels were refused" in judgement.evaluation.details["source"]


@pytest.mark.parametrize("keep", KEEPS)
def test_nobody_learns_from_a_label_that_does_not_fit(numbers: Fakes, keep: Any) -> None:
    given = watching()
    ids = numbers.answered(numbers.live(given, "good"), 200, 210, hour=0, labelled=False)
    keep(numbers, ids, [*BAD, *map(str, rows(204, 210)[1].tolist())])
    observed = extra_rows(numbers.world, given)
    assert observed is not None
    assert observed.truth.tolist() == rows(204, 210)[1].tolist()
    assert observed.refused == {1: 4}


# --- corrections ----------------------------------------------------------------------------------------------------


def corrected(fakes: Fakes, ids: Sequence[str], labels: Sequence[Any]) -> Any:
    given = np.array(ids, object), np.array(labels, object)
    return labelling.correct(fakes.world, policy(), "churn", [MODEL], *given, ADA)


def test_a_correction_re_reads_the_window_and_is_recorded(fakes: Fakes) -> None:
    given = policy()
    ids = fakes.answered(fakes.live(given, "run1"), 200, 230, hour=0, labelled=False)
    right = rows(200, 230)[1]
    post(fakes, ids, (1 - right).tolist())
    [(_, decision)] = look(fakes, given).windows
    assert decision.action is Action.RETRAIN
    told = corrected(fakes, ids, right.tolist())
    assert (told.replaced, told.conflicting) == (30, 0)
    [(window, decision)] = look(fakes, given).windows
    assert (window.labelled, decision.action) == (30, Action.KEEP)
    [entry] = fakes.ledger.entries(MODEL, kinds=(Kind.LABELS_REPLACED,))
    assert (entry.draft.actor, entry.draft.version) == (ADA, 1)
    assert entry.draft.reason == "30 labels of churn replaced"
    assert entry.draft.data == {"endpoint": "churn", "labels": {"1": 30}}
    assert fakes.places == {1: "production"}


def test_labels_that_say_the_same_correct_nothing(fakes: Fakes) -> None:
    given = policy()
    ids = fakes.answered(fakes.live(given, "run1"), 200, 230, hour=0)
    look(fakes, given)
    told = corrected(fakes, ids, rows(200, 230)[1].tolist())
    assert (told.repeated, told.replaced) == (30, 0)
    assert fakes.ledger.entries(MODEL, kinds=(Kind.LABELS_REPLACED,)) == []
    assert look(fakes, given).windows == ()


# --- rules ----------------------------------------------------------------------------------------------------------


def test_of_a_version_whose_bytes_were_freed_the_kind_is_known_from_another(numbers: Fakes) -> None:
    numbers.version("run1")
    gone = numbers.version("run2")
    numbers.bundles.remove(gone.digest)
    rules = TruthRules(numbers.ledger, numbers.bundles)
    assert rules(MODEL, 2) == LabelRule("regression")
    assert rules("another", 1) is None


def test_a_version_that_comes_later_gets_its_rule(fakes: Fakes) -> None:
    rules = TruthRules(fakes.ledger, fakes.bundles)
    assert rules(MODEL, 1) is None
    fakes.version("run1")
    assert rules(MODEL, 1) == LabelRule("classification", (0, 1))
