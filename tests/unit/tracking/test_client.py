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
from mlplatform.tracking.client import Missing, Mlflow, prepare, quiet


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


def test_one_patience_is_shared_by_all_requests_of_a_command() -> None:
    """After a request was given up, the next ones are tried once: a dead server is not waited for again and again."""
    client = Scripted(*[MlflowException("connection refused") for _ in range(1000)])
    made = store(client, patience_s=0.2)
    with pytest.raises(MlflowUnreachable):
        made.call("get_run", "r1")
    tried = client.calls
    with pytest.raises(MlflowUnreachable):
        made.call("get_run", "r1")
    assert client.calls == tried + 1
    client.failures.clear()
    assert made.call("get_run", "r1") == "run r1"
    client.failures = [MlflowException("connection refused")]
    assert made.call("get_run", "r1") == "run r1", "an answer begins a new patience"


def test_what_can_wait_is_given_up_when_answers_come_too_slowly() -> None:
    client = Scripted()
    made = store(client)
    with made.within(-1), pytest.raises(MlflowUnreachable, match="too slowly"):
        made.call("get_run", "r1")
    assert made.call("get_run", "r1") == "run r1"


def test_a_timeout_names_the_setting_that_helps() -> None:
    client = Scripted(*[MlflowException("Read timed out. (read timeout=20)") for _ in range(1000)])
    with pytest.raises(MlflowUnreachable, match=r"no answer within .* `mlflow_patience`"):
        store(client, patience_s=0.05).call("get_run", "r1")


def test_a_cut_download_is_tried_again_though_mlflow_calls_it_missing() -> None:
    cut = MlflowException("Failed to download artifacts from path 'model'", RESOURCE_DOES_NOT_EXIST)
    client = Scripted(cut)
    assert store(client).call("get_run", "r1") == "run r1"
    assert client.calls == 2


def test_mlflow_prints_no_addresses_into_our_output(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
    monkeypatch.delenv(variable, raising=False)
    with quiet():
        assert os.environ[variable] == "true"
    assert variable not in os.environ
    monkeypatch.setenv(variable, "false")
    with quiet():
        assert os.environ[variable] == "false", "what somebody has chosen stays"
    assert os.environ[variable] == "false"


@pytest.mark.parametrize(("patience", "expected"), [(0.5, "1"), (60.0, "60")])
def test_a_request_may_take_as_long_as_the_patience(
    monkeypatch: pytest.MonkeyPatch, patience: float, expected: str
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "")
    prepare(patience)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == expected
    prepare(5)
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == expected
