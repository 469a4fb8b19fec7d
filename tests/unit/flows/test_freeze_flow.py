"""Freeze windows in promote: refused with the end and the way through; the glass breaks, with a reason and a mark."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlplatform.domain.freeze import Freeze
from mlplatform.domain.policy import Policy
from mlplatform.errors import UsageError
from mlplatform.flows.promote import Outcome, Wish, promote
from mlplatform.flows.rollback import rollback
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy, staging

NOON = Freeze("0 12 * * MON", "62h", "Europe/Berlin")
"""The fakes' clock starts on a Monday at 12:00 UTC, an hour after it began."""


def frozen(stage: str = "staging") -> Policy:
    given = policy()
    return replace(given, stages={**given.stages, stage: replace(given.stage(stage), freeze=(NOON,))})


def test_a_promotion_into_a_frozen_stage_is_refused_and_recorded(fakes: Fakes) -> None:
    outcome = fakes.promote(frozen(), fakes.version("run1"), "staging")
    assert (outcome.status, outcome.exit_code) == ("refused", 3)
    assert outcome.because == (
        "staging is frozen until Thu 2026-01-08 02:00 CET (0 12 * * MON, Europe/Berlin, for 62h);"
        " `--break-glass --reason ...` passes and is recorded"
    )
    assert outcome.frozen is not None and outcome.frozen.freeze == NOON
    assert fakes.places == {1: "CANDIDATE"}
    entry = fakes.ledger.entries(MODEL)[-1].draft
    assert (entry.kind.value, entry.reason) == ("refused", outcome.because)


def test_what_gates_say_is_told_besides(fakes: Fakes) -> None:
    outcome = fakes.promote(frozen(), fakes.version("run1", skill=0.1), "staging")
    assert outcome.status == "refused"
    assert "passes and is recorded. Besides: metric: accuracy is 0.1" in outcome.because
    assert [f.gate for f in outcome.findings] == ["metric"]


def test_it_is_open_again_at_the_very_end(fakes: Fakes) -> None:
    version = fakes.version("run1")
    fakes.clock.advance(61 * 3600 - 1)
    assert fakes.promote(frozen(), version, "staging").status == "refused"
    fakes.clock.advance(1)
    assert fakes.promote(frozen(), version, "staging").status == "done"


def test_another_stage_is_not_frozen(fakes: Fakes) -> None:
    assert fakes.promote(frozen("production"), fakes.version("run1"), "staging").status == "done"


@pytest.mark.parametrize("stage", ["staging", "production"])
def test_the_glass_breaks_and_says_so(fakes: Fakes, stage: str) -> None:
    given, version = frozen(stage), fakes.version("run1")
    if stage == "production":
        fakes.promote(given, version, "staging")
    outcome = fakes.promote(given, version, stage, break_glass=True)
    assert outcome.status in ("done", "rolling_out")
    assert fakes.places == {1: stage}
    entry = next(e.draft for e in fakes.ledger.entries(MODEL) if e.draft.data.get("break_glass"))
    assert entry.data["frozen"] == (
        "frozen until Thu 2026-01-08 02:00 CET (0 12 * * MON, Europe/Berlin, for 62h)"
    )
    assert entry.reason == "break-glass: because"


def test_the_glass_needs_a_reason(fakes: Fakes) -> None:
    version = fakes.version("run1")
    for reason in ("", "  "):
        wish = Wish(version, "staging", ADA, reason, break_glass=True)
        with pytest.raises(UsageError, match="needs a reason"):
            promote(fakes.world, policy(), wish)
    assert fakes.kinds == ["registered"]


def test_a_rollback_is_never_frozen(fakes: Fakes) -> None:
    given = policy()
    fakes.live(given, "run1")
    fakes.live(given, "run2")
    rollback(fakes.world, frozen("production"), "production", ADA, "worse")
    assert fakes.places[1] == "production"


def test_a_dry_run_tells_the_freeze(fakes: Fakes) -> None:
    outcome: Outcome = fakes.promote(frozen(), fakes.version("run1"), "staging", dry_run=True)
    assert (outcome.status, outcome.dry_run) == ("refused", True)
    assert fakes.kinds == ["registered"]


def test_a_freeze_changes_the_policy(fakes: Fakes) -> None:
    assert frozen().digest != staging(policy()).digest
