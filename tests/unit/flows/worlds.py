"""A world of fakes for flows: a stump of a model that looks at one column, rows whose truth is known, a still clock."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.config.policy_file import build
from mlplatform.data.tables import ParquetTables
from mlplatform.domain.approval import Demand
from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.domain.endpoint import Endpoint
from mlplatform.domain.ladder import Ladder
from mlplatform.domain.ledger import Actor
from mlplatform.domain.policy import Data, EvaluateOn, Policy, Retrain, Stage, Watch
from mlplatform.domain.rollout_plan import Probation
from mlplatform.domain.use import Use
from mlplatform.domain.version import Version
from mlplatform.flows.labelling import TruthRules
from mlplatform.flows.promote import Outcome, Wish, promote
from mlplatform.flows.register import register
from mlplatform.flows.rollout import follow
from mlplatform.flows.world import World
from mlplatform.ports.extensions import Made
from mlplatform.ports.tracking import Candidate
from mlplatform.stats.batch import Columns, Outputs
from mlplatform.store.bundles import FolderBundles
from mlplatform.testing.clock import START, FixedClock
from mlplatform.testing.fakes.data import FakeObservations
from mlplatform.testing.fakes.evaluation import FakeEvaluator
from mlplatform.testing.fakes.serving import FakeDocuments, FakePlacements, FakeTarget
from mlplatform.testing.fakes.state import (
    FakeDeployments,
    FakeEvaluations,
    FakeIntents,
    FakeLeases,
    FakeLedger,
    FakeRetrainings,
    FakeWindows,
)
from mlplatform.testing.fakes.tokens import FakeTokens
from mlplatform.testing.fakes.tracking import FakeRegistry, FakeRuns
from mlplatform.tracking.card import render_card

MODEL = "churn"
ADA = Actor("ada", verified=True)
CLASSES = Task("classification", "label", (0, 1), "y")
INPUTS = (Column("x", "double"),)
ACCURACY = Use("metric", {"name": "accuracy", "at_least": 0.8, "min_n": 30})
HOLDOUT = (0, 100)
"""First and last row of every candidate's holdout."""
TRAINED = (1000, 1100)
"""First and last row that a candidate was trained on, unless a test says others."""


def rows(first: int, last: int) -> tuple[dict[str, Any], Any]:
    """Numbered rows: x repeats for nobody, and the truth is its sign."""
    numbers = np.arange(first, last)
    x = np.where(numbers % 2, 1.0, -1.0) * (numbers + 1)
    return {"x": x}, (x > 0).astype(np.int64)


def policy(**changes: Any) -> Policy:
    """Staging wants an accuracy of 0.8; production has an endpoint and no gates."""
    stages = {
        "staging": Stage(gates=(ACCURACY,), auto=True),
        "production": Stage(
            endpoint=Endpoint("churn"), auto=True, probation=Probation(lasts="1d", or_labels=60)
        ),
    }
    quality = Use("quality", {"name": "accuracy", "at_least": 0.9, "min_labels": 10})
    given = Policy(
        MODEL,
        Ladder(("staging", "production")),
        stages,
        data=Data("y", evaluate=EvaluateOn("holdout")),
        watch=Watch("1h", 10, (quality,)),
        retrain=Retrain(when=(Use("sustained", {"k": 1, "of": 1}),)),
    )
    return replace(given, **changes)


def staging(given: Policy, **changes: Any) -> Policy:
    """The policy with another staging."""
    return replace(given, stages={**given.stages, "staging": replace(given.stage("staging"), **changes)})


def wanting(given: Policy, approvals: int, **more: Any) -> Policy:
    return staging(given, approvals=Demand(approvals, **more))


class Trusting:
    """Port Trust, for files that a test has written itself."""

    def inspect(self, folder: Path, allow: Any) -> None:
        return None


@dataclass(frozen=True)
class Copying:
    """A technique that adds a byte."""

    accepts = frozenset({"onnx"})

    def compress(self, bundle: Path, manifest: Manifest, into: Path) -> Made:
        (into / "model").mkdir()
        (into / "model" / "model.onnx").write_bytes((bundle / "model" / "model.onnx").read_bytes() + b"!")
        return Made("onnx", "model/model.onnx", notes={"saved": 0})


