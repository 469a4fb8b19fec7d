"""The review card says what a person must know, within what MLflow can keep."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from mlplatform.domain.approval import Approval, Tally
from mlplatform.domain.card import CardFacts, Rival
from mlplatform.domain.ladder import Change
from mlplatform.domain.ledger import Actor, Draft, Entry, Kind
from mlplatform.domain.lineage import lineage
from mlplatform.domain.verdict import Evaluation, Finding, Measurement, Verdict
from mlplatform.domain.version import Version
from mlplatform.tracking.card import MAX_CHARS, render_card
from mlplatform.tracking.markdown import cell

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
    assert "**Gates of production: FAIL**" in text
    assert "Measured on holdout of run run1: accuracy 0.81 \\[0.79, 0.83\\], n=500." in text
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


def test_approvals_of_each_stage_are_counted_and_void_ones_explained() -> None:
    good = Approval("os:eve", False, NOW, "looks fine", "production", "d", "e", "p")
    void = replace(good, actor="os:ada")
    tally = Tally((good,), ((void, "the author may not approve"),), 2)
    text = render_card(replace(FACTS, approvals={"production": tally})).markdown
    assert "**Approvals for production: 1 of 2**" in text
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


def test_the_family_is_a_tree_from_the_run_that_trained_it() -> None:
    child = replace(VERSION, number=8, parent=7, technique="onnx", cause="compress")
    grandchild = replace(child, number=9, parent=8, technique="dynamic_int8")
    places = {7: "RETIRED", 8: "production", 9: "CANDIDATE"}
    first = replace(VERSION, cause="trigger: accuracy fell")
    family = lineage(child, [first, child, grandchild], places, before=5)
    lines = render_card(replace(FACTS, version=child, lineage=family)).markdown.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("- run `run1`"))
    assert lines[at : at + 4] == [
        "- run `run1`, cause trigger: accuracy fell; churn@5 was live then",
        "    - churn@7 RETIRED, sklearn",
        "        - **churn@8** production, sklearn, onnx of churn@7",
        "            - churn@9 CANDIDATE, sklearn, dynamic_int8 of churn@8",
    ]


def test_the_budget_tells_costs_and_the_size_beside_the_rival() -> None:
    cost = Finding("budget", Verdict.PASS, "within", (Measurement("cpu_us", 12.5, unit="us"),), "cpu_us 20")
    rival = Rival(replace(VERSION, number=6, size_bytes=2_469_134), EVALUATION)
    text = render_card(replace(FACTS, findings=(FINDING, cost), rival=rival)).markdown
    assert "- size 1.23 MB, -50% against churn@6" in text
    assert "- cpu_us 12.5us" in text


def test_the_report_and_its_picture_are_where_mlflow_serves_them() -> None:
    links = {
        "report.html": "#/runs/1",
        "metrics.svg": "get-artifact?path=m.svg",
        "monitoring.html": "#/runs/2",
    }
    text = render_card(replace(FACTS, links=links)).markdown
    assert "[Report](#/runs/1) · [Monitoring](#/runs/2)" in text
    assert "![Metrics of churn@7](get-artifact?path=m.svg)" in text
    assert "](" not in render_card(FACTS).markdown


def test_many_numbers_and_long_reasons_leave_room_for_the_rest() -> None:
    numbers = tuple(Measurement(f"accuracy town={i}", 0.5) for i in range(200))
    long = replace(FINDING, measurements=numbers, because="because " * 400)
    text = render_card(replace(FACTS, findings=(long,))).markdown
    assert "and 194 more" in text
    assert "**Where it comes from**" in text and "promoted to staging" in text


RUDE = (
    "a | b\n\n# c <script>alert(1)</script> ![x](http://evil) [y](javascript:alert(1)) `code` *b* _i_ ~~s~~ &lt;"
    " https://evil.example www.evil.example eve@evil.example \u202egnp.exe"
)


def test_what_people_type_cannot_change_the_page() -> None:
    changed = entry(3, Kind.PROMOTED, RUDE)
    good = Approval(RUDE, False, NOW, RUDE, "production", "d", "e", "p")
    text = render_card(
        replace(
            FACTS,
            findings=(replace(FINDING, because=RUDE, gate=RUDE),),
            entries=(changed,),
            approvals={"production": Tally((good,), ((good, RUDE),), 1)},
            notes={RUDE: RUDE},
            evaluation=replace(EVALUATION, details={"source": RUDE}),
            version=replace(VERSION, author=RUDE, cause=RUDE),
        )
    ).markdown
    for sign in (
        "<script>",
        "\n# c",
        "![x](",
        "[y](",
        "\n\n# c",
        "https://",
        " www.",
        "@evil",
        "\u202e",
        " *b*",
        " _i_",
    ):
        assert sign not in text, sign
    row = next(line for line in text.splitlines() if "| **FAIL** |" in line)
    assert row.replace("\\|", "").count("|") == 6


def test_plain_names_stay_readable() -> None:
    assert cell("no_regression of churn@7, 95 % (n=80)") == "no_regression of churn@7, 95 % (n=80)"


def test_equal_facts_give_equal_cards() -> None:
    assert render_card(FACTS) == render_card(replace(FACTS))


def test_a_broken_glass_is_marked() -> None:
    promoted = entry(3, Kind.PROMOTED, "break-glass: hotfix", "staging")
    broken = replace(promoted, draft=replace(promoted.draft, data={"break_glass": True}))
    text = render_card(replace(FACTS, entries=(*FACTS.entries, broken))).markdown
    assert "promoted to staging by **break-glass**, os:bob: break-glass: hotfix" in text
    assert text.count("by **break-glass**") == 1
