"""A small project at a busy moment of its life, prepared once and put back before every test that breaks it.

| version | stands    |                                                       |
| 1       | STANDBY   | live before 2                                         |
| 2       | production| on probation; what it answered was labelled, all wrong|
| 3       | staging   |                                                       |
| 4       | CANDIDATE |                                                       |
| 5       | CANDIDATE | its model does not load                               |

One more run is logged and not registered. No server runs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import uuid4

import numpy as np

from mlplatform.control import Platform
from mlplatform.domain.ladder import CANDIDATE, STANDBY, Change, is_stage
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.retention import is_collected
from mlplatform.domain.verdict import Verdict, worst
from mlplatform.domain.version import Version
from mlplatform.flows.approve import incumbent
from mlplatform.flows.evaluate import judge
from mlplatform.flows.intake import take_in
from mlplatform.flows.rollout import unfinished
from mlplatform.plugins.targets.local import LocalTarget
from tests.bundles import freeze_bytes
from tests.forking import Forker

MODEL = "churn"
BEGIN = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
UNTIL = (BEGIN + timedelta(hours=2)).isoformat()
LABELLED = 40
PLACES = {1: "STANDBY", 2: "production", 3: "staging", 4: "CANDIDATE", 5: "CANDIDATE"}

POLICY = """
model  = "churn"
ladder = ["staging", "production"]

[data]
target = "y"
time   = "at"

[stages.staging]
auto  = true
gates = [{ use = "metric", name = "accuracy", at_least = 0.6, min_n = 30 }]

[stages.production]
auto      = true
approvals = { count = 0, unverified = true, author_may_approve = true }
endpoint  = { name = "churn" }
probation = { or_labels = 40 }

[watch]
window   = "1h"
min_rows = 10
metrics  = [{ use = "quality", name = "accuracy", at_least = 0.9, min_labels = 10 }]

[retrain]
when = [{ use = "sustained", k = 1, of = 1 }]
"""

MLPROJECT = """
name: churn
entry_points:
  main:
    parameters:
      extra_data: {type: string, default: ""}
      cause: {type: string, default: "manual"}
    command: "python train.py 1000"
"""

TRAIN = """
import sys
import numpy as np
from sklearn.linear_model import LogisticRegression
import mlplatform


def log(seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(200, 3))
    y = (X[:, 0] + X[:, 1] / 2 + rng.normal(scale=0.3, size=200) > 0).astype(int)
    model = LogisticRegression().fit(X[:120], y[:120])
    return mlplatform.log_candidate(model, holdout=(X[120:], y[120:]), reference=(X[:120], y[:120]), target="y")


if __name__ == "__main__":
    print("runs", *[log(int(seed)) for seed in sys.argv[1:]])
