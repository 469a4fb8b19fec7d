"""A real `mlflow server` behind a proxy that stops, stumbles, loses replies and is slow, as it is told.

Commands repeat what may pass, make nothing twice, end within a bound, and what MLflow missed it is told later.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlplatform.config.settings import load_settings
from mlplatform.tracking.client import Mlflow
from tests import documents
from tests.faults.mlflow_proxy import Fault, Kind, MlflowProxy
from tests.forking import Forker
from tests.mlflow_stores import running_server
from tests.small_project import POLICY, TRAIN

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
MODEL = "churn"
REASON = ("--reason", "because")
PATIENCE = "1s"
BOUND_SECONDS = 2 * 1 + 5
"""Twice the patience, and the rest of the command on a busy machine."""
KINDS: list[Kind] = ["500", "lost", "cut"]
RUNS = 9


@dataclass
class Site:
    """A project whose MLflow is a server behind a proxy."""

    folder: Path
    proxy: MlflowProxy
    server: Mlflow
    """Past the proxy: what MLflow really holds."""
    forker: Forker
    runs: list[str]
    patience: str = PATIENCE

    def run(self, *words: str) -> tuple[int, str, str]:
        output, errors = self.folder / "output.log", self.folder / "errors.log"
        environment = {
            "MLPLATFORM_TRACKING_URI": self.proxy.url,
            "MLPLATFORM_MLFLOW_PATIENCE": self.patience,
            "MLPLATFORM_ACTOR": "ada",
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "",
        }
        code = self.forker.run(words, self.folder, environment, output, errors)
        return code, output.read_text(), errors.read_text()

    def done(self, *words: str, code: int = 0) -> Any:
        found, output, errors = self.run(*words, "--json")
        assert found == code, f"{words} ended with {found}: {output}{errors}"
        return json.loads(output or errors)

    def fresh(self) -> str:
        return self.runs.pop()

    def candidate(self) -> int:
        return max(number for number, place in self.places().items() if place == "CANDIDATE")

    def registered(self) -> int:
        return int(self.done("register", MODEL, "--run", self.fresh())["number"])

    def versions(self) -> list[int]:
        return sorted(int(v.version) for v in self.server.call("search_model_versions", f"name='{MODEL}'"))

    def aliases(self) -> dict[str, int]:
        found = self.server.call("get_registered_model", MODEL).aliases
        return {name: int(number) for name, number in found.items()}

    def places(self) -> dict[int, str]:
        [model] = self.done("list")
        return {int(number): place for number, place in model["places"].items()}

    def agrees(self) -> None:
        """Nothing is twice, nothing is missing, nothing is left over."""
        assert self.done("doctor")["differences"] == []
        places = self.places()
        assert self.versions() == sorted(places)
        assert self.aliases() == {place: n for n, place in places.items() if place == "staging"}

    @contextmanager
    def patient(self, patience: str) -> Iterator[None]:
        before, self.patience = self.patience, patience
        try:
            yield
        finally:
            self.patience = before


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path, forking: Forker) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("behind-a-proxy")
    (folder / "policy.toml").write_text(POLICY.replace('endpoint  = { name = "churn" }\n', ""))
    (folder / "train.py").write_text(TRAIN)
    (folder / "mlplatform.toml").write_text("")
    with running_server(tmp_path_factory.mktemp("mlflow-server"), empty_mlflow) as server:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        environment["MLPLATFORM_TRACKING_URI"] = server.uri
        command = [sys.executable, "train.py", *map(str, range(RUNS))]
        trained = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=True
        )
        runs = next(line for line in trained.stdout.splitlines() if line.startswith("runs")).split()[1:]
        proxy = MlflowProxy(server.uri)
        made = Site(folder, proxy, server, forking, runs)
        made.registered()
        made.registered()
        made.done("promote", f"{MODEL}@1", "staging", *REASON)
        yield made
        proxy.stop()


# --- failures that pass ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_every_request_may_fail_once_and_the_command_goes_through(site: Site, kind: Kind) -> None:
    before = site.versions()
    run = site.fresh()
    with site.patient("20s"), site.proxy.failing(Fault(kind)) as seen:
        made = site.done("register", MODEL, "--run", run)
    assert made["number"] == before[-1] + 1
    failed = [s for s in seen if s.failed]
    assert any("model-versions/create" in s.path for s in failed), "the fault never met the write"
    assert len(failed) > 8
    with site.patient("20s"), site.proxy.failing(Fault(kind)) as seen:
        site.done("promote", f"{MODEL}@{made['number']}", "staging", *REASON)
    assert any("registered-models/alias" in s.path and s.failed for s in seen)
    assert site.versions() == [*before, made["number"]]
    assert site.aliases() == {"staging": made["number"]}
    site.agrees()


def test_a_child_is_compressed_once_whatever_reply_is_lost(site: Site) -> None:
    parent = site.candidate()
    with site.patient("20s"), site.proxy.failing(Fault("lost")) as seen:
        child = site.done("compress", f"{MODEL}@{parent}", "--steps", "onnx")
    lost = {s.path.partition("?")[0].rpartition("/mlflow/")[2] for s in seen if s.failed}
    assert {"runs/create", "logged-models", "model-versions/create"} <= lost, lost
    run = site.server.call("get_run", child["run_id"])
    [experiment] = {run.info.experiment_id}
    wanted = f"tags.`mlplatform.digest`='{child['digest']}'"
    assert len(site.server.call("search_runs", [experiment], wanted)) == 1
    models = site.server.call("search_logged_models", [experiment], f"source_run_id='{child['run_id']}'")
    assert [m.status for m in models] == ["READY"]
    site.agrees()


def test_an_approval_and_a_reconciliation_meet_the_same_faults(site: Site) -> None:
    number = site.candidate()
    site.server.call("set_registered_model_alias", MODEL, "staging", str(number))
    with site.patient("20s"), site.proxy.failing(Fault("500")) as seen:
        site.done("approve", f"{MODEL}@{number}", "--for", "production", *REASON)
        [moved] = site.done("history", MODEL)[-1:]
    assert any(s.failed for s in seen)
    assert moved["draft"]["kind"] == "outside_move", "the alias was moved by hand before the approval's card"
    site.server.call("delete_registered_model_alias", MODEL, "staging")
    with site.patient("20s"), site.proxy.failing(Fault("lost")):
        [found] = site.done("reconcile", MODEL)
    assert "alias staging names nothing" in found["what"]
    site.agrees()


# --- failures that stay ---------------------------------------------------------------------------------------------


def test_stopped(site: Site) -> None:
    """What needs MLflow ends in time, saying what to do; what does not need it is done, and told later."""
    run, number = site.runs[0], site.candidate()
    before, began = site.versions(), time.monotonic()
    with site.proxy.stopped():
        page_says_what_the_command_says(site)
        told = site.done("register", MODEL, "--run", run, code=6)
        assert time.monotonic() - began < BOUND_SECONDS
        assert told["error"] == "mlflow_unreachable" and "refused" in told["message"]
        assert site.proxy.url in told["message"] and "tracking_uri" in told["hint"]
        for words in (("compress", f"{MODEL}@1", "--steps", "onnx"), ("reconcile", MODEL)):
            assert site.done(*words, code=6)["error"] == "mlflow_unreachable"
        site.done("promote", f"{MODEL}@{number}", "staging", *REASON)
        site.done("approve", f"{MODEL}@{number}", "--for", "production", *REASON)
        assert site.done("doctor", code=6)["failed"][0]["error"] == "mlflow_unreachable"
        assert site.places()[number] == "staging"
    assert site.aliases() != {"staging": number}
    [told] = site.done("reconcile", MODEL)
    assert "lag behind" in told["what"]
    assert site.versions() == before
    site.agrees()


def page_says_what_the_command_says(site: Site) -> None:
    section = PAGE.read_text().split("## When MLflow is down\n")[1].split("\n## ")[0]
    [step] = documents.steps(section)
    code, _, said = site.run(*step.command.split()[1:])
    assert code == 6 and documents.same("\n".join(step.shown), said, site.folder), said


@pytest.mark.parametrize("kind", ["500", "lost", "slow"])
def test_a_write_that_was_done_and_never_answered(site: Site, kind: Kind) -> None:
    """The version stands in MLflow; whoever registers next finds it, or takes it back, and makes no second one."""
    before, run = site.versions(), site.fresh()
    fault = Fault(kind, once=False, seconds=30, only="model-versions/")
    with site.proxy.failing(fault):
        began = time.monotonic()
        told = site.done("register", MODEL, "--run", run, code=6)
        assert time.monotonic() - began < BOUND_SECONDS
    assert told["error"] == "mlflow_unreachable"
    assert ("mlflow_patience" in told["message"]) == (kind == "slow")
    assert len(site.versions()) <= len(before) + 1
    number = site.done("register", MODEL, "--run", run)["number"]
    assert set(site.versions()) == {*before, number}
    site.agrees()


def test_a_projection_that_fails_in_the_middle_is_finished_by_the_next_command(site: Site) -> None:
    number = site.candidate()
    with site.proxy.failing(Fault("500", once=False, only="registered-models/alias")):
        code, _, said = site.run("promote", f"{MODEL}@{number}", "staging", *REASON)
    assert code == 0 and "lags behind" in said
    assert site.places()[number] == "staging"
    site.done("approve", f"{MODEL}@{number}", "--for", "production", *REASON)
    assert site.aliases() == {"staging": number}
    site.agrees()


def test_answers_that_take_half_a_minute_are_told_within_the_default_patience(site: Site) -> None:
    """The real default, at the cost of one patience; a larger `mlflow_patience` would sit it out."""
    with site.patient(""), site.proxy.failing(Fault("slow", once=False, seconds=30, only="runs/get")):
        began = time.monotonic()
        told = site.done("register", MODEL, "--run", site.runs[0], code=6)
        took = time.monotonic() - began
    assert load_settings(site.folder, {}).mlflow_patience == "20s"
    assert 20 <= took < 30
    assert "no answer within 20 s" in told["message"] and "mlflow_patience" in told["message"]
    site.agrees()


def test_slow_answers_are_sat_out_where_the_setting_says_so(site: Site) -> None:
    with site.patient("10s"), site.proxy.failing(Fault("slow", seconds=3, only="model-versions/create")):
        site.registered()
    site.agrees()


def test_serving_and_looking_need_no_mlflow(site: Site) -> None:
    with site.proxy.stopped():
        for words in (
            ("list",),
            ("history", MODEL),
            ("show", f"{MODEL}@1"),
            ("check", f"{MODEL}@1", "production"),
        ):
            began = time.monotonic()
            assert site.run(*words)[0] in (0, 3, 4)
            assert time.monotonic() - began < 2
