"""What several contracts are kept with."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.data.observations import FolderObservations
from mlplatform.testing.fakes.data import FakeObservations
from tests.captured import Place


@pytest.fixture(params=["fake", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "fake":
        return Place(FakeObservations(), None)
    return Place(FolderObservations(lambda endpoint: tmp_path / endpoint), tmp_path)
