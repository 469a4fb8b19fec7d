"""Signature, leak and freshness: what callers rely on, what was seen before, what is too old."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from mlplatform.domain.bundle import Column, Dtype, Parameter, Task
from mlplatform.domain.verdict import Verdict
from mlplatform.plugins.gates.freshness import FreshnessGate
from mlplatform.plugins.gates.leak import LeakGate
from mlplatform.plugins.gates.signature import SignatureGate
from mlplatform.ports.extensions import Subject
from mlplatform.testing.subjects import awkward_subjects, make_subject

NOW = datetime(2026, 3, 1, tzinfo=UTC)
BEFORE = (Column("age", "long"), Column("city", "string"), Column("note", "string", required=False))
LABELS = Task("classification", "label", ("no", "yes"))


def changed(inputs: tuple[Column, ...] = BEFORE, task: Task = LABELS, before: Task = LABELS) -> Subject:
    subject = make_subject(rows=10)
    return replace(
        subject,
        manifest=replace(subject.manifest, inputs=inputs, task=task),
        incumbent_manifest=replace(subject.manifest, inputs=BEFORE, task=before),
    )


# --- signature ---


def test_the_same_signature_passes_and_so_does_a_first_version() -> None:
    assert SignatureGate().judge(changed()).verdict is Verdict.PASS
    first = SignatureGate().judge(awkward_subjects()["no incumbent"])
    assert first.verdict is Verdict.PASS and "no incumbent" in first.because


K = Parameter("k", "long", 3)


@pytest.mark.parametrize(
    ("param", "said"),
    [
        (None, "parameter k is gone"),
        (Parameter("k", "string", "3"), "parameter k was long and is string"),
        (Parameter("k", "long", (3,), (-1,)), "parameter k was one value and is no longer"),
        (Parameter("k", "double", 0.5), ""),
        (K, ""),
    ],
)
def test_parameters_that_callers_set_may_not_narrow(param: Parameter | None, said: str) -> None:
    subject = changed()
    assert subject.incumbent_manifest is not None
    before = replace(subject.incumbent_manifest, params=(K,))
    after = replace(
        subject.manifest, params=() if param is None else (Parameter("new", "string", "x"), param)
    )
    finding = SignatureGate().judge(replace(subject, manifest=after, incumbent_manifest=before))
    assert finding.verdict is (Verdict.FAIL if said else Verdict.PASS)
    assert said in finding.because


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (BEFORE[1:], "column age is gone"),
        (BEFORE[:2], "column note is gone"),
        ((*BEFORE, Column("income", "double")), "column income is new and required"),
        ((*BEFORE[:2], Column("note", "string")), "column note was optional and is required"),
        ((Column("age", "integer"), *BEFORE[1:]), "column age was long and is integer"),
        ((Column("age", "string"), *BEFORE[1:]), "column age was long and is string"),
        ((Column("age", "float"), *BEFORE[1:]), "column age was long and is float"),
    ],
)
def test_inputs_may_not_narrow(inputs: tuple[Column, ...], said: str) -> None:
    finding = SignatureGate().judge(changed(inputs))
    assert (finding.verdict, finding.because) == (Verdict.FAIL, f"callers of churn@1 would break: {said}")


@pytest.mark.parametrize(
    "inputs",
    [
        (Column("age", "double"), *BEFORE[1:]),
        (Column("age", "long", required=False), *BEFORE[1:]),
        (*BEFORE, Column("income", "double", required=False)),
        BEFORE[::-1],
    ],
)
def test_inputs_may_widen(inputs: tuple[Column, ...]) -> None:
    assert SignatureGate().judge(changed(inputs)).verdict is Verdict.PASS


@pytest.mark.parametrize(("old", "new"), [("integer", "long"), ("integer", "double"), ("float", "double")])
def test_types_may_widen_and_never_the_other_way(old: Dtype, new: Dtype) -> None:
    subject = changed()
    for first, second, verdict in ((old, new, Verdict.PASS), (new, old, Verdict.FAIL)):
        before = replace(subject.manifest, inputs=(Column("x", first),))
        after = replace(subject.manifest, inputs=(Column("x", second),))
        found = SignatureGate().judge(replace(subject, manifest=after, incumbent_manifest=before))
        assert found.verdict is verdict


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Task("regression", "value"), "the task was classification and is regression"),
        (
            Task("classification", "probabilities", ("no", "yes")),
            "the answers were label and are probabilities",
        ),
        (Task("classification", "label", ("no", "yes", "maybe")), "the class(es) maybe are new"),
        (Task("classification", "label", ("no",)), "the class(es) yes are gone"),
    ],
)
def test_answers_stay_what_callers_know(task: Task, said: str) -> None:
    finding = SignatureGate().judge(changed(task=task))
    assert finding.verdict is Verdict.FAIL and said in finding.because


def test_labels_may_stand_in_any_order_and_probabilities_may_not() -> None:
    turned = Task("classification", "label", ("yes", "no"))
    assert SignatureGate().judge(changed(task=turned)).verdict is Verdict.PASS
    old, new = (Task("classification", "probabilities", order) for order in (("no", "yes"), ("yes", "no")))
    finding = SignatureGate().judge(changed(task=new, before=old))
    assert finding.verdict is Verdict.FAIL and "another order" in finding.because


def test_new_classes_pass_where_callers_know_of_them() -> None:
    more = Task("classification", "label", ("no", "yes", "maybe"))
    assert SignatureGate(new_classes=True).judge(changed(task=more)).verdict is Verdict.PASS
    fewer = Task("classification", "label", ("no",))
    assert SignatureGate(new_classes=True).judge(changed(task=fewer)).verdict is Verdict.FAIL
    old, new = (Task("classification", "probabilities", c) for c in (("no", "yes"), ("no", "yes", "maybe")))
    assert SignatureGate(new_classes=True).judge(changed(task=new, before=old)).verdict is Verdict.FAIL


def test_every_break_is_told_at_once() -> None:
    because = SignatureGate().judge(changed(BEFORE[2:], Task("regression", "value"))).because
    assert "column age is gone; column city is gone; the task was" in because


# --- leak ---


def test_rows_from_the_training_data_fail_with_their_share_and_what_is_left() -> None:
    subject = replace(make_subject(rows=970), rows_offered=1000, seen_in_training=20, seen_by_incumbent=10)
    finding = LeakGate().judge(subject)
    assert finding.verdict is Verdict.FAIL
    assert finding.because == (
        "20 of 1000 rows (2.00%) were in the training data of churn@2, 10 more in that of churn@1, "
        "none is allowed; 970 rows are left to judge on"
    )
    assert "at most 1.5% are allowed;" in LeakGate(at_most=0.015).judge(subject).because
    assert (finding.measurements[0].value, finding.measurements[0].n) == (0.02, 1000)
    assert LeakGate(at_most=0.02).judge(subject).verdict is Verdict.PASS


def test_what_only_the_incumbent_saw_is_no_leak() -> None:
    subject = replace(make_subject(), rows_offered=1000, seen_in_training=0, seen_by_incumbent=600)
    assert LeakGate().judge(subject).verdict is Verdict.PASS


def test_rows_that_were_not_compared_or_are_not_there_do_not_pass() -> None:
    assert LeakGate().judge(replace(make_subject(), seen_in_training=None)).verdict is Verdict.ERROR
    assert LeakGate().judge(replace(make_subject(), rows_offered=0)).verdict is Verdict.INCONCLUSIVE


# --- freshness ---


def aged(version: timedelta | None = None, rows: timedelta | None = None) -> Subject:
    return replace(
        make_subject(),
        now=NOW,
        trained_at=None if version is None else NOW - version,
        newest_row=None if rows is None else NOW - rows,
    )


def test_what_is_young_enough_passes_to_the_second() -> None:
    gate = FreshnessGate(max_age="30d", data_max_age="7d")
    assert gate.judge(aged(timedelta(days=30), timedelta(days=7))).verdict is Verdict.PASS
    late = gate.judge(aged(timedelta(days=30, seconds=1), timedelta(days=7)))
    assert late.verdict is Verdict.FAIL
    assert late.because == "churn@2 is 30d old, more than 30d"
    assert [m.name for m in late.measurements] == ["max_age_days", "data_max_age_days"]


def test_stale_rows_are_told_with_where_they_come_from() -> None:
    finding = FreshnessGate(data_max_age="7d").judge(aged(rows=timedelta(days=9, hours=5)))
    assert finding.verdict is Verdict.FAIL
    assert finding.because == "the newest row of the holdout of run 1a2b is 9d 5h old, more than 7d"


def test_rows_without_a_time_cannot_be_told_young() -> None:
    finding = FreshnessGate(data_max_age="7d").judge(aged(timedelta(1)))
    assert finding.verdict is Verdict.ERROR and "[data] time" in finding.because
    assert FreshnessGate(max_age="7d").judge(aged(timedelta(1))).verdict is Verdict.PASS


def test_a_row_from_the_future_is_no_young_row() -> None:
    gate = FreshnessGate(data_max_age="7d")
    assert gate.judge(aged(rows=timedelta(minutes=-4))).verdict is Verdict.PASS, "clocks differ a little"
    finding = gate.judge(aged(rows=timedelta(days=-1)))
    assert finding.verdict is Verdict.ERROR and "1d ahead of the clock" in finding.because
