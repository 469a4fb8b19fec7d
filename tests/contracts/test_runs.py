"""Port Runs: training, reading candidates back, and what compression adds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.errors import NotACandidate, TrainingFailed, UnknownName, WorldError
from mlplatform.ports.tracking import Candidate, RunDetails, Runs
from mlplatform.testing.bundles import make_onnx_bundle
from mlplatform.testing.fakes.tracking import FakeRuns
from mlplatform.tracking.client import Mlflow
from mlplatform.tracking.runs import MlflowRuns
from tests.mlflow_stores import fresh_store, make_template, run_with_model, running_server

MLPROJECT = """
name: tiny
entry_points:
  main:
    parameters:
      data_until: {type: float, default: 80}
      cause: {type: string, default: manual}
    command: "%s train.py {data_until} {cause}"
"""
TRAIN = """
import sys
import mlflow, numpy as np
from sklearn.naive_bayes import GaussianNB
import mlplatform

print("training until", sys.argv[1])
if sys.argv[2] == "break":
    raise ValueError("no such rows")
rng = np.random.default_rng(0)
X = rng.normal(size=(100, 2))
y = (X[:, 0] > 0).astype(int)
cut = int(float(sys.argv[1]))
model = GaussianNB().fit(X[:cut], y[:cut])
with mlflow.start_run():
    mlplatform.log_candidate(model, holdout=(X[cut:], y[cut:]), reference=(X[:cut], y[:cut]))
