"""From model outputs to labels and scores."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mlplatform.errors import UnknownName, UsageError
from mlplatform.stats.labels import Answers, find_classes, softmax, to_codes, to_labels, to_scores


def test_one_number_per_row_is_the_positive_class() -> None:
    p = np.array([[0.2], [0.5], [0.9]])
    assert to_labels(p, "probabilities").tolist() == [0, 0, 1]
    assert to_labels(p[:, 0], "probabilities", ["no", "yes"]).tolist() == ["no", "no", "yes"]
    assert to_labels(np.array([-1.0, 2.0]), "logits").tolist() == [0, 1]
    assert to_scores(p, None, "probabilities")[:, 1].tolist() == [0.2, 0.5, 0.9]


def test_labels_and_values_are_taken_as_they_are() -> None:
    assert to_labels(np.array([["a"], ["b"]]), "label").tolist() == ["a", "b"]
    assert to_labels(np.array([1, 2]), "value").dtype == np.float64
    assert to_scores(np.array([1, 2]), None, "label") is None


def test_a_second_output_holds_the_scores() -> None:
    assert to_scores(np.array([0, 1]), np.array([[0.7, 0.3], [0.1, 0.9]]), "label").shape == (2, 2)


@given(arrays(np.float64, (4, 3), elements=st.floats(-1e4, 1e4)))
def test_softmax_sums_to_one_and_keeps_the_likeliest(logits) -> None:
    p = softmax(logits)
    assert p.sum(axis=1) == pytest.approx(np.ones(4))
    assert (p[np.arange(4), logits.argmax(axis=1)] == p.max(axis=1)).all()


def test_unknown_kinds_and_odd_shapes_are_refused() -> None:
    with pytest.raises(UnknownName, match="probs"):
        to_labels(np.zeros(2), "probs")
    with pytest.raises(UnknownName):
        to_scores(np.zeros(2), None, "probs")
    with pytest.raises(UsageError, match="wanted one per row"):
        to_labels(np.zeros((2, 3)), "label")
    with pytest.raises(UsageError):
        to_labels(np.zeros((2, 3, 4)), "probabilities")
    with pytest.raises(UsageError, match="more classes"):
        to_labels(np.eye(3), "probabilities", ["a", "b"])


@pytest.mark.parametrize(
    ("labels", "classes", "codes"),
    [
        (np.array([3, 1, 2, 9]), np.array([2, 1, 3]), [2, 1, 0, -1]),
        (np.array(["b", "a", "q"]), np.array(["a", "b"]), [1, 0, -1]),
        (np.array(["1", "0"], object), np.array([0, 1]), [1, 0]),
        (np.array([True, False]), np.array([0, 1]), [1, 0]),
        (np.array([1.0, 0.0]), np.array(["0", "1"]), [1, 0]),
    ],
)
def test_codes_are_places_among_the_classes(labels, classes, codes) -> None:
    assert to_codes(labels, classes).tolist() == codes


def test_classes_are_column_numbers_when_some_do_not_occur() -> None:
    assert find_classes(np.array([0, 2]), [Answers(np.array([2, 2]), np.ones((2, 4)) / 4)]).tolist() == [
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(UsageError, match="do not match"):
        find_classes(np.array(["a", "b"]), [Answers(np.array(["a", "b"]), np.ones((2, 4)) / 4)])


def test_answers_to_some_of_the_rows() -> None:
    some = Answers(np.array([1, 2, 3]), np.eye(3)).take(np.array([True, False, True]))
    assert some.labels.tolist() == [1, 3]
    assert some.scores.shape == (2, 3)
    assert len(some) == 2


def test_numbers_beside_text_are_classes_like_any_other() -> None:
    truth = np.array([0, 1, "<=50K", 1.0], object)
    assert find_classes(truth, (Answers(np.array([1, 0, 1, 1])),)).tolist() == [0, 1, "<=50K"]
