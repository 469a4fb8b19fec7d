"""What several contracts are kept with."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlplatform.data.observations import FolderObservations
from mlplatform.testing.fakes.data import FakeObservations
from tests.captured import Place, Rulebook


@pytest.fixture(params=["fake", "folder"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    book = Rulebook()
    if request.param == "fake":
        return Place(FakeObservations(rules=book), None, book)
    return Place(FolderObservations(lambda endpoint: tmp_path / endpoint, book), tmp_path, book)
