"""Port Observations: a stretch of time summed up is the profile of its rows, whatever was summed up before."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from mlplatform.ports.data import EVERYTHING, Profiling, Retention
from mlplatform.stats.profile import CategoricalProfile, Profile, profile
from mlplatform.stats.spec import ReferenceSpec, make_spec
from mlplatform.stats.uneven import Uneven
from tests.captured import Place, block, minutes

REFERENCE = {
    "x": np.arange(0.0, 300.0),
    "city": np.array(["Bern", "Basel", "Chur"] * 100, object),
    "whole": np.arange(300) % 7,
}
SPEC = make_spec(REFERENCE)
OTHER = make_spec({"x": np.arange(100.0, 200.0)})
HOURLY = Profiling(lambda model, version: SPEC)


def full(rows: int, first: int = 0, version: int = 1, **more: np.ndarray) -> dict[str, np.ndarray]:
    numbers = first + np.arange(rows)
    return block(
        rows,
        first,
        version,
        **{
            "in:city": np.array(["Bern", "Basel", "Genf"])[numbers % 3],
            "null:city": numbers % 5 == 0,
            "in:whole": numbers % 7,
            "null:whole": numbers % 11 == 0,
            **more,
        },
    )


def of_rows(
    place: Place, spec: ReferenceSpec, version: int, start: datetime | None, end: datetime | None
) -> Profile:
    """What the profile has to be."""
    seen = place.observations.read("shop", start, end)
    mine = seen.take(seen.versions == version)
    cells = ReferenceSpec({n: c for n, c in spec.columns.items() if n in mine.columns})
    return profile(cells, {name: mine.columns[name] for name in cells.columns})


def assert_alike(found: Profile, wanted: Profile) -> None:
    """What is counted to the bit, what is summed up to rounding."""
    assert found.rows == wanted.rows
    assert list(found.columns) == list(wanted.columns)
    for name, column in wanted.columns.items():
        seen = found.columns[name].to_dict()
        for field, value in column.to_dict().items():
            assert seen[field] == (pytest.approx(value) if isinstance(value, float) else value), (name, field)


@pytest.mark.parametrize(
    ("start", "end"),
    [(None, None), (0, 60), (60, 180), (0, 90), (17, 133), (61, 62), (500, 600), (None, 60), (200, None)],
)
@pytest.mark.parametrize("profiling", [HOURLY, Profiling(lambda m, v: SPEC, step=timedelta(hours=7)), None])
def test_a_stretch_of_several_intakes_is_the_profile_of_its_rows(
    place: Place, start: int | None, end: int | None, profiling: Profiling | None
) -> None:
    for first in (0, 100, 101, 40, 200):
        place.capture(full(40, first))
        place.observations.ingest("shop", profiling=profiling)
    ends = tuple(None if at is None else minutes(at) for at in (start, end))
    found = place.observations.profile("shop", SPEC, 1, *ends)
    if start == 500:
        assert found == Profile(0, {})
    else:
        assert_alike(found, of_rows(place, SPEC, 1, *ends))
        assert found.rows and set(found.columns) == set(REFERENCE)


def test_versions_are_apart_and_a_shadows_rows_are_nowhere(place: Place) -> None:
    place.capture(full(30))
    place.capture(full(30, 30, version=2))
    place.capture(full(30, arm=np.full(30, "shadow"), version=2))  # type: ignore[arg-type]
    place.observations.ingest("shop", profiling=HOURLY)
    first, second, third = (place.observations.profile("shop", SPEC, version) for version in (1, 2, 3))
    assert (first.rows, second.rows, third.rows) == (30, 30, 0)
    assert (first.columns["x"].to_dict()["maximum"], second.columns["x"].to_dict()["minimum"]) == (29, 30)


def test_rows_of_one_model_are_summed_up_where_several_answer(place: Place) -> None:
    place.capture(full(5))
    place.capture({**full(7, 5), "model": np.full(7, "fraud")})
    place.observations.ingest("shop", profiling=HOURLY)
    rows = {
        model: place.observations.profile("shop", SPEC, 1, model=model).rows
        for model in ("", "shop", "fraud")
    }
    assert rows == {"": 12, "shop": 5, "fraud": 7}


def test_a_column_that_came_later_is_null_in_older_rows(place: Place) -> None:
    place.capture(block(20))
    place.capture(full(20, 20))
    place.observations.ingest("shop", profiling=HOURLY)
    seen = place.observations.profile("shop", SPEC, 1)
    assert_alike(seen, of_rows(place, SPEC, 1, None, None))
    assert seen.columns["city"].nulls == 20 + 4


def test_what_was_not_captured_is_in_no_profile(place: Place) -> None:
    place.capture(block(20, **{"ctx:note": np.full(20, "a")}))
    place.observations.ingest("shop", profiling=HOURLY)
    assert list(place.observations.profile("shop", SPEC, 1).columns) == ["x"]


def test_tensors_and_bytes_are_in_no_profile_and_in_nobodys_way(place: Place) -> None:
    spec = make_spec(
        {"x": np.arange(9.0), "image": np.arange(9.0), "file": np.arange(9.0), "wave": np.arange(9.0)}
    )
    files = Uneven.of([b"\x00\xff", b"", None])
    waves = Uneven.of([np.ones((1, 2)), None, np.zeros((3, 2))], "float64")
    bulk = {
        "in:image": np.zeros((3, 2, 2), np.uint8),
        "flat:file": files.flat, "ends:file": files.ends, "null:file": files.gaps,
        "flat:wave": waves.flat, "ends:wave": waves.ends, "null:wave": waves.gaps, "shape:wave": waves.shapes,
    }  # fmt: skip
    place.capture(block(3, **bulk))
    place.observations.ingest("shop", profiling=Profiling(lambda model, version: spec))
    for cells in (spec, SPEC):
        seen = place.observations.profile("shop", cells, 1)
        assert (seen.rows, list(seen.columns)) == (3, ["x"])


def test_labels_of_text_are_counted_and_new_ones_told(place: Place) -> None:
    place.capture(full(30))
    place.observations.ingest("shop", profiling=HOURLY)
    city = place.observations.profile("shop", SPEC, 1).columns["city"]
    assert isinstance(city, CategoricalProfile)
    assert (city.n, city.nulls, city.new) == (24, 6, 8)


def test_other_cells_than_those_that_were_kept_are_answered_for_too(place: Place) -> None:
    place.capture(full(120))
    place.observations.ingest("shop", profiling=HOURLY)
    assert_alike(place.observations.profile("shop", OTHER, 1), of_rows(place, OTHER, 1, None, None))


def test_versions_without_a_profile_of_their_reference_are_taken_in_like_others(place: Place) -> None:
    place.capture(full(20))
    place.capture(full(20, 20, version=2))
    place.observations.ingest("shop", profiling=Profiling(lambda m, version: SPEC if version == 2 else None))
    for version in (1, 2):
        assert_alike(
            place.observations.profile("shop", SPEC, version), of_rows(place, SPEC, version, None, None)
        )
    assert place.observations.profile("shop", ReferenceSpec({}), 1) == Profile(20, {})


@pytest.mark.parametrize("kept_by", ["at", None])
def test_stretches_are_cut_by_the_time_of_the_event(place: Place, kept_by: str | None) -> None:
    days = np.array([f"2020-01-0{day}T12:00:00" for day in (3, 1, 2, 1)])
    place.capture(block(4, **{"ctx:at": days}))
    place.capture(block(1, 4))
    place.observations.ingest("shop", profiling=Profiling(lambda m, v: SPEC, kept_by, timedelta(days=1)))
    first = datetime(2020, 1, 1, tzinfo=UTC)
    seen = place.observations.profile("shop", SPEC, 1, first, first + timedelta(days=1), "at")
    assert (seen.rows, seen.columns["x"].to_dict()["minimum"], seen.columns["x"].to_dict()["maximum"]) == (
        2,
        1,
        3,
    )
    assert place.observations.profile("shop", SPEC, 1, time="at").rows == 5
    assert place.observations.profile("shop", SPEC, 1, end=minutes(2)).rows == 2


def test_rows_that_went_are_in_no_profile(place: Place) -> None:
    for first in (0, 24 * 60):
        place.capture(full(20, first))
        place.observations.ingest("shop", EVERYTHING, HOURLY)
    place.observations.ingest("shop", Retention(since=minutes(60)), HOURLY)
    seen = place.observations.profile("shop", SPEC, 1)
    assert (seen.rows, seen.columns["x"].to_dict()["minimum"]) == (20, 24 * 60)


def test_a_copy_sums_up_alike(place: Place, tmp_path: Path) -> None:
    place.capture(full(20))
    place.observations.ingest("shop", profiling=HOURLY)
    place.capture(full(20, 20))
    (tmp_path / "aside").mkdir()
    copy = place.observations.copied("shop", tmp_path / "aside")
    copy.ingest("shop", profiling=HOURLY)
    assert copy.profile("shop", SPEC, 1).rows == 40
    assert place.observations.profile("shop", SPEC, 1).rows == 20


def test_answers_are_read_without_their_columns(place: Place) -> None:
    place.capture(full(4, scores=np.array([[0.1, 0.9]] * 4), **{"ctx:at": np.array(["2020-01-01"] * 4)}))
    place.observations.ingest("shop")
    for time in (None, "at"):
        whole = place.observations.read("shop", time=time)
        bare = place.observations.read("shop", time=time, columns=False)
        assert whole.columns and not bare.columns
        for name in ("ids", "times", "versions", "predictions", "scores", "truth", "labelled"):
            assert np.array_equal(getattr(bare, name), getattr(whole, name)), name
