"""Slices and fairness: a group that falls behind, a group that is too small to tell, a group that nobody named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mlplatform.domain.verdict import Finding, Verdict
from mlplatform.plugins.gates.fairness import FairnessGate
from mlplatform.plugins.gates.slices import SlicesGate
from mlplatform.ports.extensions import Subject
from mlplatform.stats.arrays import Array
from mlplatform.stats.labels import Answers
from mlplatform.testing.subjects import awkward_subjects, make_subject

SIZES = {"blue": 600, "red": 1200, "green": 1200}


def subject_of(sizes: dict[str, int] = SIZES, **changes: float) -> Subject:
    """Truth half 0, half 1; a group's candidate errs on this share of its rows, the incumbent on 10 %."""
    parts = [_group(n, changes.get(name, 0.1)) for name, n in sizes.items()]
    truth, labels, before = (np.concatenate(column) for column in zip(*parts, strict=True))
    group = np.repeat(np.array(list(sizes), object), list(sizes.values()))
    whole = make_subject(rows=len(truth))
    return replace(
        whole,
        truth=truth,
        answers=Answers(labels),
        incumbent_answers=Answers(before),
        columns={"group": group, "age": np.arange(len(truth)) % 80},
    )


def _group(n: int, errs: float) -> tuple[Array, Array, Array]:
    """Errors lie evenly; those of the incumbent are others when the candidate errs elsewhere."""
    rows = np.arange(n)
    truth = rows % 2
    wrong, wrong_before = (np.floor((rows + 1) * share) > np.floor(rows * share) for share in (errs, 0.1))
    return truth, np.where(wrong, 1 - truth, truth), np.where(wrong_before, 1 - truth, truth)


def alone(subject: Subject) -> Subject:
    return replace(subject, incumbent=None, incumbent_manifest=None, incumbent_answers=None)


def numbers(finding: Finding) -> dict[str, float]:
    return {m.name: m.value for m in finding.measurements}


# --- slices ---


def test_a_candidate_like_the_incumbent_passes_in_every_slice() -> None:
    finding = SlicesGate(("group",)).judge(subject_of())
    assert finding.verdict is Verdict.PASS
    assert "all 3 slices" in finding.because and "holdout of run" in finding.because
    assert finding.limit == "accuracy margin 0.03 by group"
    assert {m.n for m in finding.measurements if m.name == "accuracy group=blue"} == {600}
    assert set(numbers(finding)) == {
        f"accuracy{gained} group={name}" for gained in ("", " gained") for name in SIZES
    }
    assert all(m.low is not None and m.high is not None for m in finding.measurements)


def test_one_group_that_got_worse_fails_though_the_whole_did_not() -> None:
    finding = SlicesGate(("group", "age"), bins=4).judge(subject_of(blue=0.2, red=0.05, green=0.05))
    assert finding.verdict is Verdict.FAIL
    assert finding.because.startswith("1 of 7 slices: group=blue accuracy against churn@1 -0.100 [")
    assert "(n=600)" in finding.because and "red" not in finding.because


def test_a_slice_that_is_too_small_cannot_be_told_and_is_named_with_the_rows_it_wants() -> None:
    subject = subject_of({"blue": 40, "red": 1200}, blue=0.9)
    finding = SlicesGate(("group",), min_n=100).judge(subject)
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "group=blue" in finding.because and "(n=40)" in finding.because
    assert "100 would be enough" in finding.because and "red" not in finding.because


def test_what_was_seen_is_stronger_than_what_cannot_be_told() -> None:
    subject = subject_of({"blue": 40, "red": 1200}, red=0.3)
    finding = SlicesGate(("group",)).judge(subject)
    assert finding.verdict is Verdict.FAIL and "group=red" in finding.because


def test_a_doubtful_slice_says_how_many_rows_would_be_enough() -> None:
    finding = SlicesGate(("group",), margin=0.01).judge(subject_of(blue=0.105))
    assert finding.verdict is Verdict.INCONCLUSIVE
    wanted = int(finding.because.partition("about ")[2].split()[0])
    assert wanted > 600


