from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlplatform.domain.routes import Route
from tests.server_place import Place, fast_route


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Route, ...]:
    """What `server_place` serves: a model that answers at once. A file that wants others overrides it."""
    return (fast_route(tmp_path_factory.mktemp("bundles") / "fast"),)


@pytest.fixture
def server_place(tmp_path: Path, routes: tuple[Route, ...]) -> Iterator[Place]:
    made = Place(tmp_path / "servers", routes)
    yield made
    made.target.stop(made.folder)