"""

Database = Callable[[], AbstractContextManager[str]]


@dataclass(frozen=True)
class Place:
    """A copy of the project that a test may break, and ways to run commands in it."""

    folder: Path
    environment: dict[str, str]
    fresh_run: str
    """The run that is not registered."""
    forker: Forker

    def run(
        self, *words: str, failpoint: str = "", kill_after_seconds: float | None = None
    ) -> tuple[int, str]:
        """A command as a process of its own: exit code, and all that it printed."""
        code, output, errors = self._run(words, failpoint, kill_after_seconds)
        return code, output + errors

    def done(self, *words: str, code: int = 0) -> str:
        """A command that should end with this code; all that it printed."""
        return "".join(self._ended(words, code))

    def told(self, *words: str, code: int = 0) -> Any:
        """What a command that should end with this code said as JSON."""
        return json.loads(self._ended((*words, "--json"), code)[0])

    def _ended(self, words: Sequence[str], code: int) -> tuple[str, str]:
        found, output, errors = self._run(words)
        assert found == code, f"mlplatform {' '.join(words)} ended with {found}:\n{output}{errors}"
        return output, errors

    def _run(
        self, words: Sequence[str], failpoint: str = "", kill_after_seconds: float | None = None
    ) -> tuple[int, str, str]:
        output, errors = self.folder / "output.log", self.folder / "errors.log"
        for file in (output, errors):  # a kill may come before the child has opened them
            file.write_text("")
        environment = self.environment | {"MLPLATFORM_FAILPOINT": failpoint}
        code = self.forker.run(words, self.folder, environment, output, errors, kill_after_seconds)
        return code, output.read_text(), errors.read_text()

    @contextmanager
    def opened(self) -> Iterator[Platform]:
        """The project in this process."""
        with _environment(self.environment):
            platform = Platform.open(self.folder)
            try:
                yield platform
            finally:
                platform._wiring.database.close()

    @property
    def servers(self) -> Path:
        return self.folder / ".mlplatform" / "servers"


class SmallProject:
    """The prepared project of one kind of database. All copies lie at one path, one after the other: MLflow and
    our own records name files by their whole path.
    """

    def __init__(self, folder: Path, mlflow_template: Path, database: Database, forker: Forker) -> None:
        self.folder, self.template, self.database, self.forker = (
            folder / "churn",
            folder / "kept",
            database,
            forker,
        )
        self.folder.mkdir(parents=True)
        (self.folder / ".mlplatform").mkdir()
        shutil.copyfile(mlflow_template, self.folder / ".mlplatform" / "mlflow.db")

    def prepare(self, database_url: str) -> None:
        files = {"policy.toml": POLICY, "MLproject": MLPROJECT, "train.py": TRAIN, "mlplatform.toml": ""}
        for name, text in files.items():
            (self.folder / name).write_text(text)
        runs = _train_all(self.folder)
        with _environment(_settings(database_url)):
            platform = Platform.open(self.folder)
            try:
                _live_a_little(platform, runs)
            finally:
                LocalTarget().stop(self.folder / ".mlplatform" / "servers" / MODEL)
                platform._wiring.database.close()
        (self.folder / "fresh_run").write_text(runs[4])
        self.folder.rename(self.template)

    @contextmanager
    def copied(self) -> Iterator[Place]:
        shutil.copytree(self.template, self.folder, symlinks=True)
        try:
            with self._opened() as place:
                yield place
        finally:
            shutil.rmtree(self.folder)

    @contextmanager
    def _opened(self) -> Iterator[Place]:
        (self.folder / "tmp").mkdir()
        home = self.folder / ".mlplatform"
        # A name of its own: MLflow keeps connections by name, and this process has looked into earlier copies.
        store = (home / "mlflow.db").rename(home / f"mlflow-{uuid4().hex}.db")
        with self.database() as url:
            environment = {**_settings(url), "MLPLATFORM_TRACKING_URI": f"sqlite:///{store}"}
            environment["TMPDIR"] = str(self.folder / "tmp")
            place = Place(self.folder, environment, (self.folder / "fresh_run").read_text(), self.forker)
            try:
                yield place
            finally:
                LocalTarget().stop(place.servers / MODEL)


def _settings(database_url: str) -> dict[str, str]:
    return {"MLPLATFORM_DATABASE_URL": database_url, "MLPLATFORM_ACTOR": "ada"}


@contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(changes)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _train_all(folder: Path) -> list[str]:
    command = [sys.executable, "train.py", *map(str, range(6))]
    root = str(Path(__file__).parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(line for line in done.stdout.splitlines() if line.startswith("runs")).split()[1:]


def _live_a_little(platform: Platform, runs: list[str]) -> None:
    for run in runs[:4]:
        platform.register(MODEL, run)
    for number in (1, 2, 3):
        for stage in ("staging", "production")[: 1 if number == 3 else 2]:
            outcome = platform.promote(f"{MODEL}@{number}", stage, "prepared")
            assert outcome.status == "done", outcome
        if number == 2:
            _answer_and_label(platform)
    _register_broken(platform, runs[5])
    for number, stage in ((4, "staging"), (3, "production")):
        _measure(platform, number, stage)
    platform.reconcile(MODEL)  # MLflow is told of the broken one, too
    assert dict(platform.world.ledger.standings(MODEL).places) == PLACES


def _measure(platform: Platform, number: int, stage: str) -> None:
    """Measured once; promotions in the copies are quick then."""
    version, policy = platform.version(f"{MODEL}@{number}"), platform.policy(MODEL)
    judgement = judge(platform.world, policy, stage, version, incumbent(platform.world, policy, stage))
    assert worst(judgement.findings) is Verdict.PASS


def _answer_and_label(platform: Platform) -> None:
    """Rows over an hour, and labels that say that every answer was wrong."""
    rng = np.random.default_rng(9)
    columns = {f"c{i}": rng.normal(size=LABELLED) for i in range(3)}
    first = np.datetime64(BEGIN.replace(tzinfo=None), "us")
    answers = platform.ask(MODEL, {**columns, "at": first + np.arange(LABELLED).astype("timedelta64[m]")})
    captured, give_up = 0, time.monotonic() + 30
    while captured < LABELLED:
        assert time.monotonic() < give_up, f"{captured} of {LABELLED} rows were captured"
        captured += take_in(platform.world, platform.policy(MODEL), MODEL).rows
        threading.Event().wait(0.05)
    truth = 1 - answers["prediction"].astype(int)
    (platform.settings.root / "labels.json").write_text(json.dumps([answers["id"].tolist(), truth.tolist()]))
    platform.label(MODEL, answers["id"], truth)


def _register_broken(platform: Platform, run_id: str) -> None:
    """A version whose bytes are what was registered, and no model."""
    world = platform.world
    frozen = freeze_bytes(world, b"no model")
    number = world.registry.create(MODEL, run_id, "broken")
    version = Version(MODEL, number, frozen.digest, "onnx", run_id, world.clock.now(), "ada", 8)
    changes = (Change(number, None, CANDIDATE),)
    world.ledger.register(version, Draft(MODEL, Kind.REGISTERED, number, Actor("ada"), "broken", changes))


# --- what must hold after any crash ---------------------------------------------------------------------------------


def assert_whole(place: Place, places: dict[int, str], run_left: bool = False, share: float = 0.0) -> None:
    """Everything agrees: ledger, MLflow, server, bytes, files, leases. `run_left`: a server should be running; `share`:
    of the requests, for the version in staging, which is being rolled out."""
    with place.opened() as platform:
        world = platform.world
        assert dict(world.ledger.standings(MODEL).places) == places
        assert platform.verify().holds
        holders = {stage: number for number, stage in places.items() if is_stage(stage)}
        assert len(holders) == sum(map(is_stage, places.values())), "two versions hold one stage"
        made_of = [(v.run_id, v.parent, v.technique) for v in world.ledger.versions(MODEL)]
        assert len(made_of) == len(set(made_of)), "one run became two versions"
        view = world.registry.outside(MODEL)
        assert dict(view.aliases) == holders
        assert view.versions == set(places), "MLflow and the ledger have different versions"
        assert platform.differences(MODEL) == []
        assert world.intents.left() == []
        assert unfinished(world, platform.policy(MODEL)) == [], "a rollout stands between two steps"
        for name in ("change", "retrain"):
            assert world.leases.holder(f"{name}:{MODEL}") is None
        assert all(r.outcome != "started" for r in world.retrainings.history(MODEL))
        _assert_served(
            platform, holders["production"], run_left, {holders["staging"]: share} if share else {}
        )
        _assert_evaluations_whole(platform)
        _assert_bytes(platform)
    assert_nothing_temporary(place)


def assert_nothing_temporary(place: Place) -> None:
    home, temporary = place.folder / ".mlplatform", place.folder / "tmp"
    left = [*(home / "staging").glob("*"), *home.rglob("*.tmp")]
    left += [path for path in temporary.iterdir() if path.name != ".ses"]  # ONNX Runtime's own
    assert not left, f"left behind: {', '.join(map(str, left))}"


def _assert_served(platform: Platform, holder: int, run_left: bool, beside: dict[int, float]) -> None:
    version = platform.version(f"{MODEL}@{holder}")
    routes = platform.world.documents.routes(MODEL)
    wanted = {**beside, holder: 1 - sum(beside.values())}
    assert routes and {r.version: r.share for r in routes.routes} == wanted
    assert version.digest in [r.digest for r in routes.routes]
    places = platform.world.ledger.standings(MODEL).places
    assert {places[r.version] for r in routes.standby} <= {STANDBY}
    state = platform.endpoint(MODEL)
    assert state.server.running == run_left
    if run_left:
        workers = platform.world.documents.workers(MODEL)
        assert [w.generation for w in workers] == [routes.generation]
        assert answering(state.server.url) in [f"{MODEL}@{number}" for number in wanted]


def _assert_evaluations_whole(platform: Platform) -> None:
    """What is on disk can be read: a half-written evaluation would be found here."""
    for file in (platform.settings.home / "evidence").glob("*/evaluation-*.npz"):
        with np.load(file, allow_pickle=False) as arrays:
            assert len(arrays["labels"]) == len(arrays["truth"])


def _assert_bytes(platform: Platform) -> None:
    """gc freed nothing that something protects; all other bytes are those that were registered."""
    world, protected = platform.world, platform.gc(dry_run=True).kept
    entries = world.ledger.entries(MODEL)
    for version in world.ledger.versions(MODEL):
        if is_collected(entries, version.number):
            assert version.ref not in protected
        else:
            world.bundles.verify(version.digest)


def answering(url: str) -> str:
    """Which version answers a request."""
    body = json.dumps(
        {"dataframe_split": {"columns": ["c0", "c1", "c2", "at"], "data": [[0.1, 0.2, 0.3, None]]}}
    )
    headers = {"Content-Type": "application/json"}
    with urlopen(Request(f"{url}/invocations", body.encode(), headers), timeout=10) as answer:
        return str(answer.headers["Mlplatform-Model"])