@dataclass
class Fakes:
    """The fakes behind a world, and the few moves that tests repeat."""

    folder: Path
    clock: FixedClock = field(default_factory=FixedClock)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    evaluator: FakeEvaluator = field(default_factory=FakeEvaluator)
    documents: FakeDocuments = field(default_factory=FakeDocuments)
    placements: FakePlacements = field(default_factory=FakePlacements)
    target: FakeTarget = field(default_factory=FakeTarget)
    others: dict[str, FakeTarget] = field(default_factory=dict)
    """Targets of other names than `local`."""
    observations: FakeObservations = field(default_factory=FakeObservations)
    said: list[str] = field(default_factory=list)
    task: Task = CLASSES
    """Of versions that are made from now on."""

    def __post_init__(self) -> None:
        self.ledger = FakeLedger(self.clock)
        self.tokens = FakeTokens()
        self.runs = FakeRuns(folder=self.folder / "runs")
        self.bundles = FolderBundles(self.folder / "home")
        self.observations.rules = TruthRules(self.ledger, self.bundles)
        (self.folder / "work").mkdir()
        self.world = World(
            clock=self.clock,
            ledger=self.ledger,
            outbox=self.ledger,
            evaluations=FakeEvaluations(),
            deployments=FakeDeployments(),
            windows=FakeWindows(),
            retrainings=FakeRetrainings(),
            leases=FakeLeases(self.clock),
            intents=FakeIntents(),
            tokens=self.tokens,
            registry=self.registry,
            runs=self.runs,
            bundles=self.bundles,
            documents=self.documents,
            placements=self.placements,
            tables=ParquetTables(),
            observations=self.observations,
            evaluator=self.evaluator,
            trust=Trusting(),
            build=self._build,
            card=render_card,
            work=self.folder / "work",
            progress=self.said.append,
        )

    def _build(self, kind: str, use: Use) -> Any:
        if kind == "target":
            return self.target if use.use == "local" else self.others[use.use]
        return Copying() if kind == "technique" else build(kind, use)

    # --- versions -----------------------------------------------------------------------------------------------

    def candidate(
        self, name: str, folder: Path | None = None, trained: tuple[int, int] = TRAINED
    ) -> Candidate:
        """What a training would have logged. The name is in the model's bytes, so that no two are equal."""
        folder = folder or self.folder / "logged" / name
        (folder / "model").mkdir(parents=True)
        (folder / "model" / "MLmodel").write_text("flavors: {}\n")
        (folder / "model" / "model.onnx").write_text(name)
        held, truth = rows(*HOLDOUT)
        known, known_truth = rows(*TRAINED)
        tables = ParquetTables()
        tables.write(folder / "sample.parquet", held)
        tables.write(folder / "holdout.parquet", {**held, "y": truth})
        tables.write(folder / "reference.parquet", {**known, "y": known_truth})
        np.save(folder / "trained_on.npy", np.unique(tables.row_digests(rows(*trained)[0], INPUTS)))
        files = {part: folder / f"{part}.parquet" for part in ("sample", "holdout", "reference")}
        return Candidate(
            run_id=name,
            model_folder=folder / "model",
            runtime="onnx",
            inputs=INPUTS,
            task=self.task,
            trained_on=folder / "trained_on.npy",
            requirements={},
            author="grace",
            **files,
        )

    def version(self, name: str, skill: float | None = 1.0, trained: tuple[int, int] = TRAINED) -> Version:
        """A registered version that answers this share of the holdout rightly; None: it does not load."""
        self.runs.add(self.candidate(name, trained=trained))
        made = register(self.world, MODEL, name, ADA)
        if skill is not None:
            self.teach(made, skill)
        return made

    def teach(self, version: Version, skill: float) -> None:
        def answer(columns: Columns) -> Outputs:
            right = columns["x"] > 0
            wrong = np.abs(columns["x"]) % 100 >= skill * 100
            return Outputs(np.where(wrong, ~right, right).astype(np.int64))

        self.evaluator.teach(self.bundles.path(version.digest), answer)

    def promote(self, given: Policy, version: Version, stage: str, **more: Any) -> Outcome:
        """With everything that follows, up to probation."""
        outcome = promote(self.world, given, Wish(version, stage, more.pop("actor", ADA), "because", **more))
        if outcome.rollout:
            follow(self.world, given, outcome.rollout)
        return outcome

    def live(self, given: Policy, name: str, skill: float = 1.0) -> Version:
        """A version that climbed into production."""
        version = self.version(name, skill)
        for stage in given.ladder.stages:
            outcome = self.promote(given, version, stage)
            assert outcome.status in ("done", "rolling_out"), outcome
        assert self.places[version.number] == "production"
        return version

    def spoil(self, version: Version) -> str:
        """Change a byte; the file's name."""
        file = self.bundles.path(version.digest) / "model" / "model.onnx"
        file.chmod(0o644)
        file.write_bytes(b"X" + file.read_bytes()[1:])
        return "model/model.onnx"

    # --- live rows ----------------------------------------------------------------------------------------------

    def answered(
        self, version: Version, first: int, last: int, hour: float, right: bool = True, labelled: bool = True
    ) -> list[str]:
        """Rows that the version answered, a minute apart; the ids of those predictions."""
        columns, truth = rows(first, last)
        begin = np.datetime64(START.replace(tzinfo=None), "us").astype(np.int64)
        count = last - first
        requests = [f"{version.number:04d}{n:08d}" for n in range(first, last)]
        self.observations.capture(
            "churn",
            {
                "request": np.array(requests, "S12"),
                "row": np.zeros(count, np.int32),
                "time_us": begin + int(hour * 3_600_000_000) + np.arange(count) * 60_000_000,
                "version": np.full(count, version.number, np.int32),
                "model": np.full(count, version.model),
                "in:x": columns["x"],
                "prediction": truth if right else 1 - truth,
            },
        )
        ids = [f"{request}/0" for request in requests]
        if labelled:
            self.observations.post("churn", ids, truth.tolist())
        return ids

    # --- looking ------------------------------------------------------------------------------------------------

    @property
    def places(self) -> dict[int, str]:
        return dict(self.ledger.standings(MODEL).places)

    @property
    def kinds(self) -> list[str]:
        return [e.draft.kind.value for e in self.ledger.entries(MODEL)]

    @property
    def served(self) -> list[int]:
        """Versions that the server was told to answer with."""
        routes = self.documents.routes("churn")
        return [r.version for r in routes.routes] if routes else []

    def warm(self) -> list[int]:
        routes = self.documents.routes("churn")
        return [r.version for r in routes.standby] if routes else []


def hours(count: float) -> datetime:
    """So many hours after the first captured row."""
    return START + timedelta(hours=count)
