"""The report of a version: one page that holds all it shows, says what gates and answers say, and trusts no text."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from xml.etree import ElementTree

import pytest

from mlplatform.domain.card import CardFacts, Rival
from mlplatform.domain.lineage import lineage
from mlplatform.domain.trend import Point, Rows, Trend, row_name
from mlplatform.domain.verdict import Evaluation, Finding, Measurement, Verdict
from mlplatform.domain.version import Version
from mlplatform.ports.report import Beside, CloseLook
from mlplatform.report.version_page import version_report
from mlplatform.report.version_plots import MOST_SLICES, trend_plot
from mlplatform.stats.diagnosis import Confusion, Reliable, Residuals
from tests.unit.report.test_page import EVIL, Reader, svg_texts

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
OLD = Version("churn", 6, "c" * 64, "sklearn", "run0", NOW, "ada", 2_000)
VERSION = replace(OLD, number=7, digest="d" * 64, runtime="onnx", size_bytes=500, parent=6, technique="onnx")
ACCURACY = Measurement("accuracy", 0.9, 0.85, 0.94, 200)
EVALUATION = Evaluation(
    "e", "d" * 64, "x" * 64, 200, (ACCURACY,), "p.npz", NOW, {"source": "holdout of run 1"}
)
SLICES = (
    Measurement("accuracy sex=Female", 0.8, 0.7, 0.9, 60),
    Measurement("accuracy gained sex=Female", 0.01),
)
FINDINGS = (
    Finding("metric", Verdict.PASS, "accuracy is 0.9", (ACCURACY,), "accuracy at_least 0.8"),
    Finding("slices", Verdict.FAIL, "1 of 2 slices", SLICES, "margin 0.03"),
)
FACTS = CardFacts(
    VERSION,
    "staging",
    FINDINGS,
    "staging",
    evaluation=EVALUATION,
    notes={"onnx": {"max_deviation": 1.23456e-7, "label_flips": 0}},
    lineage=lineage(VERSION, [OLD, VERSION], {6: "RETIRED", 7: "staging"}, before=5),
    rival=Rival(OLD, EVALUATION),
)
LOOK = CloseLook(
    (
        Beside(
            ACCURACY,
            replace(ACCURACY, value=0.88),
            Measurement("accuracy", 0.02, -0.01, 0.05, 200),
            "cannot tell",
        ),
    ),
    Confusion(("no", "yes"), ((90, 10), (10, 90))),
    (Reliable(0.1, 0.12, 0.05, 0.2, 100), Reliable(0.9, 0.88, 0.8, 0.95, 100)),
)


def page(facts: CardFacts = FACTS, look: CloseLook = LOOK) -> str:
    return version_report(facts, look)["report.html"]


def test_the_page_says_what_gates_answers_and_ledger_say() -> None:
    words = Reader(page()).words
    for text in (
        "churn@7",
        "FAIL",
        "2 gates of staging, on holdout of run 1",
        "accuracy at_least 0.8",
        "1 of 2 slices",
        "churn@6 0.88: cannot tell",
        "run run0",
        "churn@5 was live then",
        "onnx of churn@6",
        "max_deviation 1.235e-07",
        "d" * 64,
    ):
        assert text in words, text


def test_it_is_well_formed_and_needs_no_other_file() -> None:
    reader = Reader(page())
    assert not reader.open
    assert not reader.all("script") + reader.all("link") + reader.all("iframe")
    images = reader.all("img")
    assert all(str(image["src"]).startswith("data:image/svg+xml;base64,") for image in images)
    assert all(image["alt"] for image in images)
    assert len(images) == 4  # metrics, slices, confusion, calibration


def test_only_slices_are_drawn_as_slices() -> None:
    text = "".join("".join(drawing.itertext()) for drawing in svg_texts(page()))
    assert "sex=Female (n=60)" in text and "gained" not in text


def test_the_picture_for_the_card_is_a_drawing_of_its_own() -> None:
    picture = version_report(FACTS, LOOK)["metrics.svg"]
    assert ElementTree.fromstring(picture).tag.endswith("svg")
    assert "+0.02 [-0.01, +0.05]" in "".join(ElementTree.fromstring(picture).itertext())
    assert len(picture) < 40_000


def test_equal_facts_give_equal_files() -> None:
    assert version_report(FACTS, LOOK) == version_report(replace(FACTS), replace(LOOK))


def test_text_from_outside_is_shown_not_obeyed() -> None:
    rude = replace(
        FACTS,
        version=replace(VERSION, author=EVIL, cause=EVIL, technique=EVIL),
        findings=(Finding(EVIL, Verdict.FAIL, EVIL, (Measurement(f"accuracy a={EVIL}", 0.5),), EVIL),),
        notes={EVIL: EVIL},
    )
    reader = Reader(page(rude, replace(LOOK, confusion=Confusion((EVIL, "b"), ((1, 2), (3, 4))))))
    assert not reader.all("script") and not reader.open
    assert reader.words.count(EVIL) >= 6


@pytest.mark.parametrize(
    ("facts", "look", "images"),
    [
        (CardFacts(VERSION, "CANDIDATE"), CloseLook(), 0),
        (replace(FACTS, rival=None, findings=(), notes={}), CloseLook((Beside(ACCURACY),)), 1),
        (FACTS, CloseLook((Beside(replace(ACCURACY, low=None, high=None)),)), 2),
        (FACTS, CloseLook(residuals=Residuals((0.0, 1.0, 2.0), (3, 4), 0.5, 1)), 2),
    ],
)
def test_what_is_not_known_is_left_out(facts: CardFacts, look: CloseLook, images: int) -> None:
    reader = Reader(page(facts, look))
    assert not reader.open and "nan" not in reader.words.lower()
    assert len(reader.all("img")) == images


def test_many_slices_are_cut_to_what_can_be_read() -> None:
    many = tuple(Measurement(f"accuracy town={i}", 0.5, 0.4, 0.6, 10) for i in range(MOST_SLICES + 9))
    text = page(replace(FACTS, findings=(replace(FINDINGS[1], measurements=many),)))
    assert "9 more are in the ledger" in text and f"and {MOST_SLICES + 3} more" in text


# --- trend -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 3, 60])
def test_a_trend_is_drawn_whatever_its_length(count: int, tmp_path: Path) -> None:
    points = tuple(
        Point(
            replace(VERSION, number=i), "RETIRED", i == 2, ACCURACY if i % 5 else None, row_name(i % 3), NOW
        )
        for i in range(1, count + 1)
    )
    rows = {name: Rows(name * 64, "holdout", 200) for name in ("A", "B", "C")}
    trend_plot(Trend("churn", "accuracy", True, points, rows), tmp_path / "trend.png")
    assert (tmp_path / "trend.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "trend.png").stat().st_size < 200_000
