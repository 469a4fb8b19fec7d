from __future__ import annotations

import pytest

from mlplatform.domain.ledger import Actor
from mlplatform.domain.policy import Data, EvaluateOn
from mlplatform.domain.use import Use
from mlplatform.domain.verdict import Verdict
from mlplatform.errors import ChangedBytes, IllegalMove, Refused
from mlplatform.flows.rows import evaluation_rows
from tests.unit.flows.worlds import ACCURACY, ADA, MODEL, Fakes, hours, policy, rows, staging, wanting

EVE = Actor("eve", verified=True)


def test_a_version_that_passes_takes_the_stage(fakes: Fakes) -> None:
    given, version = policy(), fakes.version("run1")
    outcome = fakes.promote(given, version, "staging")
    assert (outcome.status, outcome.exit_code) == ("done", 0)
    assert fakes.places == {1: "staging"}
    entry = fakes.ledger.entries(MODEL)[-1].draft
    assert (entry.kind.value, entry.actor, entry.reason) == ("promoted", ADA, "because")
    [finding] = entry.data["findings"]
    assert finding["verdict"] == "PASS"


def test_the_ledger_tells_which_policy_let_a_version_in(fakes: Fakes) -> None:
    given, lax = staging(policy(), gates=(ACCURACY, Use("signature"))), staging(policy(), gates=())
    for name, each in (("run1", given), ("run2", lax)):
        fakes.promote(each, fakes.version(name), "staging")
        assert fakes.ledger.entries(MODEL)[-1].draft.data["policy_digest"] == each.digest
    assert given.digest != lax.digest


def test_the_one_before_is_retired(fakes: Fakes) -> None:
    given = policy()
    for name in ("run1", "run2"):
        fakes.promote(given, fakes.version(name), "staging")
    assert fakes.places == {1: "RETIRED", 2: "staging"}


def test_a_failed_gate_leaves_the_stage_untouched_and_is_recorded(fakes: Fakes) -> None:
    given = policy()
    fakes.promote(given, fakes.version("run1"), "staging")
    outcome = fakes.promote(given, fakes.version("run2", skill=0.5), "staging")
    assert (outcome.status, outcome.exit_code) == ("refused", 3)
    assert fakes.places == {1: "staging", 2: "CANDIDATE"}
    entry = fakes.ledger.entries(MODEL)[-1].draft
    assert (entry.kind.value, entry.version, entry.changes) == ("refused", 2, ())
    assert "accuracy is 0.5" in entry.reason
    assert entry.data["evaluation_id"] == outcome.evaluation_id != ""


def test_too_few_rows_wait(fakes: Fakes) -> None:
    given = staging(policy(), gates=(Use("metric", {"name": "accuracy", "at_least": 0.8, "min_n": 1000}),))
    outcome = fakes.promote(given, fakes.version("run1"), "staging")
    assert (outcome.status, outcome.exit_code) == ("waiting", 4)
    assert "cannot tell yet" in outcome.because
    assert fakes.places == {1: "CANDIDATE"}


def test_a_version_that_cannot_be_measured_is_an_error(fakes: Fakes) -> None:
    outcome = fakes.promote(policy(), fakes.version("run1", skill=None), "staging")
    assert (outcome.status, outcome.exit_code) == ("error", 6)
    assert [f.verdict for f in outcome.findings] == [Verdict.ERROR]
    assert fakes.places == {1: "CANDIDATE"}
    assert fakes.kinds == ["registered", "refused"]


def test_what_failed_weighs_more_than_what_could_not_be_told(fakes: Fakes) -> None:
    unsure = Use("metric", {"name": "accuracy", "at_least": 0.1, "min_n": 1000})
    given = staging(policy(), gates=(unsure, ACCURACY))
    assert fakes.promote(given, fakes.version("run1", skill=0.2), "staging").status == "refused"


