"""The tutorial, run word for word in a fresh folder: it works, and prints what the page shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.plugins.targets.local import LocalTarget
from tests import documents

PAGE = Path(__file__).parent.parent.parent / "docs" / "tutorial.md"


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
