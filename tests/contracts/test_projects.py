"""The projects that come with the platform keep its contract of parameters, and run by MLflow alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlplatform.data.tables import ParquetTables
from mlplatform.tracking.client import Mlflow
from mlplatform.tracking.runs import MlflowRuns
from mlplatform.trust.manifest import Inspector
from tests.mlflow_stores import fresh_store, make_template

PROJECTS = Path(__file__).parents[2] / "projects"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("mlflow-template"))


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Mlflow:
    return fresh_store(template, tmp_path / "store")


def test_digits_learns_from_captured_rows_and_keeps_its_newest_own_rows_back(
    store: Mlflow, tmp_path: Path
) -> None:
    tables, runs = ParquetTables(), MlflowRuns(store)
    rng = np.random.default_rng(0)
    extra: dict[str, np.ndarray] = {
        f"p{i:02d}": rng.integers(0, 17, 100).astype("float32") for i in range(64)
    }
    extra["digit"] = rng.integers(0, 10, 100)
    tables.write(tmp_path / "extra.parquet", extra)
    parameters = {
        "data_until": "200",
        "extra_data": str(tmp_path / "extra.parquet"),
        "cause": "t",
        "epochs": "5",
    }
    run_id = runs.train(PROJECTS / "digits", parameters, "digits", tmp_path / "log")
    candidate = runs.candidate(run_id, tmp_path / "into")
    assert (candidate.runtime, candidate.task.classes) == ("torch", tuple(range(10)))
    reference, holdout = tables.read(candidate.reference), tables.read(candidate.holdout)
    assert len(np.load(candidate.trained_on)) == 160 + 100
    assert reference["digit"][-100:].tolist() == extra["digit"].tolist()
    assert len(holdout["digit"]) == 40
    assert not np.isin(tables.row_digests(holdout, candidate.inputs), np.load(candidate.trained_on)).any()
    assert holdout["p00"].dtype == np.float32
    assert candidate.parameters["cause"] == "t"
    Inspector().inspect(candidate.model_folder, ("torch",))


def test_digits_runs_and_evaluates_by_mlflow_alone(store: Mlflow, tmp_path: Path) -> None:
    assert "trained on 160 rows, 40 newer ones kept back" in mlflow_run(
        store, "digits", "-P", "data_until=200", "-P", "epochs=20"
    )
    (run,) = store.call("search_runs", ["0"])
    asked = ("-e", "evaluate", "-P", f"run_id={run.info.run_id}", "-P", "data_from=1600")
    assert "on 197 rows" in mlflow_run(store, "digits", *asked)
    newest = store.call("search_runs", ["0"], max_results=1)[0]
    assert newest.data.metrics["accuracy"] > 0.5


@pytest.mark.data
def test_electricity_learns_a_stretch_of_the_stream(store: Mlflow, tmp_path: Path) -> None:
    runs = MlflowRuns(store)
    run_id = runs.train(
        PROJECTS / "electricity", {"data_until": "1996-07-02"}, "electricity", tmp_path / "log"
    )
    candidate = runs.candidate(run_id, tmp_path / "into")
    assert (candidate.runtime, candidate.task.classes) == ("sklearn", ("DOWN", "UP"))
    rows = 56 * 48
    held = len(ParquetTables().read(candidate.holdout)["class"])
    assert 0 < held < rows / 2 and len(ParquetTables().read(candidate.reference)["class"]) == rows - held
    assert candidate.metrics["holdout_accuracy"] > 0.7
    Inspector().inspect(candidate.model_folder, ("sklearn",))


def mlflow_run(store: Mlflow, project: str, *options: str) -> str:
    """`mlflow run projects/<project> --env-manager local` in a copy: what it leaves behind must not lie here."""
    folder = Path(store.uri.removeprefix("sqlite:///")).parent / project
    shutil.copytree(PROJECTS / project, folder, dirs_exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"MLFLOW_TRACKING_URI": store.uri}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "mlflow", "run", str(folder), "--env-manager", "local", *options]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
