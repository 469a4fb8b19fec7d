"""The tutorial, run word for word in a fresh folder: it works, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.plugins.targets.local import LocalTarget
from tests import documents

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "tutorial.md"


@pytest.mark.timeout(600)
def test_the_tutorial_works_and_prints_what_it_shows(tmp_path: Path) -> None:
    found = documents.steps(PAGE.read_text())
    commands = [step for step in found if step.command]
    try:
        said = documents.run(found, tmp_path)
    finally:
        LocalTarget().stop(tmp_path / ".mlplatform" / "servers" / "churn")
    assert len(commands) > 12
    for step, answer in zip(commands, said, strict=True):
        assert answer.code == 0, f"$ {step.command}\n{answer.output}"
        shown = "\n".join(step.shown)
        assert documents.same(shown, answer.output, tmp_path), (
            f"$ {step.command}\nshown:\n{shown}\nsaid:\n{answer.output}\n"
            "if this is right: python -m tests.documents docs/tutorial.md"
        )
    history = next(a.output for s, a in zip(commands, said, strict=True) if s.command == "mlplatform history")
    assert history.count(" promoted ") == 4 and history.count(" rolled back ") == 1


def test_the_commands_of_the_readme_work_in_the_order_in_which_they_stand(tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text()
    found = [step for step in documents.steps(page) if step.command.startswith("mlplatform ")]
    assert len(found) >= 4
    for step, answer in zip(found, documents.run(found, tmp_path), strict=True):
        assert answer.code == 0, f"$ {step.command}\n{answer.output}"


def test_a_different_word_is_seen_and_a_different_number_is_not() -> None:
    folder = Path("/tmp/x")
    shown = "churn@1  to staging: done\n  PASS  size_mb is 1.14"
    assert documents.same(shown, "churn@2 to staging:   done\n  PASS  size_mb is 0.9", folder)
    assert not documents.same(shown, shown.replace("PASS", "FAIL"), folder)
    assert not documents.same(shown, shown + "\nmore", folder)
    assert documents.same("first\n...\nlast", "first\nsecond\nlast", folder)