def test_without_an_incumbent_a_slice_is_held_against_the_other_rows() -> None:
    assert SlicesGate(("group",)).judge(alone(subject_of())).verdict is Verdict.PASS
    worse = SlicesGate(("group",)).judge(alone(subject_of(blue=0.25)))
    assert worse.verdict is Verdict.FAIL
    assert "group=blue accuracy against the other rows -0.150" in worse.because
    only = SlicesGate(("group",)).judge(alone(subject_of({"blue": 600})))
    assert only.verdict is Verdict.INCONCLUSIVE


def test_a_limit_holds_for_every_slice_and_needs_no_incumbent() -> None:
    subject = replace(subject_of(blue=0.25), incumbent_answers=None)
    assert SlicesGate(("group",), at_least=0.7).judge(subject).verdict is Verdict.PASS
    finding = SlicesGate(("group",), at_least=0.85).judge(subject)
    assert finding.verdict is Verdict.FAIL
    assert (
        "group=blue accuracy 0.750" in finding.because and finding.limit == "accuracy at_least 0.85 by group"
    )
    assert SlicesGate(("group",), at_least=0.75).judge(subject).verdict is Verdict.INCONCLUSIVE


def test_a_loss_has_to_stay_below_its_limit() -> None:
    regression = awkward_subjects()["a regression"]
    assert SlicesGate(("group",), "mae", at_most=0.2, min_n=50).judge(regression).verdict is not Verdict.FAIL
    low = SlicesGate(("group",), "mae", at_most=0.01, min_n=50).judge(regression)
    assert low.verdict is Verdict.FAIL
    assert 0 < numbers(low)["mae group=red"] < 0.2, "an error is shown as it is measured"


def test_holm_keeps_chance_from_failing_one_of_many_slices() -> None:
    """40 slices, each of which loses exactly the margin: about 5 % of such checks may fail, not most of them."""
    rng, gate, failed = np.random.default_rng(0), SlicesGate(("group",), margin=0.05), 0
    subject = make_subject(rows=8000)
    group = np.repeat(np.arange(40), 200).astype(str).astype(object)
    for _ in range(100):
        truth = rng.integers(0, 2, 8000)
        before = np.where(rng.random(8000) < 0.10, 1 - truth, truth)
        after = np.where(rng.random(8000) < 0.15, 1 - truth, truth)
        drawn = replace(
            subject,
            truth=truth,
            answers=Answers(after),
            incumbent_answers=Answers(before),
            columns={"group": group},
        )
        failed += gate.judge(drawn).verdict is Verdict.FAIL
    assert failed <= 10


def test_missing_values_are_a_slice_of_their_own() -> None:
    subject = subject_of(blue=0.3)
    group = np.where(subject.columns["group"] == "blue", None, subject.columns["group"])
    finding = SlicesGate(("group",)).judge(replace(subject, columns={"group": group}))
    assert finding.verdict is Verdict.FAIL and "group=(missing)" in finding.because


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("grop", "There is no column of the evaluation rows named 'grop'. Did you mean 'group'?"),
        ("sex", "Known: age, group. Others come with the holdout (`log_candidate(..., context=...)`)"),
        ("age", "age has 80 values, more than 50: give bins = 4"),
    ],
)
def test_a_column_that_cannot_be_grouped_by_is_an_error(column: str, said: str) -> None:
    for finding in (
        SlicesGate((column,)).judge(subject_of()),
        FairnessGate(column, 1, selection_ratio=0.8).judge(subject_of()),
    ):
        assert finding.verdict is Verdict.ERROR
        assert said in finding.because


def test_an_incumbent_that_could_not_answer_is_an_error_with_its_reason() -> None:
    subject = replace(
        subject_of(), incumbent_answers=None, incumbent_unmeasured="churn@1 could not be measured"
    )
    finding = SlicesGate(("group",)).judge(subject)
    assert (finding.verdict, finding.because) == (Verdict.ERROR, "churn@1 could not be measured")


# --- fairness ---


def chosen(rates: dict[str, float], n: int = 2000, errs: float = 0.0) -> Subject:
    """Groups of n rows of which a share deserves a 1 and is given it."""
    truth = np.concatenate([(np.arange(n) < round(rate * n)).astype(int) for rate in rates.values()])
    labels = np.where(np.arange(len(truth)) % 100 < errs * 100, 1 - truth, truth)
    group = np.repeat(np.array(list(rates), object), n)
    return replace(
        make_subject(rows=len(truth)), truth=truth, answers=Answers(labels), columns={"group": group}
    )


