"""Ctrl-C on a promotion: what stands is said, with the commands that go on with it or take it back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlplatform.cli.main import run
from mlplatform.domain.ledger import Draft, Kind
from mlplatform.domain.policy import Policy
from mlplatform.domain.version import Version
from mlplatform.errors import INTERRUPTED
from mlplatform.flows.interrupted import standing
from mlplatform.flows.promote import Wish, promote
from mlplatform.flows.rollout import follow
from tests.unit.flows.test_rollout_flow import begun, look, rolling, through
from tests.unit.flows.worlds import ADA, MODEL, Fakes, policy

BACK = "`mlplatform rollback churn --stage production --reason ...` takes it back"


def second(fakes: Fakes) -> str:
    return standing(fakes.world, rolling(), fakes.ledger.versions(MODEL)[-1], "production")


def test_before_the_commit_nothing_was_changed(fakes: Fakes) -> None:
    version = fakes.version("run1")
    told = standing(fakes.world, policy(), version, "staging")
    assert told == "nothing was changed: churn@1 is CANDIDATE; the same command begins again"


def test_a_rollout_that_no_entry_tells_of_never_began(fakes: Fakes) -> None:
    class Dies:
        def append(self, draft: Draft) -> None:
            if draft.kind is Kind.ROLLOUT_OPENED:
                raise KeyboardInterrupt
            fakes.ledger.append(draft)

        def __getattr__(self, name: str) -> object:
            return getattr(fakes.ledger, name)

    fakes.live(rolling(), "run1")
    version = fakes.version("run2")
    fakes.promote(rolling(), version, "staging")
    with pytest.raises(KeyboardInterrupt):
        world = replace(fakes.world, ledger=Dies())  # type: ignore[arg-type]
        promote(world, rolling(), Wish(version, "production", ADA, "because"))
    assert second(fakes) == "nothing was changed: churn@2 is staging; the same command begins again"


def test_an_open_rollout_is_told_with_its_share_and_both_ways_out(fakes: Fakes) -> None:
    fakes.live(rolling(), "run1")
    version = fakes.version("run2")
    fakes.promote(rolling(), version, "staging")
    opened = promote(fakes.world, rolling(), Wish(version, "production", ADA, "because")).rollout
    assert opened
    on, start = (
        "`mlplatform reconcile churn` goes on with it",
        "the rollout of churn@2 into production is open",
    )
    assert second(fakes) == f"{start} (its server has not been told of a share yet): {on}, {BACK}"
    follow(fakes.world, rolling(), opened)
    assert second(fakes) == f"{start} (at shadow, step 1 of 4): {on}, {BACK}"


def test_a_version_that_has_the_stage_is_told_so(fakes: Fakes) -> None:
    begun(fakes, rolling())
    through(fakes, rolling())
    assert second(fakes) == f"churn@2 is in production, on probation: {BACK}"
    fakes.clock.advance(100 * 86_400)
    look(fakes, rolling())
    assert second(fakes) == f"churn@2 is in production: {BACK}"


def test_the_command_says_it_and_ends_as_interrupted(
    fakes: Fakes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    version = fakes.version("run1")

    class Interrupted:
        world = fakes.world

        def promote(self, *_: object) -> None:
            raise KeyboardInterrupt

        def version(self, ref: str) -> Version:
            return version

        def policy(self, model: str) -> Policy:
            return policy()

    monkeypatch.setattr("mlplatform.cli.models.platform", Interrupted)
    command = ["promote", "churn@1", "staging", "--reason", "weekly"]
    assert run(command) == INTERRUPTED
    said = " ".join(capsys.readouterr().err.split())
    assert said == "nothing was changed: churn@1 is CANDIDATE; the same command begins again Interrupted."
    assert run([*command, "--dry-run"]) == INTERRUPTED
    assert capsys.readouterr().err.split() == ["Interrupted."]
