"""Which labels can be true of a row, and what a version would call them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlplatform.domain.bundle import Task
from mlplatform.domain.truth import BadLabel, LabelRule, Misfit, is_prediction_id

NUMBERS = LabelRule.of(Task("regression", "value"))


@pytest.mark.parametrize(
    ("label", "number"),
    [
        (6, 6),
        (6.5, 6.5),
        ("6", 6),
        (" 6.50 ", 6.5),
        ("1e3", 1000.0),
        ("-0.5", -0.5),
        (True, 1),
        (10**30, 1e30),
    ],
)
def test_a_regression_takes_finite_numbers_and_text_that_says_one(label: Any, number: float) -> None:
    assert NUMBERS.read(label) == number


@pytest.mark.parametrize(
    "label",
    ["six", "?", "", "6,5", "1_000", "nan", "inf", "-Infinity", "1e999", 10**400, float("inf"), "<=50K"],
)
def test_a_regression_refuses_what_is_no_finite_number(label: Any) -> None:
    assert NUMBERS.read(label) == Misfit("refused", "a finite number")


@given(st.one_of(st.text(), st.integers(), st.floats(allow_nan=False), st.booleans()))
def test_whatever_a_regression_takes_can_be_counted_with(label: Any) -> None:
    read = NUMBERS.read(label)
    assert isinstance(read, Misfit) or abs(float(read)) < float("inf")


@pytest.mark.parametrize(
    ("classes", "label", "name"),
    [
        ((0, 1), "1", 1),
        ((0, 1), "1.0", 1),
        ((0, 1), True, 1),
        ((0.5, 1.5), "0.50", 0.5),
        (("0", "1"), 1.0, "1"),
        ((False, True), "true", True),
        ((False, True), 0, False),
        (("<=50K", ">50K"), "<=50K", "<=50K"),
    ],
)
def test_a_class_is_called_what_the_version_calls_it(classes: Any, label: Any, name: Any) -> None:
    read = LabelRule("classification", classes).read(label)
    assert (read, type(read)) == (name, type(name))


@pytest.mark.parametrize(
    ("classes", "label"), [((0, 1), 2), ((0, 1), "yes"), (("a", "b"), "A"), (("a", "b"), 0), ((0, 1), 0.5)]
)
def test_another_class_is_unknown_unless_new_ones_may_come(classes: Any, label: Any) -> None:
    read = LabelRule("classification", classes).read(label)
    assert isinstance(read, Misfit) and read.flaw == "unknown_class"
    assert LabelRule("classification", classes, new_classes=True).read(label) == label


def test_of_many_classes_some_are_named() -> None:
    read = LabelRule("classification", tuple(range(30))).read("x")
    assert isinstance(read, Misfit)
    assert read.expected == "a class that the model knows (0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 20 more)"


def test_where_classes_are_not_known_every_label_will_do() -> None:
    assert LabelRule("classification").read("banana") == "banana"


def test_a_bad_label_is_told_in_one_short_line() -> None:
    told = BadLabel.of(17, "aa/0", "x" * 500, "a finite number")
    assert str(told).startswith("row 17: aa/0 'xxx")
    assert len(str(told)) < 130


@pytest.mark.parametrize("name", ["", "a", "/0", "a/", "a/b", "a/-1", "a/1.0", "a" * 200 + "/0"])
def test_only_servers_ids_are_ids(name: str) -> None:
    assert not is_prediction_id(name)
    assert is_prediction_id("a/b/3")
