"""The review card says what a person must know, within what MLflow can keep."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mlplatform.domain.approval import Approval, Tally
from mlplatform.domain.card import CardFacts
from mlplatform.domain.ladder import Change
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.verdict import Evaluation, Finding, Measurement, Verdict
from mlplatform.domain.version import Version
from mlplatform.tracking.card import MAX_CHARS, render_card

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
VERSION = Version("churn", 7, "d" * 64, "sklearn", "run1", NOW, "os:ada", 1_234_567)
FINDING = Finding(
    "no_regression",
    Verdict.FAIL,
    "0.04 worse than churn@6",
    (Measurement("accuracy", 0.81, 0.79, 0.83, 500),),
    "margin 0.01",
)
EVALUATION = Evaluation(
    "e1", "d" * 64, "x", 500, FINDING.measurements, "p.npz", NOW, {"source": "holdout of run run1"}
)


def entry(seq: int, kind: Kind, reason: str, target: str | None = None) -> Entry:
    changes = (Change(7, None, target),) if target else ()
    return Entry(
        seq, NOW + timedelta(minutes=seq), Draft("churn", kind, 7, Actor("os:bob"), reason, changes), "", ""
    )


FACTS = CardFacts(
    VERSION,
    "CANDIDATE",
    findings=(FINDING, replace(FINDING, gate="budget", verdict=Verdict.PASS)),
    stage="production",
    evaluation=EVALUATION,
    entries=(
        entry(1, Kind.REGISTERED, "run run1", "CANDIDATE"),
        entry(2, Kind.PROMOTED, "gates passed", "staging"),
    ),
)


def test_findings_are_a_table_with_verdict_numbers_limit_and_reason() -> None:
    text = render_card(FACTS).markdown
    assert "**Gates of production: FAIL**" in text and "Measured on holdout of run run1." in text
    row = next(line for line in text.splitlines() if line.startswith("| no_regression"))
    assert "FAIL" in row and "accuracy 0.81 \\[0.79, 0.83\\], n=500" in row  # escaped: no link
    assert "0.04 worse than churn@6" in row and "margin 0.01" in row
    assert row.count(" | ") == 4


def test_stage_size_author_run_and_digest_are_named() -> None:
    text = render_card(FACTS).markdown
    for wanted in ("churn@7 · CANDIDATE", "1.23 MB", "os:ada", "run `run1`", f"`{'d' * 64}`"):
        assert wanted in text


def test_a_version_nobody_judged_says_so() -> None:
    assert "Not judged yet." in render_card(CardFacts(VERSION, "CANDIDATE")).markdown


def test_approvals_are_counted_and_void_ones_explained() -> None:
    good = Approval("os:eve", False, NOW, "looks fine", "production", "d", "e", "p")
    void = replace(good, actor="os:ada")
    text = render_card(
        replace(FACTS, tally=Tally((good,), ((void, "the author may not approve"),), 2))
    ).markdown
    assert "**Approvals: 1 of 2**" in text
    assert "os:eve, unverified, 2026-03-01 12:00: looks fine" in text
    assert "because the author may not approve" in text


def test_a_compressed_child_names_parent_and_technique() -> None:
    child = replace(VERSION, number=8, parent=7, technique="onnx", cause="compress")
    card = render_card(replace(FACTS, version=child, notes={"onnx": {"size_ratio": 0.25}}))
    assert "onnx of churn@7" in card.markdown and "size_ratio 0.25" in card.markdown
    assert card.tags["mlplatform.parent"] == "churn@7" and card.tags["mlplatform.technique"] == "onnx"


def test_the_newest_history_comes_first() -> None:
    text = render_card(FACTS).markdown
    assert text.index("promoted to staging, os:bob: gates passed") < text.index(
        "registered, os:bob: run run1"
    )


def test_tags_are_small_and_tell_place_and_verdict() -> None:
    tags = render_card(FACTS).tags
    assert tags["mlplatform.place"] == "CANDIDATE" and tags["mlplatform.verdict"] == "FAIL"
    assert all(len(value) < 250 for value in tags.values())


def test_a_long_story_is_cut_to_what_mlflow_keeps() -> None:
    entries = tuple(entry(i, Kind.APPROVED, "because " * 40) for i in range(200))
    card = render_card(replace(FACTS, entries=entries))
    assert len(card.markdown) <= MAX_CHARS and "History" in card.markdown
    many = tuple(replace(FINDING, because="x" * 300) for _ in range(50))
    assert len(render_card(replace(FACTS, findings=many)).markdown) <= MAX_CHARS


def test_what_people_type_cannot_change_the_page() -> None:
    rude = replace(FINDING, because="a | b\n\n# c <script>alert(1)</script> ![x](http://evil)")
    text = render_card(replace(FACTS, findings=(rude,))).markdown
    assert "<script>" not in text and "\n# c" not in text and "![x](" not in text
    row = next(line for line in text.splitlines() if line.startswith("| no_regression"))
    assert row.replace("\\|", "").count("|") == 6


def test_equal_facts_give_equal_cards() -> None:
    assert render_card(FACTS) == render_card(replace(FACTS))
