"""Bundles that several tests load; made once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlplatform.domain.bundle import Column, Manifest
from mlplatform.domain.routes import CaptureRule, Route, Routes
from mlplatform.serving.decode import RowDecoder
from mlplatform.testing.bundles import make_log_bundle, make_mixed_bundle, make_onnx_bundle
from tests.served_models import lengths, pixels, spam

Publish = Callable[..., None]


@pytest.fixture(scope="session")
def numeric(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Columns a, b, c; classes 0 and 1."""
    folder = tmp_path_factory.mktemp("bundles") / "numeric"
    return folder, make_onnx_bundle(folder)


@pytest.fixture(scope="session")
def other(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Like `numeric`, with classes 10 and 11."""
    folder = tmp_path_factory.mktemp("bundles") / "other"
    return folder, make_onnx_bundle(folder, classes=(10, 11))


@pytest.fixture(scope="session")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    folder = tmp_path_factory.mktemp("bundles") / "mixed"
    return folder, make_mixed_bundle(folder)


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    """Answers log(x)."""
    folder = tmp_path_factory.mktemp("bundles") / "log"
    return folder, make_log_bundle(folder)


@pytest.fixture(scope="session")
def fuzzed(
    tmp_path_factory: pytest.TempPathFactory, numeric: tuple[Path, Manifest], mixed: tuple[Path, Manifest]
) -> dict[str, tuple[Path, Manifest]]:
    """A model of numbers, one of every kind of column, two of tensors, and one of text."""
    folder = tmp_path_factory.mktemp("bundles")
    made = {"lengths": lengths, "pixels": pixels, "spam": spam}
    others = {name: (folder / name, make(folder / name)) for name, make in made.items()}
    return {"numbers": numeric, "mixed": mixed, **others}


@pytest.fixture
def publish(tmp_path: Path) -> Publish:
    """Write `routes.json` for bundles that share the traffic equally."""

    def write(
        *bundles: tuple[Path, Manifest],
        generation: int = 1,
        standby: tuple[tuple[Path, Manifest], ...] = (),
        capture: CaptureRule = CaptureRule(),  # noqa: B008
    ) -> None:
        routes = [
            Route("m", i, manifest.digest, str(folder), 1 / len(bundles))
            for i, (folder, manifest) in enumerate(bundles, 1)
        ]
        waiting = [Route("m", 90 + i, m.digest, str(f), 0.0, "standby") for i, (f, m) in enumerate(standby)]
        document = Routes("e", generation, tuple(routes), tuple(waiting), capture)
        temporary = tmp_path / "routes.tmp"
        temporary.write_bytes(document.encode())
        temporary.rename(tmp_path / "routes.json")

    return write


@pytest.fixture
def decoder() -> RowDecoder:
    """Three float columns, and `ts` beside them."""
    return RowDecoder([Column("a", "double"), Column("b", "double"), Column("c", "float")], context=("ts",))