def test_break_glass_skips_gates_and_says_so(fakes: Fakes) -> None:
    given = wanting(policy(), 2)
    outcome = fakes.promote(given, fakes.version("run1", skill=0.1), "staging", break_glass=True)
    assert outcome.status == "done"
    assert fakes.places == {1: "staging"}
    entry = fakes.ledger.entries(MODEL)[-1].draft
    assert entry.data["break_glass"] is True
    assert entry.reason == "break-glass: because"
    assert fakes.evaluator.asked == []


def test_a_policy_may_name_who_breaks_the_glass(fakes: Fakes) -> None:
    given, version = staging(wanting(policy(), 2), break_glass=("boss",)), fakes.version("run1", skill=0.1)
    with pytest.raises(Refused, match="may not break the glass of staging: it takes one of boss"):
        fakes.promote(given, version, "staging", break_glass=True, roles=("risk",))
    assert fakes.places == {1: "CANDIDATE"}
    assert fakes.promote(given, version, "staging", break_glass=True, roles=("boss",)).status == "done"


def test_break_glass_does_not_skip_the_ladder_or_the_bytes(fakes: Fakes) -> None:
    version = fakes.version("run1")
    with pytest.raises(IllegalMove, match="the next stage is staging"):
        fakes.promote(policy(), version, "production", break_glass=True)
    name = fakes.spoil(version)
    with pytest.raises(ChangedBytes, match=name):
        fakes.promote(policy(), version, "staging", break_glass=True)
    assert fakes.places == {1: "CANDIDATE"}


@pytest.mark.parametrize("skill", [1.0, 0.1])
def test_a_dry_run_changes_nothing(fakes: Fakes, skill: float) -> None:
    version = fakes.version("run1", skill)
    outcome = fakes.promote(policy(), version, "staging", dry_run=True)
    assert outcome.dry_run
    assert outcome.status == ("done" if skill == 1.0 else "refused")
    assert fakes.kinds == ["registered"]
    assert fakes.places == {1: "CANDIDATE"}


# --- rows -----------------------------------------------------------------------------------------------------------


def test_rows_that_either_version_was_trained_on_are_left_out(fakes: Fakes) -> None:
    given, one, two = policy(), fakes.version("run1"), fakes.version("run2", trained=(0, 30))
    known, _ = rows(0, 30)
    assert len(evaluation_rows(fakes.world, given, one, None).truth) == 100
    for pair in ((one, two), (two, one)):
        chosen = evaluation_rows(fakes.world, given, *pair)
        assert len(chosen.truth) == 70
        assert set(chosen.columns["x"]).isdisjoint(known["x"])
        assert "30 seen in training left out" in chosen.source


def test_both_versions_answer_the_same_rows_once(fakes: Fakes) -> None:
    given = staging(
        policy(), gates=(Use("no_regression", {"name": "accuracy", "margin": 0.05, "min_n": 30}),)
    )
    fakes.promote(given, fakes.version("run1"), "staging")
    fakes.evaluator.asked.clear()
    worse = fakes.version("run2", skill=0.6)
    assert fakes.promote(given, worse, "staging").status == "refused"
    assert fakes.promote(given, worse, "staging").status == "refused"
    assert fakes.evaluator.asked == [fakes.bundles.path(worse.digest)], "the incumbent's answers were known"


def test_the_holdout_is_used_until_there_are_enough_labels(fakes: Fakes) -> None:
    given = policy(data=Data("y", evaluate=EvaluateOn("labelled_window", last="2h", min_rows=50)))
    version = fakes.version("run1")
    fakes.answered(version, 200, 240, hour=0)
    fakes.observations.ingest("churn")
    assert "holdout" in evaluation_rows(fakes.world, given, version, None).source
    fakes.answered(version, 240, 270, hour=1)
    fakes.observations.ingest("churn")
    chosen = evaluation_rows(fakes.world, given, version, None)
    assert chosen.source.startswith("70 labelled rows")
    assert f"{hours(1):%Y-%m-%d %H}" in chosen.source