def test_groups_that_are_chosen_alike_pass_the_four_fifths_rule() -> None:
    finding = FairnessGate("group", 1, selection_ratio=0.8).judge(chosen({"f": 0.29, "m": 0.30}))
    assert finding.verdict is Verdict.PASS
    assert "ratio 0.967 [" in finding.because
    assert finding.limit == "selection_ratio 0.8 by group"
    assert numbers(finding)["selection rate group=f"] == 0.29


def test_a_group_that_is_chosen_less_fails_with_ratio_and_interval() -> None:
    finding = FairnessGate("group", 1, selection_ratio=0.8).judge(chosen({"f": 0.10, "m": 0.30}))
    assert finding.verdict is Verdict.FAIL
    assert (
        "selection rate of group=f 10.0% (n=2000), of group=m 30.0% (n=2000): ratio 0.333" in finding.because
    )
    worst = finding.measurements[-1]
    assert worst.name == "selection rate ratio group=f to group=m"
    assert worst.low is not None and worst.high is not None
    assert worst.low < 1 / 3 < worst.high < 0.8


def test_a_ratio_around_the_limit_cannot_be_told_and_says_how_many_rows_would_be_enough() -> None:
    finding = FairnessGate("group", 1, selection_ratio=0.8).judge(chosen({"f": 0.25, "m": 0.30}, n=300))
    assert finding.verdict is Verdict.INCONCLUSIVE
    assert "would be enough" in finding.because


def test_a_small_group_cannot_be_told_unless_others_fail() -> None:
    small = replace(
        chosen({"f": 0.3, "m": 0.3}), columns={"group": np.repeat(["f", "m", "x"], [2000, 1950, 50])}
    )
    finding = FairnessGate("group", 1, selection_ratio=0.8).judge(small)
    assert (finding.verdict, finding.because.partition(",")[0]) == (
        Verdict.INCONCLUSIVE,
        "group=x has 50 rows",
    )
    worse = chosen({"f": 0.1, "m": 0.3})
    assert (
        FairnessGate("group", 1, selection_ratio=0.8).judge(replace(worse, columns=small.columns)).verdict
        is Verdict.FAIL
    )


def test_equalized_odds_looks_at_both_kinds_of_error() -> None:
    gate = FairnessGate("group", 1, odds_difference=0.1)
    assert gate.judge(chosen({"f": 0.2, "m": 0.5}, errs=0.1)).verdict is Verdict.PASS
    fair = chosen({"f": 0.4, "m": 0.4})
    for truth, name in ((1, "true positive rate"), (0, "false positive rate")):
        assert fair.answers is not None
        hit = (fair.columns["group"] == "f") & (fair.truth == truth) & (np.arange(4000) % 4 == 0)
        finding = gate.judge(replace(fair, answers=Answers(np.where(hit, 1 - fair.truth, fair.truth))))
        assert finding.verdict is Verdict.FAIL
        assert f"{name} of group=" in finding.because and "difference 0.25" in finding.because


def test_nobody_chosen_cannot_be_told() -> None:
    nobody = chosen({"f": 0.0, "m": 0.0})
    finding = FairnessGate("group", 1, selection_ratio=0.8).judge(nobody)
    assert finding.verdict is Verdict.INCONCLUSIVE and "cannot be compared" in finding.because


def test_fairness_is_for_classes_that_the_model_has() -> None:
    unknown = FairnessGate("group", "yess", selection_ratio=0.8).judge(awkward_subjects()["text labels"])
    assert unknown.verdict is Verdict.ERROR and "Did you mean 'yes'?" in unknown.because
    regression = FairnessGate("group", 1, selection_ratio=0.8).judge(awkward_subjects()["a regression"])
    assert regression.verdict is Verdict.ERROR and "classification" in regression.because
    text = awkward_subjects()["text labels"]
    named = FairnessGate("group", "yes", selection_ratio=0.1, min_n=4).judge(text)
    numbered = FairnessGate("group", 1, selection_ratio=0.1, min_n=4).judge(make_subject())
    assert named.measurements == numbered.measurements