"""


@dataclass
class Kit:
    runs: Runs
    run_without_files: Callable[[], str]
    delete: Callable[[str], None]
    """Somebody deletes a run in MLflow."""


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("mlflow-template"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, template: Path) -> Iterator[Mlflow]:
    with running_server(tmp_path_factory.mktemp("mlflow-server"), template) as store:
        yield store


@pytest.fixture(params=["fake", "embedded", "server"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Kit:
    if request.param == "fake":
        runs = FakeRuns(train_fake, tmp_path / "runs")
        empty = lambda: runs.add(replace(fake_candidate(tmp_path / "nothing"), run_id=uuid4().hex))  # noqa: E731
        return Kit(runs, empty, lambda run_id: runs.states.update({run_id: "deleted"}))
    if request.param == "embedded":
        store = fresh_store(request.getfixturevalue("template"), tmp_path / "store")
    else:
        store = request.getfixturevalue("server")
    delete = lambda run_id: store.call("delete_run", run_id)  # noqa: E731
    return Kit(MlflowRuns(store), lambda: run_with_model(store, tmp_path), delete)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "MLproject").write_text(MLPROJECT % sys.executable)
    (folder / "train.py").write_text(TRAIN)
    return folder


def train_fake(parameters: Mapping[str, str], folder: Path) -> Candidate:
    if parameters.get("cause") == "break":
        raise TrainingFailed(
            project="tiny", ending="exit code 1", cause="ValueError: no such rows", log="log"
        )
    candidate = fake_candidate(folder)
    (folder / "model").mkdir()
    (folder / "model" / "MLmodel").write_text("flavors: {}")
    for path in (candidate.sample, candidate.holdout, candidate.reference):
        path.write_bytes(b"PAR1")
    np.save(candidate.trained_on, np.arange(int(float(parameters["data_until"])), dtype=np.uint64))
    return candidate


def fake_candidate(folder: Path) -> Candidate:
    return Candidate(
        run_id="fake",
        model_folder=folder / "model",
        runtime="sklearn",
        inputs=(Column("c0", "double"), Column("c1", "double")),
        task=Task("classification", "label", (0, 1)),
        sample=folder / "sample.parquet",
        holdout=folder / "holdout.parquet",
        reference=folder / "reference.parquet",
        trained_on=folder / "trained_on.npy",
        requirements={},
        author="os:ada",
    )


def test_a_trained_run_is_a_candidate(kit: Kit, project: Path, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "train.log"
    run_id = kit.runs.train(project, {"data_until": "70", "cause": ""}, "tiny", log)
    assert "70" in log.read_text()
    candidate = kit.runs.candidate(run_id, tmp_path / "into")
    assert candidate.run_id == run_id and candidate.runtime == "sklearn"
    assert candidate.inputs == (Column("c0", "double"), Column("c1", "double"))
    assert candidate.task == Task("classification", "label", (0, 1))
    assert candidate.author.startswith("os:")
    assert (candidate.model_folder / "MLmodel").is_file()
    assert len(np.load(candidate.trained_on, allow_pickle=False)) == 70
    for path in (candidate.model_folder, candidate.sample, candidate.holdout, candidate.reference):
        assert path.is_relative_to(tmp_path / "into") and path.exists()


def test_a_failed_training_says_why(kit: Kit, project: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="ValueError: no such rows"):
        kit.runs.train(project, {"cause": "break"}, "tiny", tmp_path / "train.log")


def test_an_unknown_run_is_a_clear_error(kit: Kit, tmp_path: Path) -> None:
    with pytest.raises(UnknownName):
        kit.runs.candidate("0123456789abcdef0123456789abcdef", tmp_path / "into")


def test_a_run_is_named_by_the_beginning_of_its_id(kit: Kit) -> None:
    run_id, other = kit.run_without_files(), kit.run_without_files()
    assert kit.runs.named(run_id[:8]) == kit.runs.named(run_id) == run_id
    kit.delete(other)
    assert kit.runs.named(other[:12]) == other
    with pytest.raises(UnknownName) as short:
        kit.runs.named(run_id[:7])
    assert "first 8 characters" in short.value.next_step
    for wild in ("________", "0" * 31):  # the first would stand for any letters in SQL
        with pytest.raises(UnknownName):
            kit.runs.named(wild)


def test_a_deleted_run_is_seen_and_restored(kit: Kit) -> None:
    run_id = kit.run_without_files()
    assert kit.runs.lifecycle(run_id) == "active"
    kit.delete(run_id)
    assert kit.runs.lifecycle(run_id) == "deleted"
    kit.runs.restore(run_id)
    assert kit.runs.lifecycle(run_id) == "active"
    assert kit.runs.lifecycle("0" * 32) == "gone"


def test_every_missing_part_is_named(kit: Kit, tmp_path: Path) -> None:
    with pytest.raises(NotACandidate, match=r"sample.*, holdout.*, reference.*, trained_on"):
        kit.runs.candidate(kit.run_without_files(), tmp_path / "into")


def test_a_derived_model_hangs_below_its_parent_once(kit: Kit, tmp_path: Path) -> None:
    parent = kit.run_without_files()
    manifest: Manifest = make_onnx_bundle(tmp_path / "bundle")
    derived = kit.runs.log_derived(parent, tmp_path / "bundle", manifest, "onnx")
    assert derived != parent
    assert kit.runs.log_derived(parent, tmp_path / "bundle", manifest, "onnx") == derived


def test_what_was_drawn_is_kept_beside_a_run_and_drawn_once(kit: Kit) -> None:
    run_id, drawn = kit.run_without_files(), list[str]()

    def draw(text: str) -> Callable[[], Mapping[str, str]]:
        def files() -> Mapping[str, str]:
            drawn.append(text)
            return {"report.html": f"<p>{text} 价格</p>", "metrics.svg": "<svg/>"}

        return files

    first = kit.runs.keep(run_id, "churn-7", "a" * 64, draw("one"))
    assert set(first) == {"report.html", "metrics.svg"}
    assert kit.runs.keep(run_id, "churn-7", "a" * 64, draw("two")) == first
    kit.runs.keep(run_id, "churn-7", "b" * 64, draw("three"))
    assert drawn == ["one", "three"]
    kit.runs.keep(run_id, "churn-monitoring", "a" * 64, lambda: {"monitoring.html": "<p>"})
    known = kit.runs.keep(run_id, "churn-7", "b" * 64, draw("four"))
    assert set(known) == {"report.html", "metrics.svg", "monitoring.html"}


def test_a_drawing_that_fails_leaves_nothing_that_looks_finished(kit: Kit) -> None:
    run_id = kit.run_without_files()

    def fail() -> Mapping[str, str]:
        raise ValueError("no glyph")

    with pytest.raises(ValueError, match="no glyph"):
        kit.runs.keep(run_id, "churn-7", "a" * 64, fail)
    assert kit.runs.keep(run_id, "churn-7", "a" * 64, lambda: {"report.html": "<p>"})


def test_nothing_is_kept_beside_a_run_that_is_not_there(kit: Kit) -> None:
    with pytest.raises(UnknownName):
        kit.runs.keep("0123456789abcdef0123456789abcdef", "churn-7", "a" * 64, dict)
    with pytest.raises(UnknownName):
        kit.runs.details("0123456789abcdef0123456789abcdef")


def test_addresses_are_those_of_mlflows_own_ui(template: Path, tmp_path: Path) -> None:
    store = fresh_store(template, tmp_path / "store")
    run_id = run_with_model(store, tmp_path)
    run = store.call("get_run", run_id)
    kept = MlflowRuns(store).keep(
        run_id, "churn-7", "abc", lambda: {"report.html": "<p>", "metrics.svg": "<svg/>"}
    )
    experiment = run.info.experiment_id
    assert kept == {
        "report.html": f"#/experiments/{experiment}/runs/{run_id}/artifacts/mlplatform/churn-7/report.html",
        "metrics.svg": f"get-artifact?path=mlplatform/churn-7/metrics.svg&run_uuid={run_id}&of=abc",
    }
    folder = Path(run.info.artifact_uri.removeprefix("file://")) / "mlplatform" / "churn-7"
    assert (folder / "metrics.svg").read_text() == "<svg/>"


def test_tags_that_somebody_else_wrote_are_not_believed(template: Path, tmp_path: Path) -> None:
    store = fresh_store(template, tmp_path / "store")
    run_id = run_with_model(store, tmp_path)
    rude = '{"digest": ")](javascript:alert(1))", "files": ["x.html", "../../x", 7]}'
    for folder, text in (("churn-7", "no json"), ("churn-8", "{}"), ("a) ![x](b", rude)):
        with suppress(WorldError):  # MLflow refuses such a name
            store.call("set_tag", run_id, f"mlplatform.drawn.{folder}", text)
    store.call("set_tag", run_id, "mlplatform.drawn.churn-9", rude)
    kept = MlflowRuns(store).keep(run_id, "churn-7", "abc", lambda: {"report.html": "<p>"})
    assert set(kept) == {"report.html", "x.html"}
    assert not set("".join(kept.values())) & set("()[]<>!")


def test_a_run_tells_its_data_sets_and_its_commit(template: Path, tmp_path: Path) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    store = fresh_store(template, tmp_path / "store")
    run_id = run_with_model(store, tmp_path)
    store.call("log_param", run_id, "depth", 6)
    store.call("log_metric", run_id, "auc", 0.75)
    store.call("set_tag", run_id, "mlflow.source.git.commit", "c0ffee")
    used = DatasetInput(Dataset("adult", "d1", "local", "{}"), [InputTag("mlflow.data.context", "training")])
    store.call("log_inputs", run_id, [used])
    details = MlflowRuns(store).details(run_id)
    assert details == RunDetails({"depth": "6"}, {"auc": 0.75}, {"adult (training)": "d1"}, "c0ffee")


def test_a_derived_onnx_model_is_in_mlflows_own_format(template: Path, tmp_path: Path) -> None:
    import onnx

    from mlplatform.tracking.registry import MlflowRegistry

    store = fresh_store(template, tmp_path / "store")
    parent = run_with_model(store, tmp_path)
    manifest = make_onnx_bundle(tmp_path / "bundle", classes=("no", "yes"))
    derived = MlflowRuns(store).log_derived(parent, tmp_path / "bundle", manifest, "onnx+dynamic_int8")
    run = store.call("get_run", derived)
    assert run.data.tags["mlflow.parentRunId"] == parent and run.info.status == "FINISHED"
    made = store.call("get_logged_model", run.data.tags["mlplatform.model_id"])
    folder = Path(made.artifact_location)
    assert "loader_module: mlflow.onnx" in (folder / "MLmodel").read_text()
    assert '"name": "a"' in (folder / "MLmodel").read_text()
    onnx.checker.check_model(onnx.load(str(folder / "model.onnx")))
    assert MlflowRegistry(store).create("churn", derived, "compress:churn@1:onnx") == 1


def test_links_in_a_local_store_stay_links(template: Path, tmp_path: Path) -> None:
    """Copied as links they are seen and refused; followed, they would be swallowed."""
    from mlplatform.errors import UnsafeArtifact
    from mlplatform.trust.manifest import Inspector

    store = fresh_store(template, tmp_path / "store")
    run_id = run_with_model(store, tmp_path)
    run = store.call("get_run", run_id)
    made = store.call("get_logged_model", run.data.tags["mlplatform.model_id"])
    (Path(made.artifact_location) / "a.txt").symlink_to("/etc/passwd")
    with pytest.raises(NotACandidate):
        MlflowRuns(store).candidate(run_id, tmp_path / "into")
    assert (tmp_path / "into" / "model" / "a.txt").is_symlink()
    with pytest.raises(UnsafeArtifact, match=r"a\.txt is a symbolic link"):
        Inspector().inspect(tmp_path / "into" / "model", ("onnx",))
