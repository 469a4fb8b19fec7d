"""A project whose versions nobody loads: stages without gates, and any number of candidates with the same bytes.

For what is not about models: who wins, what the ledger says. Made in a second, with as many candidates as wanted.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from mlplatform.control import Platform
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.version import Version
from mlplatform.tracking.client import Mlflow
from tests.bundles import freeze_bytes
from tests.forking import Forker
from tests.mlflow_stores import run_with_model
from tests.small_project import Place

MODEL = "churn"
POLICY = """
model  = "churn"
ladder = ["staging", "production"]

[data]
target = "y"

[stages.staging]
[stages.production]
"""


@contextmanager
def bare_project(
    folder: Path, empty_mlflow: Path, database_url: str, forking: Forker, candidates: int
) -> Iterator[Place]:
    (folder / ".mlplatform").mkdir(parents=True)
    (folder / "policy.toml").write_text(POLICY)
    (folder / "mlplatform.toml").write_text("")
    # A name of its own: MLflow keeps connections by name, and this process has looked into others.
    store = shutil.copyfile(empty_mlflow, folder / ".mlplatform" / f"mlflow-{uuid4().hex}.db")
    environment = {"MLPLATFORM_DATABASE_URL": database_url, "MLPLATFORM_ACTOR": "ada"}
    environment["MLPLATFORM_TRACKING_URI"] = f"sqlite:///{store}"
    run = run_with_model(
        Mlflow(f"sqlite:///{store}", folder / ".mlplatform" / "mlartifacts"), folder / "logged"
    )
    place = Place(folder, environment, run, forking)
    with place.opened() as platform:
        _register(platform, run, candidates)
    yield place


def _register(platform: Platform, run: str, candidates: int) -> None:
    world = platform.world
    digest = freeze_bytes(world, b"bytes").digest
    for count in range(candidates):
        number = world.registry.create(MODEL, run, f"bare {count}")
        version = Version(MODEL, number, digest, "onnx", run, world.clock.now(), "eve", 5)
        changes = (Change(number, None, CANDIDATE),)
        draft = Draft(MODEL, Kind.REGISTERED, number, Actor("eve"), "bare", changes)
        world.ledger.register(version, draft)
    world.outbox.done(MODEL, candidates)
