"""Port Placements: the fake and the folder keep the same promises."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from mlplatform.domain.ledger import Actor
from mlplatform.domain.placement import Choice, Placement
from mlplatform.domain.use import Use
from mlplatform.errors import WorldError
from mlplatform.ports.store import Placements
from mlplatform.store.placements import FILE, FolderPlacements
from mlplatform.testing.fakes.serving import FakePlacements

CHOSEN = Placement(
    Use("docker", {"memory_mb": 1500, "packages": ["pandas==3.1.1"]}),
    Choice(Actor("ada", verified=True), datetime(2026, 3, 2, tzinfo=UTC)),
    settled=False,
    before=Use("local"),
)


@pytest.fixture(params=["fake", "folder"])
def placements(request: pytest.FixtureRequest, tmp_path: Path) -> Placements:
    return FakePlacements() if request.param == "fake" else FolderPlacements(tmp_path.joinpath)


def test_nothing_is_known_of_an_endpoint_that_was_never_placed(placements: Placements) -> None:
    assert placements.placement("churn") is None
    placements.place("churn", None)


def test_what_was_placed_last_is_read_again_and_forgotten_on_demand(placements: Placements) -> None:
    for placement in (Placement(Use("local")), CHOSEN):
        placements.place("churn", placement)
        assert placements.placement("churn") == placement
    assert placements.placement("fraud") is None
    placements.place("churn", None)
    assert placements.placement("churn") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"target": 1, "choice": null, "before": null}'])
def test_a_damaged_note_is_an_error_and_not_another_target(tmp_path: Path, text: str) -> None:
    (tmp_path / "churn").mkdir()
    (tmp_path / "churn" / FILE).write_text(text)
    with pytest.raises(WorldError, match="does not say where the server runs"):
        FolderPlacements(tmp_path.joinpath).placement("churn")
