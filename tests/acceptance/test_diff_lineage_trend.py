"""Looking at versions side by side: the board, differences, lineage and trends of a real project."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mlplatform.domain.verdict import Finding, Measurement, Verdict
from tests import documents
from tests.small_project import MODEL, Place, SmallProject

PAGE = documents.ROOT / "docs" / "operations.md"


@pytest.fixture(scope="module")
def place(small_sqlite: SmallProject) -> Iterator[Place]:
    """The small project, with a compressed child of 4 in staging."""
    with small_sqlite.copied() as made:
        made.done("compress", f"{MODEL}@4", "--steps", "onnx")
        made.done("promote", f"{MODEL}@6", "staging", "--reason", "smaller")
        yield made


def section(told: Any, name: str) -> dict[str, Any]:
    """Lines of a section by name."""
    found = next(s for s in told["sections"] if s["name"] == name)
    return {line["name"]: line for line in found["lines"]}


def test_the_page_prints_what_it_shows(place: Place) -> None:
    """Every command of its section. If it prints something else now and this is right: copy it from the failure."""
    section = PAGE.read_text().split("## Diff, lineage and trend\n")[1].split("\n## ")[0]
    wrong = []
    for step in documents.steps(section):
        said = place.done(*shlex.split(step.command)[1:])
        if not documents.same(aged("\n".join(step.shown)), aged(said), place.folder):
            wrong.append(f"$ {step.command}\n{said}")
    assert not wrong, "\n".join(wrong)


def aged(text: str) -> str:
    """Every version has held its stage for as long."""
    return re.sub(r"\b\d+ (s|min|h|d)\b", "1 d", text)


# --- diff ------------------------------------------------------------------------------------------------------------


def test_metrics_come_with_intervals_and_their_paired_difference_on_the_same_rows(place: Place) -> None:
    told = place.told("diff", f"{MODEL}@3", f"{MODEL}@production")
    assert (told["first"], told["second"]) == ("churn@3", "churn@2")
    accuracy = section(told, "metrics")["accuracy"]
    for side in ("first", "second"):
        assert accuracy[side]["low"] < accuracy[side]["value"] < accuracy[side]["high"]
        assert accuracy[side]["n"] == 80
    difference = accuracy["difference"]
    assert difference["value"] == pytest.approx(accuracy["first"]["value"] - accuracy["second"]["value"])
    assert difference["low"] < difference["value"] < difference["high"]
    assert accuracy["said"] in ("better", "worse", "cannot tell")
    assert "same 80 rows" in next(s["note"] for s in told["sections"] if s["name"] == "metrics")


def test_the_difference_turns_around_with_the_versions(place: Place) -> None:
    there = section(place.told("diff", "churn@3", "churn@2"), "metrics")["accuracy"]["difference"]
    back = section(place.told("diff", "churn@2", "churn@3"), "metrics")["accuracy"]["difference"]
    assert back["value"] == pytest.approx(-there["value"])
    assert (back["low"], back["high"]) == pytest.approx((-there["high"], -there["low"]))


def test_numbers_on_different_rows_are_not_subtracted(place: Place) -> None:
    told = place.told("diff", "churn@1", "churn@4")
    assert section(told, "metrics")["accuracy"]["difference"] is None
    assert "different rows, which cannot be compared" in place.done("diff", "churn@1", "churn@4")
    assert "churn@5 was not evaluated yet" in place.done("diff", "churn@5", "churn@4")


def test_data_signature_dependencies_size_and_origin_are_told(place: Place) -> None:
    told = place.told("diff", "churn@6", "churn@3")
    assert section(told, "data")["training rows"]["difference"] == "0 in common"
    dependencies = section(told, "dependencies")
    assert dependencies["scikit-learn"]["said"] == "removed" and dependencies["scikit-learn"]["first"] is None
    assert section(told, "size and cost")["runtime"]["first"] == "onnx"
    assert section(told, "size and cost")["size_bytes"]["difference"].startswith("-9")
    assert section(told, "origin")["technique"] == {
        "name": "technique", "first": "onnx", "second": None, "difference": None, "said": "",
    }  # fmt: skip
    assert "signature" in told["same"]
    broken = section(place.told("diff", "churn@5", "churn@3"), "signature")
    assert broken["c1"]["said"] == "removed"
    text = place.done("diff", "churn@6", "churn@3")
    assert "the same: " in text and "signature" in text.rpartition("the same: ")[2]


def test_a_compressed_childs_parameters_are_those_of_the_run_that_trained_it(place: Place) -> None:
    told = place.told("diff", "churn@6", "churn@4", "--all")
    logged = section(told, "logged by the runs")["holdout_accuracy"]
    assert logged["first"] == logged["second"]


def test_all_tells_what_is_equal_too(place: Place) -> None:
    told = place.told("diff", "churn@3", "churn@2", "--all")
    assert section(told, "signature")["c0"]["first"] == "double"
    assert told["same"] == []
    assert "signature" not in [s["name"] for s in place.told("diff", "churn@3", "churn@2")["sections"]]


def test_what_gates_measured_on_slices_stands_side_by_side(place: Place) -> None:
    with place.opened() as platform:
        for number, value in ((3, 0.8), (4, 0.9)):
            _judged(platform, number, value)
        told = platform.diff("churn@4", "churn@3")
    slices = next(s for s in told.sections if s.name == "slices")
    assert [line.name for line in slices.lines] == ["accuracy sex=Female"]
    assert [getattr(side, "value", None) for side in (slices.lines[0].first, slices.lines[0].second)] == [
        0.9,
        0.8,
    ]


def _judged(platform: Any, number: int, value: float) -> None:
    """An entry with the findings of a gate that looks at slices."""
    from mlplatform.domain.canonical import plain
    from mlplatform.domain.ledger import Actor, Draft, Kind

    numbers = (
        Measurement("accuracy sex=Female", value, value - 0.1, value + 0.05, 40),
        Measurement("accuracy gained sex=Female", 0.01),
    )
    finding = Finding("slices", Verdict.PASS, "kept", numbers, "margin 0.03")
    data = {"findings": [plain(finding)], "evaluation_id": "", "status": "refused"}
    draft = Draft(MODEL, Kind.REFUSED, number, Actor("ada"), "tried", stage="production", data=data)
    platform.world.ledger.append(draft)


def test_runs_that_mlflow_lost_leave_the_rest_to_be_told(place: Place, empty_mlflow: Path) -> None:
    store = shutil.copyfile(empty_mlflow, place.folder / "empty.db")
    away = {"MLPLATFORM_TRACKING_URI": f"sqlite:///{store}"}
    told = replace(place, environment=place.environment | away).told("diff", "churn@3", "churn@2")
    assert section(told, "metrics")["accuracy"]["difference"]
    assert "could not be looked at" in next(s["note"] for s in told["sections"] if s["name"] == "parameters")


def test_unknown_versions_are_told_with_the_nearest(place: Place) -> None:
    code, output = place.run("diff", "churn@3", "churn@99")
    assert code == 2 and "99" in output
    code, output = place.run("diff", "churn@3", "chrun@2")
    assert code == 2 and "Did you mean 'churn'?" in output


# --- lineage ---------------------------------------------------------------------------------------------------------


def test_show_draws_the_family_as_a_tree(place: Place) -> None:
    text = place.done("show", f"{MODEL}@6")
    lines = text[text.index("lineage") :].splitlines()
    assert lines[0].startswith("lineage   run ") and "cause manual" in lines[0]
    assert "└─ churn@4  CANDIDATE, sklearn" in lines[1]
    assert "   └─ churn@6  staging, onnx, onnx of churn@4  <- this" in lines[2]
    told = place.told("show", f"{MODEL}@4")
    assert [child["version"]["number"] for child in told["lineage"]["root"]["children"]] == [6]
    assert told["lineage"]["before"] is None  # nothing was live when it was registered


def test_a_version_trained_later_names_what_was_live_then(place: Place) -> None:
    place.done("register", MODEL, "--run", place.fresh_run)
    assert "while churn@2 was live" in place.done("show", f"{MODEL}@7")


# --- trend -----------------------------------------------------------------------------------------------------------


def test_a_trend_tells_which_rows_each_number_is_on(place: Place) -> None:
    told = place.told("trend", MODEL)
    assert told["metric"] == "accuracy" and told["higher_is_better"] is True
    points = {point["version"]["number"]: point for point in told["points"]}
    assert [number for number, point in points.items() if point["live"]] == [2]
    assert points[5]["value"] is None
    rows = {points[n]["rows"] for n in (1, 2, 3)}
    assert len(rows) == 3 and set(told["rows"]) >= rows
    assert all(rows["count"] == 80 for rows in told["rows"].values())
    assert points[3]["against_live"]["n"] == 80 and points[3]["said"]
    text = place.done("trend", MODEL)
    assert "production (live)" in text and "Numbers on different rows cannot be compared" in text
    assert "not yet" in text


def test_a_metric_that_no_gate_asked_for_is_computed_from_the_saved_answers(place: Place) -> None:
    points = place.told("trend", MODEL, "--metric", "auc")["points"]
    auc = next(point["value"] for point in points if point["version"]["number"] == 2)
    assert auc["name"] == "auc" and 0.8 < auc["low"] < auc["value"] < auc["high"] < 1


def test_a_trend_is_drawn(place: Place) -> None:
    assert "drawn in trend.png" in place.done("trend", MODEL, "--png", "trend.png")
    assert (place.folder / "trend.png").read_bytes().startswith(b"\x89PNG")
    told = place.told("trend", MODEL, "--png", "trend.svg")
    assert told["metric"] == "accuracy" and b"<svg" in (place.folder / "trend.svg").read_bytes()[:2000]
    code, output = place.run("trend", MODEL, "--png", "trend.txt")
    assert code == 2 and ".png" in output


@pytest.mark.parametrize(
    ("metric", "hint"), [("acuracy", "Did you mean 'accuracy'?"), ("mae", "Known: accuracy")]
)
def test_an_unknown_metric_is_told_with_those_that_fit(place: Place, metric: str, hint: str) -> None:
    code, output = place.run("trend", MODEL, "--metric", metric)
    assert code == 2 and hint in output


# --- the board -------------------------------------------------------------------------------------------------------


def test_the_board_shows_stages_and_what_is_going_on(place: Place) -> None:
    (row,) = place.told("list")
    assert row["stages"]["production"]["version"] == 2 and row["stages"]["staging"]["version"] == 6
    assert row["stages"]["staging"]["technique"] == "onnx"
    assert row["stages"]["staging"]["value"]["name"] == "accuracy"
    assert {4, 5} <= set(row["candidates"])
    assert any("2 in production: probation" in line for line in row["going_on"])
    text = place.done("list")
    assert text.splitlines()[0].split() == ["model", "staging", "production", "candidates", "versions"]


def test_models_of_other_ladders_have_tables_of_their_own(place: Place) -> None:
    (place.folder / "other.toml").write_text('model = "fraud"\nladder = ["shadow", "live"]\n')
    (place.folder / "mlplatform.toml").write_text('policies = ["policy.toml", "other.toml"]\n')
    try:
        heads = [line.split() for line in place.done("list").splitlines() if line.startswith("model")]
        told = place.told("list")
    finally:
        (place.folder / "mlplatform.toml").write_text("")
    assert heads == [
        ["model", "staging", "production", "candidates", "versions"],
        ["model", "shadow", "live", "candidates", "versions"],
    ]
    assert told[1]["stages"] == {"shadow": None, "live": None}


def test_what_waits_for_people_is_on_the_board(place: Place) -> None:
    """The last one: it moves a version."""
    policy = place.folder / "policy.toml"
    policy.write_text(policy.read_text().replace("count = 0", "count = 1"))
    place.done("promote", f"{MODEL}@6", "production", "--reason", "weekly", code=4)
    assert "churn: 6 to production: waits, 0 of 1 approval" in place.done("list")
    place.done("promote", f"{MODEL}@6", "production", "--reason", "now", "--break-glass")
    assert "waits" not in place.done("list")
