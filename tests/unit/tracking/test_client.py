"""Every call to MLflow ends: in an answer, or in one of our errors after a bounded wait."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from mlplatform.errors import MlflowUnreachable, WorldError
from mlplatform.tracking.client import Missing, Mlflow


class Scripted:
    """A client that fails in the given ways, then answers."""

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def get_run(self, run_id: str) -> str:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return f"run {run_id}"


def store(client: Any, patience_s: float = 5.0) -> Mlflow:
    made = Mlflow("http://user:secret@mlflow.test:5000", patience_s=patience_s, sleep=lambda seconds: None)
    made.__dict__["client"] = client
    return made


def test_failures_that_pass_are_tried_again() -> None:
    client = Scripted(MlflowException("connection refused"), ConnectionResetError("cut"))
    assert store(client).call("get_run", "r1") == "run r1"
    assert client.calls == 3


def test_a_server_that_stays_away_is_one_line_without_the_password() -> None:
    client = Scripted(*[MlflowException("refused\nand more") for _ in range(1000)])
    with pytest.raises(MlflowUnreachable) as caught:
        store(client, patience_s=0.05).call("get_run", "r1")
    assert str(caught.value) == "MLflow at http://mlflow.test:5000 does not answer: refused"
    assert "tracking_uri" in caught.value.next_step


def test_what_is_missing_is_not_tried_again() -> None:
    client = Scripted(MlflowException("no such run", RESOURCE_DOES_NOT_EXIST))
    with pytest.raises(Missing):
        store(client).call("get_run", "r1")
    assert client.calls == 1


def test_what_mlflow_refuses_is_said_and_not_tried_again() -> None:
    client = Scripted(MlflowException("bad name", INVALID_PARAMETER_VALUE))
    with pytest.raises(WorldError, match="refused: bad name"):
        store(client).call("get_run", "r1")
    assert client.calls == 1


def test_our_own_mistakes_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        store(Scripted(ZeroDivisionError())).call("get_run", "r1")


def test_a_lost_call_that_did_its_work_is_not_repeated() -> None:
    client = Scripted(ConnectionResetError("cut"))
    assert store(client).call("get_run", "r1", recheck=lambda: "was done") == "was done"
    assert client.calls == 1


def test_a_closed_port_is_found_out_within_the_deadline() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(MlflowUnreachable, match=str(port)):
        Mlflow(f"http://127.0.0.1:{port}", patience_s=0.5).call("search_experiments")


def test_a_database_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, whatever its name says" * 100)
    with pytest.raises(MlflowUnreachable, match="not a database"):
        Mlflow(f"sqlite:///{tmp_path / 'mlflow.db'}", patience_s=0.1).call("search_experiments")


def test_an_embedded_store_keeps_its_files_where_it_was_told(tmp_path: Path) -> None:
    made = Mlflow(f"sqlite:///{tmp_path / 'deep' / 'mlflow.db'}", tmp_path / "files")
    number = made.experiment("churn model/1")
    assert made.experiment("churn model/1") == number
    run = made.call("create_run", number)
    assert run.info.artifact_uri.startswith(str(tmp_path / "files" / "churn_model_1"))


def test_being_the_default_store_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    before = mlflow.get_tracking_uri()
    with Mlflow("sqlite:////elsewhere.db").as_default():
        assert mlflow.get_tracking_uri() == "sqlite:////elsewhere.db"
    assert mlflow.get_tracking_uri() == before and "MLFLOW_TRACKING_URI" not in os.environ


def test_importing_tracking_loads_no_mlflow() -> None:
    code = (
        "import sys, mlplatform.tracking.runs, mlplatform.tracking.registry, mlplatform.tracking.card;"
        "print([m for m in ('mlflow', 'torch', 'sklearn', 'pandas', 'sqlalchemy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
