"""`mlplatform demo`, run once a test session on each database, for every test that looks at what it leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Told:
    """The folder of a demo that has ended, and what it printed."""

    folder: Path
    output: str
    environment: dict[str, str]

    def run(self, *words: str, rc: int = 0) -> str:
        """A command in the demo's folder; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "mlplatform", *words],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == rc, (words, done.returncode, done.stdout, done.stderr)
        return done.stdout

    def json(self, *words: str, rc: int = 0) -> Any:
        return json.loads(self.run(*words, "--json", rc=rc))


@pytest.fixture(scope="session")
def tell_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str | None], Told]]:
    """Run the demo on SQLite (None) or on another database's address; each address once."""
    told: dict[str | None, Told] = {}

    def tell(database_url: str | None) -> Told:
        if database_url not in told:
            folder = tmp_path_factory.mktemp("demo") / "digits"
            environment = {**os.environ}
            if database_url:
                environment["MLPLATFORM_DATABASE_URL"] = database_url
            done = subprocess.run(
                [sys.executable, "-m", "mlplatform", "demo", str(folder)],
                env=environment,
                capture_output=True,
                text=True,
                timeout=280,
            )
            assert done.returncode == 0, (done.stdout, done.stderr)
            told[database_url] = Told(folder, done.stdout, environment)
        return told[database_url]

    yield tell


@pytest.fixture(scope="session")
def demo(tell_demo: Callable[[str | None], Told]) -> Told:
    return tell_demo(None)
