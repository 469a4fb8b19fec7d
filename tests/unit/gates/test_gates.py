"""Gates judge: what passes, what fails, and what cannot be told."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.bundle import Task
from mlplatform.domain.verdict import Verdict
from mlplatform.plugins.gates.budget import BudgetGate
from mlplatform.plugins.gates.metric import MetricGate
from mlplatform.plugins.gates.no_regression import NoRegressionGate
from mlplatform.plugins.gates.serving_check import ServingCheckGate
from mlplatform.plugins.gates.slices import SlicesGate
from mlplatform.ports.evaluation import Cost, Latency, ServingReport
from mlplatform.ports.extensions import Subject
from mlplatform.stats.labels import Answers
from mlplatform.testing.subjects import awkward_subjects, make_subject


@pytest.fixture
def subject() -> Subject:
    return make_subject(rows=2000, skill=0.85)


def test_metric_passes_at_its_limit_and_fails_below(subject: Subject) -> None:
    assert MetricGate("accuracy", at_least=0.80).judge(subject).verdict is Verdict.PASS
    assert MetricGate("accuracy", at_least=0.90).judge(subject).verdict is Verdict.FAIL
    assert MetricGate("log_loss", at_most=2.0).judge(subject).verdict is Verdict.PASS
    assert MetricGate("log_loss", at_most=0.1).judge(subject).verdict is Verdict.FAIL


def test_metric_finding_tells_value_interval_rows_and_limit(subject: Subject) -> None:
    finding = MetricGate("accuracy", at_least=0.8).judge(subject)
    (number,) = finding.measurements
    assert number.n == 2000
    assert number.low is not None and number.high is not None
    assert number.low < number.value < number.high
    assert finding.limit == "accuracy at_least 0.8"
    assert "2000 rows" in finding.because and subject.data in finding.because


@pytest.mark.parametrize(
    ("gate", "demanded"),
    [
        (MetricGate("accuracy", at_least=0.9), "on 2000 rows, at least 0.9 is demanded, on holdout"),
        (MetricGate("log_loss", at_most=0.1), "on 2000 rows, at most 0.1 is demanded, on holdout"),
        (
            MetricGate("accuracy", at_least=0.95, strict=True),
            "at least 0.95 is demanded of the whole interval, on",
        ),
        (SlicesGate(by="group", name="accuracy", at_least=0.99), "; at least 0.99 is demanded, on holdout"),
        (NoRegressionGate("accuracy", margin=0.02), "margin 0.02"),
        (
            SlicesGate(by="group", name="accuracy", margin=0.02),
            "; a loss of less than 0.02 is allowed, on holdout",
        ),
    ],
)
def test_a_fail_names_the_limit_that_was_demanded(gate: Any, demanded: str) -> None:
    finding = gate.judge(make_subject(rows=2000, skill=0.7, incumbent_skill=0.9))
    assert finding.verdict is Verdict.FAIL
    assert demanded in finding.because
    assert f"{finding.measurements[0].value:.4g}" in finding.because or finding.gate != "metric"


def test_metric_cannot_tell_below_its_least_rows() -> None:
    finding = MetricGate("accuracy", at_least=0.5, min_n=100).judge(make_subject(rows=99))
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "100 rows would be enough" in finding.because


def test_strict_metric_wants_the_whole_interval_within_the_limit(subject: Subject) -> None:
    value = MetricGate("accuracy", at_least=0.5).judge(subject).measurements[0].value
    near = MetricGate("accuracy", at_least=value - 0.001, strict=True).judge(subject)
    assert near.verdict is Verdict.INCONCLUSIVE
    assert "rows would be enough" in near.because
    assert MetricGate("accuracy", at_least=value - 0.1, strict=True).judge(subject).verdict is Verdict.PASS
    assert MetricGate("accuracy", at_least=value + 0.1, strict=True).judge(subject).verdict is Verdict.FAIL


def test_scores_that_are_not_numbers_fail() -> None:
    subject = awkward_subjects()["scores that are not numbers"]
    assert MetricGate("accuracy", at_least=0.1).judge(subject).verdict is Verdict.FAIL
    assert NoRegressionGate("accuracy").judge(subject).verdict is Verdict.FAIL


@pytest.mark.parametrize("name", ["accuracy", "f1"])
def test_a_metric_of_another_kind_of_task_is_an_error_not_a_pass(name: str) -> None:
    regression = awkward_subjects()["a regression"]
    assert MetricGate(name, at_least=0.0).judge(regression).verdict is Verdict.ERROR
    assert NoRegressionGate(name, margin=0.5).judge(regression).verdict is Verdict.ERROR
    assert MetricGate("mae", at_most=9.0).judge(make_subject()).verdict is Verdict.ERROR


def test_the_same_answers_do_not_regress(subject: Subject) -> None:
    same = replace(subject, incumbent_answers=subject.answers)
    for name in ("accuracy", "auc", "f1", "brier"):
        assert NoRegressionGate(name, margin=0.02).judge(same).verdict is Verdict.PASS, name


def test_a_clearly_worse_candidate_fails_and_a_doubtful_one_waits_for_rows() -> None:
    worse = make_subject(rows=3000, skill=0.70, incumbent_skill=0.90)
    assert NoRegressionGate("accuracy", margin=0.01).judge(worse).verdict is Verdict.FAIL
    assert NoRegressionGate("auc", margin=0.01).judge(worse).verdict is Verdict.FAIL
    doubtful = NoRegressionGate("accuracy", margin=0.001).judge(make_subject(rows=150, seed=3))
    assert doubtful.verdict is Verdict.INCONCLUSIVE
    assert "rows would be enough" in doubtful.because


def test_no_regression_tells_test_margin_and_both_values(subject: Subject) -> None:
    finding = NoRegressionGate("accuracy", margin=0.05).judge(subject)
    names = [number.name for number in finding.measurements]
    assert names == ["accuracy", "accuracy of the incumbent", "accuracy gained"]
    assert "tango" in finding.because and "margin 0.05" in finding.because and "churn@1" in finding.because


def test_without_an_incumbent_nothing_regresses_and_it_says_so() -> None:
    finding = NoRegressionGate("accuracy").judge(awkward_subjects()["no incumbent"])
    assert finding.verdict is Verdict.PASS
    assert "no incumbent" in finding.because


def test_an_incumbent_that_was_not_measured_is_an_error() -> None:
    subject = awkward_subjects()["an incumbent that was not measured"]
    assert NoRegressionGate("accuracy").judge(subject).verdict is Verdict.ERROR
    assert BudgetGate(cpu_times_incumbent=2.0).judge(subject).verdict is Verdict.ERROR


def test_scores_of_an_incumbent_with_other_classes_are_put_in_order(subject: Subject) -> None:
    answers, before = subject.answers, subject.incumbent_answers
    assert answers is not None and before is not None and before.scores is not None
    manifest = replace(subject.manifest, task=Task("classification", "label", (1, 0)))
    turned = replace(
        subject, incumbent_manifest=manifest, incumbent_answers=Answers(before.labels, before.scores[:, ::-1])
    )
    gate = NoRegressionGate("auc", margin=0.02)
    assert gate.judge(turned).measurements == gate.judge(subject).measurements


def test_resampling_repeats_for_the_same_data_and_differs_for_other(subject: Subject) -> None:
    gate = NoRegressionGate("f1", margin=0.02)
    assert gate.judge(subject) == gate.judge(subject)
    assert gate.judge(subject) != gate.judge(replace(subject, seed=subject.seed + 1))


def test_budget_limits_size_memory_and_cpu(subject: Subject) -> None:
    assert BudgetGate(size_mb=2.0).judge(subject).verdict is Verdict.PASS
    assert BudgetGate(size_mb=1.9).judge(subject).verdict is Verdict.FAIL
    assert BudgetGate(memory_mb=59).judge(subject).verdict is Verdict.FAIL
    assert BudgetGate(cpu_us=10).judge(subject).verdict is Verdict.PASS
    assert BudgetGate(cpu_times_incumbent=0.8).judge(subject).verdict is Verdict.FAIL
    both = BudgetGate(cpu_us=5, size_mb=100).judge(subject)
    assert both.verdict is Verdict.FAIL
    assert "cpu_us is 10, above 5" in both.because and "size_mb" not in both.because


def test_budget_needs_what_it_limits(subject: Subject) -> None:
    assert BudgetGate(cpu_us=5).judge(replace(subject, cost=None)).verdict is Verdict.ERROR
    free = replace(subject, incumbent_cost=Cost(0.0, 1))
    assert BudgetGate(cpu_times_incumbent=5).judge(free).verdict is Verdict.ERROR
    alone = awkward_subjects()["no incumbent"]
    assert BudgetGate(cpu_times_incumbent=1.0).judge(alone).verdict is Verdict.PASS


def test_budget_measures_only_what_it_limits() -> None:
    assert BudgetGate(size_mb=1).needs == frozenset()
    assert BudgetGate(memory_mb=1).needs == BudgetGate(cpu_us=1).needs == {"cost"}
    assert BudgetGate(p99_ms=1).needs == {"latency"}
    assert BudgetGate(p99_ms=1, cpu_times_incumbent=2).needs == {"cost", "latency"}


def test_a_ratio_of_cpu_times_has_the_interval_of_its_rounds_and_cannot_tell_when_it_lies_around_the_limit(
    subject: Subject,
) -> None:
    other = Cost(10.0, 1, tuple([10.0] * 15))
    rounds = tuple(12.0 + step / 10 for step in range(15))
    rivals = replace(subject, cost=Cost(12.7, 1, rounds), incumbent_cost=other)
    (number,) = BudgetGate(cpu_times_incumbent=1.5).judge(rivals).measurements
    assert (number.value, number.low, number.high, number.n) == pytest.approx((1.27, 1.23, 1.31, 15))
    assert BudgetGate(cpu_times_incumbent=1.32).judge(rivals).verdict is Verdict.PASS
    assert BudgetGate(cpu_times_incumbent=1.22).judge(rivals).verdict is Verdict.FAIL
    doubtful = BudgetGate(cpu_times_incumbent=1.27).judge(rivals)
    assert doubtful.verdict is Verdict.INCONCLUSIVE
    assert "[1.23, 1.31] over 15, around 1.27" in doubtful.because
    assert BudgetGate(cpu_us=12.6).judge(rivals).verdict is Verdict.INCONCLUSIVE


def test_rounds_that_a_busy_machine_hit_alike_cancel_out(subject: Subject) -> None:
    noise = tuple(10.0 * (1 + (step % 5)) for step in range(15))
    rivals = replace(
        subject,
        cost=Cost(30.0, 1, tuple(1.2 * n for n in noise)),
        incumbent_cost=Cost(30.0, 1, noise),
    )
    assert BudgetGate(cpu_times_incumbent=1.25).judge(rivals).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("latency", "verdict", "said"),
    [
        (Latency(0.8, 0.7, 0.9, 2000, 0.0), Verdict.PASS, "p99_ms is 0.8 [0.7, 0.9] over 2000, within 1"),
        (Latency(0.8, 0.7, 0.9, 2000, 0.2), Verdict.PASS, "within 1"),
        (Latency(1.8, 1.7, 1.9, 2000, 0.0), Verdict.FAIL, "above 1"),
        (Latency(1.8, 1.7, 1.9, 2000, 0.02), Verdict.INCONCLUSIVE, "busy: 2.0% of 2000 calls had to wait"),
        (Latency(1.0, 0.9, 1.1, 2000, 0.0), Verdict.INCONCLUSIVE, "around 1"),
        (Latency(0.9, 0.8, math.inf, 90, 0.0), Verdict.INCONCLUSIVE, "90 calls, all there was time for"),
        (Latency(90.0, 80.0, math.inf, 90, 0.0), Verdict.FAIL, "above 1"),
        (None, Verdict.ERROR, "p99_ms was not measured"),
    ],
)
def test_a_slow_row_on_a_busy_machine_cannot_be_told_and_a_fast_one_can(
    subject: Subject, latency: Latency | None, verdict: Verdict, said: str
) -> None:
    finding = BudgetGate(p99_ms=1.0).judge(replace(subject, latency=latency))
    assert finding.verdict is verdict
    assert said in finding.because


def test_serving_check_fails_with_the_problems_it_saw(subject: Subject) -> None:
    assert ServingCheckGate().judge(subject).verdict is Verdict.PASS
    broken = replace(subject, serving=ServingReport(("it hangs", "it lies"), 1.0, 1.0, 1))
    finding = ServingCheckGate().judge(broken)
    assert finding.verdict is Verdict.FAIL
    assert finding.because == "it hangs; it lies"
    assert ServingCheckGate(latency_ms=0.01).judge(subject).verdict is Verdict.FAIL
    assert ServingCheckGate().judge(replace(subject, serving=None)).verdict is Verdict.ERROR


def test_text_labels_are_judged_like_numbers() -> None:
    numbers, names = make_subject(), awkward_subjects()["text labels"]
    for gate in (MetricGate("auc", at_least=0.5), NoRegressionGate("accuracy", margin=0.05)):
        assert gate.judge(numbers).measurements == gate.judge(names).measurements
    assert isinstance(names.truth, np.ndarray) and names.truth.dtype == object
