"""Port Observations: the fake and the folders on disk tell the same story of captured rows and their labels."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.truth import LabelRule
from mlplatform.errors import UnknownName, UsageError
from mlplatform.ports.data import Corrected, Correction, Ingested, Labelled, Retention
from mlplatform.stats.uneven import Uneven
from tests.captured import START, Place, block, ids_of, minutes

# ---- ingest and read


def test_an_endpoint_that_never_answered_is_empty(place: Place) -> None:
    assert place.observations.ingest("shop") == Ingested(0, 0, 0)
    assert place.observations.read("shop").rows == 0
    assert place.observations.span("shop", None) is None
    assert place.observations.span("shop", "at") is None
    assert place.observations.pending("shop") == 0


def test_a_shadows_answers_have_the_live_ones_ids_and_are_read_apart(place: Place) -> None:
    live = block(3)
    place.capture(live)
    shadow = {**live, "arm": np.full(3, "shadow"), "version": np.full(3, 2, np.int32)}
    place.capture({**shadow, "prediction": 1 - live["prediction"]})
    place.observations.ingest("shop")
    place.observations.label("shop", ids_of(live), np.array([1, 1, 1]))
    given, beside = place.observations.read("shop"), place.observations.read("shop", shadow=True)
    assert (given.versions.tolist(), beside.versions.tolist()) == ([1, 1, 1], [2, 2, 2])
    assert given.ids.tolist() == beside.ids.tolist()
    assert beside.truth.tolist() == given.truth.tolist() == [1, 1, 1]


def test_rows_of_one_model_are_read_where_several_answer(place: Place) -> None:
    place.capture(block(2))
    other = block(3, first=2, **{"in:y": np.zeros(3)})
    place.capture({**other, "model": np.full(3, "fraud")})
    place.observations.ingest("shop")
    assert place.observations.read("shop").rows == 5
    mine, theirs = (place.observations.read("shop", model=name) for name in ("shop", "fraud"))
    assert (mine.columns["x"].tolist(), theirs.columns["x"].tolist()) == ([0, 1], [2, 3, 4])
    assert (sorted(mine.columns), sorted(theirs.columns)) == (["x"], ["x", "y"])


def test_captured_rows_are_seen_once_ingested_and_only_once(place: Place) -> None:
    place.capture(block(3))
    assert place.observations.read("shop").rows == 0
    assert place.observations.ingest("shop") == Ingested(1, 3, 0)
    assert place.observations.ingest("shop") == Ingested(0, 0, 0)
    seen = place.observations.read("shop")
    assert seen.columns["x"].tolist() == [0, 1, 2]
    assert seen.predictions.tolist() == [0, 1, 0]
    assert seen.truth.tolist() == [None] * 3
    assert not seen.labelled.any()
    assert seen.scores is None


def test_rows_come_back_oldest_first_whatever_block_they_came_in(place: Place) -> None:
    for first in (6, 0, 3):
        place.capture(block(3, first))
        place.observations.ingest("shop")
    seen = place.observations.read("shop")
    assert seen.columns["x"].tolist() == list(range(9))
    assert seen.times[0] == np.datetime64("2026-03-01T08:00")
    assert (np.diff(seen.times) > np.timedelta64(0)).all()


def test_a_window_includes_its_start_and_excludes_its_end(place: Place) -> None:
    place.capture(block(10))
    place.observations.ingest("shop")
    seen = place.observations.read("shop", minutes(2), minutes(5))
    assert seen.columns["x"].tolist() == [2, 3, 4]
    assert place.observations.read("shop", minutes(8)).rows == 2
    assert place.observations.read("shop", end=minutes(1)).rows == 1
    assert place.observations.read("shop", minutes(20), minutes(30)).rows == 0
    assert place.observations.span("shop", None) == (minutes(0), minutes(9))


def test_every_kind_of_column_comes_back_with_its_gaps(place: Place) -> None:
    kinds = {
        "in:whole": np.array([7, 0, 9]),
        "null:whole": np.array([False, True, False]),
        "in:city": np.array(["Bern", "", "Genève"]),
        "null:city": np.array([False, True, False]),
        "in:member": np.array([True, False, True]),
        "in:born": np.array(["2001-01-01", "NaT", "1999-05-05"], "datetime64[us]"),
        "ctx:sex": np.array(["f", "m", "f"]),
    }
    place.capture(block(3, **kinds))
    place.observations.ingest("shop")
    columns = place.observations.read("shop").columns
    assert np.array_equal(columns["whole"], [7, np.nan, 9], equal_nan=True)
    assert columns["city"].tolist() == ["Bern", None, "Genève"]
    assert columns["member"].dtype == np.bool_
    assert columns["born"].dtype.str == "<M8[us]"
    assert np.isnat(columns["born"][1])
    assert columns["sex"].tolist() == ["f", "m", "f"]


def test_tensors_and_bytes_come_back_as_they_were_sent(place: Place) -> None:
    images = np.arange(3 * 2 * 4, dtype=np.uint8).reshape(3, 2, 4)
    waves = [np.ones((1, 2), np.float32), None, np.zeros((3, 2), np.float32)]
    sounds, files = Uneven.of(waves, "float32"), Uneven.of([b"\x00\xff\x00", b"", None])
    kinds = {
        "in:image": images,
        "flat:sound": sounds.flat,
        "ends:sound": sounds.ends,
        "null:sound": sounds.gaps,
        "shape:sound": sounds.shapes,
        "flat:file": files.flat,
        "ends:file": files.ends,
        "null:file": files.gaps,
    }
    place.capture(block(3, **kinds))
    place.observations.ingest("shop")
    columns = place.observations.read("shop").columns
    assert columns["image"].dtype == np.uint8
    np.testing.assert_array_equal(columns["image"], images)
    assert columns["file"].tolist() == [b"\x00\xff\x00", b"", None]
    first, second, third = columns["sound"]
    assert (first.shape, second, third.shape) == ((1, 2), None, (3, 2))
    assert first.dtype == np.float32
    assert sorted(columns) == ["file", "image", "sound", "x"]


def test_tensors_of_another_version_have_a_shape_of_their_own(place: Place) -> None:
    place.capture(block(2, **{"in:image": np.zeros((2, 2, 2), np.uint8)}))
    place.capture(block(2, 2, version=2, **{"in:image": np.ones((2, 1, 4), np.float32)}))
    place.capture(block(1, 4, version=3))
    place.observations.ingest("shop")
    seen = place.observations.read("shop")
    assert [None if row is None else row.shape for row in seen.columns["image"]] == [
        (2, 2), (2, 2), (1, 4), (1, 4), None,
    ]  # fmt: skip


def test_a_name_that_was_a_tensor_before_and_text_now_is_still_read(place: Place) -> None:
    place.capture(block(1, **{"in:what": np.zeros((1, 2, 2), np.uint8)}))
    place.capture(block(1, 1, version=2, **{"in:what": np.array(["a"])}))
    place.observations.ingest("shop")
    assert place.observations.read("shop").columns["what"][1] == "a"


def test_text_answers_and_scores_come_back(place: Place) -> None:
    scores = np.array([[0.1, 0.9], [0.8, 0.2]], np.float32)
    place.capture({**block(2, scores=scores), "prediction": np.array(["yes", "no"])})
    place.observations.ingest("shop")
    seen = place.observations.read("shop")
    assert seen.predictions.tolist() == ["yes", "no"]
    assert seen.scores is not None
    assert np.array_equal(seen.scores, scores)


def test_a_window_of_two_versions_that_answer_in_different_shapes(place: Place) -> None:
    place.capture(block(2, scores=np.array([[0.1, 0.9], [0.8, 0.2]])))
    place.capture({**block(2, 2, version=2), "prediction": np.array([[0.3, 0.7], [0.6, 0.4]])})
    place.observations.ingest("shop")
    seen = place.observations.read("shop")
    assert seen.versions.tolist() == [1, 1, 2, 2]
    first, second = (seen.take(seen.versions == version) for version in (1, 2))
    assert first.predictions.tolist() == [0, 1]
    assert first.scores is not None
    assert first.scores.tolist() == [[0.1, 0.9], [0.8, 0.2]]
    assert second.predictions.tolist() == [[0.3, 0.7], [0.6, 0.4]]
    assert second.scores is None


def test_a_column_that_came_later_is_missing_in_older_rows(place: Place) -> None:
    place.capture(block(2))
    place.capture(block(2, 2, **{"in:new": np.array([1.0, 2.0]), "ctx:note": np.array(["a", "b"])}))
    place.observations.ingest("shop")
    columns = place.observations.read("shop").columns
    assert np.array_equal(columns["new"], [np.nan, np.nan, 1, 2], equal_nan=True)
    assert columns["note"].tolist() == [None, None, "a", "b"]


# ---- event time


@pytest.mark.parametrize("offset", ["", "Z", "+02:00"])
def test_the_time_of_the_event_may_be_iso_text(place: Place, offset: str) -> None:
    texts = np.array([f"2020-01-0{day}T12:00:00{offset}" for day in (3, 1, 2)])
    place.capture(block(3, **{"ctx:at": texts}))
    place.observations.ingest("shop")
    seen = place.observations.read("shop", time="at")
    hour = 10 if offset == "+02:00" else 12
    assert [str(t)[:13] for t in seen.times] == [f"2020-01-0{day}T{hour}" for day in (1, 2, 3)]
    assert seen.columns["x"].tolist() == [1, 2, 0]
    ends = place.observations.span("shop", "at")
    assert ends is not None
    assert (ends[0].day, ends[1].day) == (1, 3)
    noon = datetime(2020, 1, 2, tzinfo=UTC)
    assert place.observations.read("shop", noon, noon + timedelta(days=1), "at").columns["x"].tolist() == [2]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_time_of_the_event_may_be_a_number(place: Place, unit: str) -> None:
    at = np.array(["2020-01-02", "2020-01-01"], f"datetime64[{unit}]").astype(np.int64)
    place.capture(block(2, **{"in:at": at}))
    place.observations.ingest("shop")
    seen = place.observations.read("shop", time="at")
    assert [str(t)[:10] for t in seen.times] == ["2020-01-01", "2020-01-02"]


def test_the_time_of_the_event_may_be_a_time(place: Place) -> None:
    at = np.array(["2020-01-02", "2020-01-01"], "datetime64[us]")
    place.capture(block(2, **{"in:at": at}))
    place.observations.ingest("shop")
    assert place.observations.read("shop", time="at").columns["x"].tolist() == [1, 0]


def test_a_row_without_event_time_counts_by_its_prediction(place: Place) -> None:
    texts = np.array(["2020-01-01T00:00:00", ""])
    place.capture(block(2, **{"ctx:at": texts, "null:at": np.array([False, True])}))
    place.capture(block(1, 2))
    place.observations.ingest("shop")
    seen = place.observations.read("shop", time="at")
    assert [str(t)[:16] for t in seen.times] == ["2020-01-01T00:00", "2026-03-01T08:01", "2026-03-01T08:02"]


def test_a_wrong_time_column_is_named_with_the_known_ones(place: Place) -> None:
    place.capture(block(1))
    place.observations.ingest("shop")
    with pytest.raises(UnknownName, match="when") as seen:
        place.observations.read("shop", time="when")
    assert "x" in seen.value.next_step
    with pytest.raises(UsageError, match="does not hold times"):
        place.observations.span("shop", "x")


# ---- labels


def test_labels_join_their_rows_with_their_type(place: Place) -> None:
    some = block(4)
    place.capture(some)
    place.observations.ingest("shop")
    truth = np.array([1, 2.5, "yes", True], object)
    assert place.observations.label("shop", ids_of(some), truth) == Labelled(4, 0, 0)
    seen = place.observations.read("shop")
    assert seen.truth.tolist() == [1, 2.5, "yes", True]
    assert seen.labelled.all()


def test_labels_of_numpy_columns_are_plain_numbers(place: Place) -> None:
    some = block(2)
    place.capture(some)
    place.observations.ingest("shop")
    place.observations.label("shop", ids_of(some), np.array([1.0, np.nan]))
    seen = place.observations.read("shop")
    assert seen.truth.tolist() == [1.0, None]
    assert type(seen.truth[0]) is float


def test_only_labelled_rows_when_asked(place: Place) -> None:
    some = block(5)
    place.capture(some)
    place.observations.ingest("shop")
    place.observations.label("shop", ids_of(some)[[1, 3]], np.array([0, 1]))
    seen = place.observations.read("shop", labelled=True)
    assert seen.columns["x"].tolist() == [1, 3]
    assert seen.truth.tolist() == [0, 1]
    assert place.observations.read("shop", minutes(4), labelled=True).rows == 0


def test_a_repeated_label_is_harmless_and_the_first_of_two_stays(place: Place) -> None:
    some = block(2)
    place.capture(some)
    place.observations.ingest("shop")
    ids = ids_of(some)
    place.observations.label("shop", ids, np.array([1, 0]))
    assert place.observations.label("shop", ids, np.array([1, 0])) == Labelled(0, 0, 2)
    assert place.observations.label("shop", ids, np.array(["1", "0"], object)) == Labelled(0, 0, 2)
    assert place.observations.label("shop", ids, np.array([0, 0])) == Labelled(0, 0, 1, 1)
    assert place.observations.read("shop").truth.tolist() == [1, 0]


def test_the_first_of_two_labels_in_one_call_stays(place: Place) -> None:
    some = block(1)
    place.capture(some)
    place.observations.ingest("shop")
    name = ids_of(some)[0]
    ids = np.array([name, name, name], object)
    assert place.observations.label("shop", ids, np.array([1, 0, 1])) == Labelled(1, 0, 1, 1)
    assert place.observations.read("shop").truth.tolist() == [1]


def test_a_label_that_is_early_waits_for_its_row(place: Place) -> None:
    early, later = block(2), block(2, 2)
    ids = np.concatenate([ids_of(early), ids_of(later)])
    assert place.observations.label("shop", ids, np.array([1, 1, 0, 0])) == Labelled(0, 4, 0)
    assert place.observations.pending("shop") == 4
    assert place.observations.label("shop", ids[:1], np.array([0])) == Labelled(0, 0, 0, 1)
    place.capture(early)
    place.observations.ingest("shop")
    assert place.observations.pending("shop") == 2
    assert place.observations.read("shop").truth.tolist() == [1, 1]
    place.capture(later)
    place.observations.ingest("shop")
    assert place.observations.pending("shop") == 0
    assert place.observations.read("shop", labelled=True).truth.tolist() == [1, 1, 0, 0]


def test_labels_by_http_are_taken_in_with_the_blocks(place: Place) -> None:
    some = block(3)
    place.capture(some)
    place.post(ids_of(some)[:2].tolist(), [1, 0])
    place.post(ids_of(some)[2:].tolist(), ["late"])
    assert place.observations.ingest("shop") == Ingested(1, 3, 0)
    assert place.observations.read("shop").truth.tolist() == [1, 0, "late"]


# ---- labels that do not fit

NUMBERS = LabelRule("regression")
ADA = Correction("ada", START)


@pytest.fixture
def answered(place: Place) -> np.ndarray:
    """Five rows of a regression are there; their ids."""
    place.book.rules[1] = NUMBERS
    some = block(5)
    place.capture(some)
    place.observations.ingest("shop")
    return ids_of(some)


def given(*labels: Any) -> np.ndarray:
    out = np.empty(len(labels), object)
    out[:] = labels
    return out


def counts(told: Labelled) -> Labelled:
    return replace(told, bad=(), corrected=())


def test_a_label_that_cannot_be_true_of_its_row_is_not_joined(place: Place, answered: np.ndarray) -> None:
    told = place.observations.label("shop", answered, given("six", "6.5", 7, float("inf"), None))
    assert counts(told) == Labelled(2, 0, 0, empty=1, refused=2)
    assert [str(bad).split(" ", 3)[::3] for bad in told.bad] == [
        ["row", "'six': expected a finite number"],
        ["row", "inf: expected a finite number"],
    ]
    assert [(bad.row, bad.id) for bad in told.bad] == [(1, answered[0]), (4, answered[3])]
    seen = place.observations.read("shop")
    assert seen.truth.tolist() == [None, 6.5, 7, None, None]
    assert seen.labelled.tolist() == [False, True, True, False, False]
    assert seen.refused == {1: 2}
    only = place.observations.read("shop", labelled=True)
    assert (only.truth.tolist(), only.refused) == ([6.5, 7], {1: 2})


def test_what_was_kept_aside_is_counted_until_the_right_label_comes(
    place: Place, answered: np.ndarray
) -> None:
    place.observations.label("shop", answered[:2], given("six", "?"))
    place.observations.label("shop", answered[:1], given("six"))
    aside = place.observations.aside("shop")
    assert aside.labels == 2
    assert sorted(map(str, aside.examples)) == sorted(
        [f"{answered[0]} 'six': expected a finite number", f"{answered[1]} '?': expected a finite number"]
    )
    assert counts(place.observations.label("shop", answered[:1], given(6))) == Labelled(1, 0, 0)
    assert place.observations.aside("shop").labels == 1
    assert place.observations.read("shop").refused == {1: 1}


def test_a_bad_label_leaves_the_good_one_that_is_there(place: Place, answered: np.ndarray) -> None:
    place.observations.label("shop", answered[:1], given(6))
    assert counts(place.observations.label("shop", answered[:1], given("six"))).refused == 1
    assert place.observations.read("shop", labelled=True).truth.tolist() == [6]
    assert place.observations.aside("shop").labels == 0


def test_bad_labels_by_http_are_kept_aside_and_the_others_are_joined(
    place: Place, answered: np.ndarray
) -> None:
    place.post(answered[:3].tolist(), [1, "six", "2"])
    place.observations.ingest("shop")
    assert place.observations.read("shop", labelled=True).truth.tolist() == [1, 2]
    assert place.observations.aside("shop").labels == 1


def test_a_bad_label_that_came_before_its_row_is_kept_aside_with_the_row(place: Place) -> None:
    place.book.rules[1] = NUMBERS
    some = block(2)
    assert counts(place.observations.label("shop", ids_of(some), given("six", "7"))) == Labelled(0, 2, 0)
    assert place.observations.aside("shop").labels == 0
    place.capture(some)
    place.observations.ingest("shop")
    assert place.observations.pending("shop") == 0
    assert place.observations.aside("shop").labels == 1
    assert place.observations.read("shop").truth.tolist() == [None, 7]


def test_labels_from_before_there_was_a_rule_are_left_out_and_may_be_corrected(place: Place) -> None:
    some = block(3)
    place.capture(some)
    place.observations.ingest("shop")
    place.observations.label("shop", ids_of(some), given("six", "7", 8))
    place.book.rules[1] = NUMBERS
    seen = place.observations.read("shop", labelled=True)
    assert (seen.truth.tolist(), seen.refused) == ([7, 8], {1: 1})
    right = given(6, 7.0, 8.0)
    assert counts(place.observations.label("shop", ids_of(some), right)) == Labelled(1, 0, 2)
    assert place.observations.read("shop", labelled=True).truth.tolist() == [6, 7, 8]
    assert place.observations.read("shop").refused == {}


def test_a_class_is_joined_as_the_version_names_it(place: Place) -> None:
    place.book.rules[1] = LabelRule("classification", (0, 1))
    some = block(5)
    place.capture(some)
    place.observations.ingest("shop")
    told = place.observations.label("shop", ids_of(some), given(1.0, "0", True, "<=50K", "1.0"))
    assert counts(told) == Labelled(4, 0, 0, unknown_class=1)
    assert told.bad[0].expected == "a class that the model knows (0, 1)"
    seen = place.observations.read("shop", labelled=True)
    assert list(map(repr, seen.truth)) == ["1", "0", "1", "1"]
    assert seen.refused == {1: 1}


def test_a_new_class_is_joined_once_the_rules_allow_it(place: Place) -> None:
    place.book.rules[1] = LabelRule("classification", ("a", "b"))
    some = block(2)
    place.capture(some)
    place.observations.ingest("shop")
    place.observations.label("shop", ids_of(some), given("a", "c"))
    assert place.observations.read("shop").refused == {1: 1}
    place.book.rules[1] = LabelRule("classification", ("a", "b"), new_classes=True)
    place.observations.ingest("shop")
    seen = place.observations.read("shop")
    assert (seen.truth.tolist(), seen.refused) == (["a", "c"], {})
    assert place.observations.aside("shop").labels == 0


def test_the_version_that_answered_says_what_fits_not_its_shadow(place: Place) -> None:
    place.book.rules |= {1: NUMBERS, 2: LabelRule("classification", ("six",))}
    live = block(2)
    place.capture({**live, "arm": np.full(2, "shadow"), "version": np.full(2, 2, np.int32)})
    place.capture(live)
    place.observations.ingest("shop")
    assert place.observations.label("shop", ids_of(live), given("six", 7)).refused == 1
    assert place.observations.read("shop", labelled=True).truth.tolist() == [7]


def test_an_id_that_no_prediction_can_have_is_refused(place: Place, answered: np.ndarray) -> None:
    bare = str(answered[1]).split("/")[0]
    told = place.observations.label("shop", given(answered[0], bare, None), given(1, 2, 3))
    assert counts(told) == Labelled(1, 0, 0, refused=2)
    assert (told.bad[0].row, told.bad[0].expected) == (2, "the id of a prediction, <request>/<row>")
    assert place.observations.pending("shop") == 0


def test_of_many_mistakes_the_first_are_told_and_all_are_counted(place: Place, answered: np.ndarray) -> None:
    told = place.observations.label("shop", np.repeat(answered, 20), given(*["?"] * 100))
    assert told.refused == 100
    assert [bad.row for bad in told.bad] == list(range(1, 21))
    assert place.observations.aside("shop").labels == 5
    assert len(place.observations.aside("shop").examples) == 5


def test_a_label_is_replaced_when_that_is_asked_for(place: Place, answered: np.ndarray) -> None:
    place.observations.label("shop", answered[:3], given(1, 2, 3))
    told = place.observations.label("shop", answered[:4], given(1, 5, "six", 4), ADA)
    assert counts(told) == Labelled(1, 0, 1, refused=1, replaced=1)
    assert told.corrected == (Corrected("shop", 1, 1),)
    assert place.observations.read("shop", labelled=True).truth.tolist() == [1, 5, 3, 4]
    assert place.observations.label("shop", answered[:2], given(1, 5), ADA).replaced == 0
    assert counts(place.observations.label("shop", answered[:2], given(1, 2))) == Labelled(0, 0, 1, 1)


def test_labels_that_wait_are_replaced_too(place: Place) -> None:
    some = block(2)
    place.observations.label("shop", ids_of(some), given(1, 0))
    assert counts(place.observations.label("shop", ids_of(some), given(1, 1), ADA)) == Labelled(
        0, 0, 1, replaced=1
    )
    assert place.observations.pending("shop") == 2
    place.capture(some)
    place.observations.ingest("shop")
    assert place.observations.read("shop").truth.tolist() == [1, 1]


def test_a_file_that_contradicts_itself_replaces_nothing_twice(place: Place, answered: np.ndarray) -> None:
    place.observations.label("shop", answered[:1], given(1))
    told = place.observations.label("shop", answered[[0, 0]], given(2, 3), ADA)
    assert counts(told) == Labelled(0, 0, 0, 1, replaced=1)
    assert place.observations.read("shop", labelled=True).truth.tolist() == [2]


def test_labels_kept_aside_go_with_their_rows(place: Place, answered: np.ndarray) -> None:
    place.observations.label("shop", answered, given(*["?"] * 5))
    new = block(2, first=24 * 60)
    place.capture(new)
    place.observations.ingest("shop")
    place.observations.ingest("shop", Retention(since=minutes(60)))
    assert place.observations.aside("shop").labels == 0


def test_a_copy_goes_by_the_same_rules(place: Place, answered: np.ndarray, tmp_path: Path) -> None:
    place.post(answered[:2].tolist(), ["six", 7])
    (tmp_path / "aside").mkdir()
    copy = place.observations.copied("shop", tmp_path / "aside")
    copy.ingest("shop")
    assert copy.aside("shop").labels == 1
    assert copy.read("shop", labelled=True).truth.tolist() == [7]
    assert place.observations.aside("shop").labels == 0


def test_as_many_labels_as_ids_are_wanted(place: Place) -> None:
    with pytest.raises(UsageError, match="2 ids but 1 labels"):
        place.observations.label("shop", np.array(["a/0", "b/0"], object), np.array([1]))


def test_a_copy_takes_in_what_waits_and_leaves_no_trace(place: Place, tmp_path: Path) -> None:
    known, new = block(3), block(2, first=10)
    place.capture(known)
    place.observations.ingest("shop")
    place.capture(new)
    place.post(ids_of(known)[:1].tolist(), [1])
    (tmp_path / "aside").mkdir()
    copy = place.observations.copied("shop", tmp_path / "aside")
    assert copy.ingest("shop") == Ingested(1, 2, 0)
    assert copy.read("shop").rows == 5
    assert copy.read("shop", labelled=True).truth.tolist() == [1]
    assert place.observations.read("shop").rows == 3
    assert place.observations.read("shop", labelled=True).rows == 0
    assert place.observations.ingest("shop") == Ingested(1, 2, 0)
    assert place.observations.read("shop").rows == 5


def test_rows_that_are_too_old_go_with_their_labels(place: Place) -> None:
    old, new = block(2), block(2, first=24 * 60)
    for some in (old, new):
        place.capture(some)
        place.observations.ingest("shop")
        place.observations.label("shop", ids_of(some), np.array([1, 0]))
    assert place.observations.ingest("shop", Retention(since=minutes(60))).expired == 2
    seen = place.observations.read("shop")
    assert (seen.columns["x"].tolist(), seen.truth.tolist()) == ([24 * 60, 24 * 60 + 1], [1, 0])
    assert place.observations.ingest("shop", Retention(since=minutes(60))) == Ingested(0, 0, 0)


def test_a_copy_of_nothing_is_empty(place: Place, tmp_path: Path) -> None:
    copy = place.observations.copied("shop", tmp_path / "aside")
    assert copy.ingest("shop") == Ingested(0, 0, 0)
    assert copy.read("shop").rows == 0
