"""A project in a folder of its own, and a stream of rows sent through its endpoint by the public verbs."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mlplatform.cli.demo import projects_folder
from mlplatform.control import Loop, Platform
from mlplatform.flows.intake import take_in


def new_project(folder: Path, name: str, settings: str = "") -> Path:
    """A copy of `projects/<name>` with a `mlplatform.toml`."""
    shutil.copytree(projects_folder() / name, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "mlplatform.toml").write_text(f'policies = ["policy.toml"]\n{settings}')
    return folder


@contextmanager
def opened(folder: Path) -> Iterator[Platform]:
    """The platform of a project; its servers are stopped at the end."""
    platform = Platform.open(folder)
    try:
        yield platform
    finally:
        for state in platform.endpoints():
            platform.undeploy(state.model, state.stage)


def first_version_live(platform: Platform, model: str, compress: bool) -> str:
    """Train, register, climb the whole ladder; the version that is live."""
    version = platform.register(model, platform.train(model))
    if compress:
        version = platform.compress(version.ref)
    for stage in platform.policy(model).ladder.stages:
        outcome = platform.promote(version.ref, stage, "first version")
        assert outcome.status == "done", outcome
    return version.ref


class Stream:
    """Sends rows, waits until they are captured, labels them, lets the monitor act."""

    def __init__(self, platform: Platform, endpoint: str) -> None:
        self.platform, self.endpoint = platform, endpoint
        self.sent = self.captured = 0

    def send(self, columns: dict[str, Any]) -> dict[str, Any]:
        answers = self.platform.ask(self.endpoint, columns)
        self.sent += len(answers["id"])
        give_up = time.monotonic() + 60
        while self.captured < self.sent:
            assert time.monotonic() < give_up, f"{self.captured} of {self.sent} rows were captured"
            policy = self.platform.policy(self.endpoint)
            self.captured += take_in(self.platform.world, policy, self.endpoint).rows
            threading.Event().wait(0.05)
        return answers

    def label_and_watch(self, answers: dict[str, Any], truth: Any, until: datetime) -> Loop:
        labelled = self.platform.label(self.endpoint, answers["id"], truth)
        assert (labelled.matched, labelled.pending) == (len(truth), 0)
        return self.platform.monitor(self.endpoint, until)
