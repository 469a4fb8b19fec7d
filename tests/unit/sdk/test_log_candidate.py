"""One call makes a script's model a candidate; a wrong call names the fix and logs nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.types import Schema
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import (
    AdaBoostClassifier,
    BaggingClassifier,
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    VotingClassifier,
)
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import ElasticNet, LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier

import mlplatform
from mlplatform.data.tables import ParquetTables
from mlplatform.domain.bundle import Column, Manifest, Parameter
from mlplatform.errors import UsageError
from mlplatform.plugins.runtimes.pyfunc import PyfuncRuntime
from mlplatform.ports.tracking import Candidate
from mlplatform.stats.batch import Batch
from mlplatform.tracking.client import Mlflow, quiet
from mlplatform.tracking.runs import MlflowRuns
from mlplatform.trust.manifest import Inspector
from tests.mlflow_stores import fresh_store, make_template
from tests.served_models import save_code_model

ROWS, CUT = 120, 90


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("mlflow-template"))


@pytest.fixture
def store(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mlflow:
    """The store of the project around the working folder."""
    fresh = fresh_store(template, tmp_path / ".mlplatform")
    (tmp_path / "mlplatform.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    return fresh


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.integers(18, 80, ROWS),
            "income": rng.normal(50, 9, ROWS),
            "city": rng.choice(["Wien", "Graz"], ROWS),
        }
    )


@pytest.fixture
def numbers(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[["age", "income"]].astype("float64")


@pytest.fixture
def churn(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["income"] > 50, "yes", "no")


def halves(X: Any, y: Any) -> dict[str, Any]:
    return {"holdout": (X[CUT:], y[CUT:]), "reference": (X[:CUT], y[:CUT])}


def logged(store: Mlflow, run_id: str, into: Path) -> Candidate:
    return MlflowRuns(store).candidate(run_id, into)


def test_a_pipeline_over_text_and_numbers_becomes_a_candidate(
    store: Mlflow, frame: pd.DataFrame, churn: np.ndarray, tmp_path: Path
) -> None:
    encode = ColumnTransformer(
        [("city", OneHotEncoder(), ["city"]), ("n", SimpleImputer(), ["age", "income"])]
    )
    model = make_pipeline(encode, RandomForestClassifier(5, random_state=0)).fit(frame[:CUT], churn[:CUT])
    run_id = mlplatform.log_candidate(model, **halves(frame, churn), target="churned")
    candidate = logged(store, run_id, tmp_path / "c")
    assert candidate.runtime == "sklearn"
    assert [(c.name, c.dtype) for c in candidate.inputs] == [
        ("age", "long"),
        ("income", "double"),
        ("city", "string"),
    ]
    assert candidate.task.kind == "classification" and candidate.task.classes == ("no", "yes")
    assert candidate.task.output == "label" and candidate.task.target == "churned"
    assert set(candidate.requirements) == {"scikit-learn", "numpy", "scipy", "skops", "pandas"}
    assert candidate.author.startswith("os:") and candidate.metrics["holdout_accuracy"] > 0.8
    Inspector().inspect(candidate.model_folder, ("sklearn",))


def test_what_is_logged_can_be_read_back(
    store: Mlflow, frame: pd.DataFrame, churn: np.ndarray, tmp_path: Path
) -> None:
    numbers = frame[["age", "income"]]
    model = DecisionTreeClassifier(max_depth=3).fit(numbers[:CUT], churn[:CUT])
    candidate = logged(store, mlplatform.log_candidate(model, **halves(numbers, churn)), tmp_path / "c")
    tables = ParquetTables()
    holdout = tables.read(candidate.holdout)
    assert holdout["target"].tolist() == churn[CUT:].tolist()
    assert holdout["age"].tolist() == frame["age"][CUT:].tolist()
    assert len(tables.read(candidate.sample)["age"]) == ROWS - CUT
    digests = np.load(candidate.trained_on, allow_pickle=False)
    seen = tables.row_digests({n: numbers[n][:CUT].to_numpy() for n in numbers}, candidate.inputs)
    assert digests.dtype == np.uint64 and (np.diff(digests.astype(object)) > 0).all()
    assert set(seen.tolist()) == set(digests.tolist())


def test_columns_that_the_model_does_not_see_stay_with_the_holdout(
    store: Mlflow, frame: pd.DataFrame, churn: np.ndarray, tmp_path: Path
) -> None:
    features, beside = frame[["age", "income"]], frame[["city"]]
    beside = beside.assign(seen_at=pd.date_range("2026-01-01", periods=ROWS, tz="Europe/Vienna"))
    model = DecisionTreeClassifier(max_depth=3).fit(features[:CUT], churn[:CUT])
    run_id = mlplatform.log_candidate(model, **halves(features, churn), context=beside[CUT:])
    candidate = logged(store, run_id, tmp_path / "c")
    assert [c.name for c in candidate.inputs] == ["age", "income"]
    holdout = ParquetTables().read(candidate.holdout)
    assert list(holdout) == ["age", "income", "city", "seen_at", "target"]
    assert holdout["city"].tolist() == frame["city"][CUT:].tolist()
    assert holdout["seen_at"][0] == np.datetime64("2026-03-31T22:00")
    assert list(ParquetTables().read(candidate.sample)) == ["age", "income"]


def test_context_that_does_not_fit_the_holdout_is_refused(frame: pd.DataFrame, churn: np.ndarray) -> None:
    features = frame[["age", "income"]]
    model = DecisionTreeClassifier(max_depth=3).fit(features[:CUT], churn[:CUT])
    wrong: dict[str, Any] = {
        "context has 120 rows, the holdout 30": frame[["city"]],
        "context holds age, which the holdout has already": frame[["age"]][CUT:],
        "context holds target": frame[["city"]][CUT:].rename(columns={"city": "target"}),
        "context is an array": features[CUT:].to_numpy(),
    }
    for what, context in wrong.items():
        with pytest.raises(UsageError, match=what):
            mlplatform.log_candidate(model, **halves(features, churn), context=context)


def test_requirements_and_example_stand_in_the_model_folder(
    store: Mlflow, numbers: pd.DataFrame, churn: np.ndarray, tmp_path: Path
) -> None:
    model = LogisticRegression().fit(numbers[:CUT], churn[:CUT])
    candidate = logged(store, mlplatform.log_candidate(model, **halves(numbers, churn)), tmp_path / "c")
    assert "scikit-learn==" in (candidate.model_folder / "requirements.txt").read_text()
    assert json.loads((candidate.model_folder / "input_example.json").read_text())["columns"] == [
        "age",
        "income",
    ]
    assert not [p for p in candidate.model_folder.rglob("*") if p.suffix in (".pkl", ".pickle")]


def test_an_array_gets_columns_by_position(store: Mlflow, numbers: pd.DataFrame, tmp_path: Path) -> None:
    X, y = numbers.to_numpy(), numbers["income"].to_numpy() * 2
    run_id = mlplatform.log_candidate(LinearRegression().fit(X[:CUT], y[:CUT]), **halves(X, y))
    candidate = logged(store, run_id, tmp_path / "c")
    assert [c.name for c in candidate.inputs] == ["c0", "c1"]
    assert (candidate.task.kind, candidate.task.output) == ("regression", "value")
    assert candidate.options == {"layout": "matrix"}
    assert candidate.metrics["holdout_mae"] < 1e-6


CLASSIFIERS: list[Callable[[], Any]] = [
    lambda: LogisticRegression(),
    lambda: SGDClassifier(),
    lambda: DecisionTreeClassifier(),
    lambda: RandomForestClassifier(3),
    lambda: ExtraTreesClassifier(3),
    lambda: BaggingClassifier(n_estimators=3),
    lambda: AdaBoostClassifier(n_estimators=3),
    lambda: GradientBoostingClassifier(n_estimators=3),
    lambda: HistGradientBoostingClassifier(max_iter=3),
    lambda: KNeighborsClassifier(),
    lambda: MLPClassifier((4,), max_iter=200, tol=1.0),
    lambda: SVC(),
    lambda: LinearSVC(),
    lambda: GaussianNB(),
    lambda: make_pipeline(StandardScaler(), LogisticRegression()),
    lambda: VotingClassifier([("a", GaussianNB()), ("b", DecisionTreeClassifier())]),
    lambda: StackingClassifier([("a", GaussianNB())], LogisticRegression(), cv=2),
    lambda: CalibratedClassifierCV(LinearSVC(), cv=2),
]
REGRESSORS: list[Callable[[], Any]] = [
    lambda: LinearRegression(),
    lambda: Ridge(),
    lambda: ElasticNet(),
    lambda: RandomForestRegressor(3),
    lambda: HistGradientBoostingRegressor(max_iter=3),
    lambda: GaussianProcessRegressor(alpha=1.0, optimizer=None),
]


def _name(make: Callable[[], Any]) -> str:
    return type(make()).__name__


@pytest.mark.parametrize("make", CLASSIFIERS + REGRESSORS, ids=_name)
def test_every_common_estimator_is_saved_safely(
    make: Callable[[], Any], numbers: pd.DataFrame, churn: np.ndarray, tmp_path: Path
) -> None:
    """Saved, inspected, and loaded again with our list of types only."""
    import skops.io

    from mlplatform.domain.trusted import SKLEARN_TYPES
    from mlplatform.sdk import _read, _save_model
    from mlplatform.tracking.describe import describe

    y = churn if make in CLASSIFIERS else numbers["income"].to_numpy()
    model = make().fit(numbers[:CUT], y[:CUT])
    data = _read(*halves(numbers, y).values(), None, None, "target")
    _save_model(tmp_path / "model", model, data, describe(model, data))
    Inspector().inspect(tmp_path / "model", ("sklearn",))
    loaded = skops.io.load(tmp_path / "model" / "model.skops", trusted=list(SKLEARN_TYPES))
    given, answered = np.asarray(model.predict(numbers)), np.asarray(loaded.predict(numbers))
    assert np.allclose(given, answered) if given.dtype.kind == "f" else (given == answered).all()


def test_a_torch_network_answers_tables_of_any_length(
    store: Mlflow, numbers: pd.DataFrame, tmp_path: Path
) -> None:
    y = (numbers["income"] > 50).astype(int).to_numpy()
    net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 2))
    run_id = mlplatform.log_candidate(net, **halves(numbers, y))
    assert net.training
    candidate = logged(store, run_id, tmp_path / "c")
    assert (candidate.runtime, candidate.task.output, candidate.task.classes) == ("torch", "logits", (0, 1))
    assert candidate.options == {"layout": "matrix", "dtype": "float32"}
    Inspector().inspect(candidate.model_folder, ("torch",))
    program = torch.export.load(str(candidate.model_folder / "data" / "model.pt2")).module()
    net.eval()
    for rows in (1, 2, 77):
        given = torch.from_numpy(numbers[:rows].to_numpy(dtype="float32", copy=True))
        assert torch.allclose(program(given), net(given))
    with quiet():
        served = mlflow.pyfunc.load_model(str(candidate.model_folder)).predict(numbers[:3])
    assert np.asarray(served).shape == (3, 2)


def test_one_output_and_float_truth_is_torch_regression(store: Mlflow, numbers: pd.DataFrame) -> None:
    from mlplatform.sdk import _read
    from mlplatform.tracking.describe import describe

    net, y = torch.nn.Linear(2, 1), numbers["income"].to_numpy()
    data = _read(*halves(numbers, y).values(), None, None, "target")
    assert describe(net, data).task.output == "value"


def test_an_active_run_is_added_to(store: Mlflow, numbers: pd.DataFrame, churn: np.ndarray) -> None:
    model = GaussianNB().fit(numbers[:CUT], churn[:CUT])
    try:
        mlflow.set_tracking_uri(store.uri)
        with mlflow.start_run(experiment_id=store.experiment("mine")) as run:
            mlflow.log_param("depth", 3)
            assert mlplatform.log_candidate(model, **halves(numbers, churn)) == run.info.run_id
            assert mlflow.active_run() is not None
        made = store.call(
            "get_logged_model", store.call("get_run", run.info.run_id).data.tags["mlplatform.model_id"]
        )
        assert made.params == {"depth": "3"}
        assert {m.key for m in made.metrics} == {"holdout_accuracy"}
    finally:
        mlflow.set_tracking_uri(None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def test_without_a_run_one_is_made_and_finished_in_the_projects_store(
    store: Mlflow, numbers: pd.DataFrame, churn: np.ndarray, tmp_path: Path
) -> None:
    model = GaussianNB().fit(numbers[:CUT], churn[:CUT])
    run = store.call("get_run", mlplatform.log_candidate(model, **halves(numbers, churn)))
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith(str(tmp_path / ".mlplatform" / "mlartifacts"))
    assert mlflow.active_run() is None
    assert not (tmp_path / "mlruns").exists() and not (tmp_path / "mlflow.db").exists()


class Lambdas(LogisticRegression):
    """An estimator of somebody's own: its code is not in the file."""


def wrong_calls() -> dict[str, tuple[Callable[[pd.DataFrame, np.ndarray], Any], str, str]]:
    def fitted(X: pd.DataFrame, y: np.ndarray) -> Any:
        return GaussianNB().fit(X[:CUT], y[:CUT])

    log = mlplatform.log_candidate
    net = torch.nn.Linear(2, 3)
    return {
        "unfitted": (lambda X, y: log(GaussianNB(), **halves(X, y)), "not fitted", "Call fit"),
        "not a model": (lambda X, y: log(7, **halves(X, y)), "not a model", "scikit-learn"),
        "no folder": (lambda X, y: log("model", **halves(X, y)), "has no MLmodel", "save_model"),
        "no y": (
            lambda X, y: log(fitted(X, y), **{**halves(X, y), "holdout": X}),
            "not a pair",
            r"holdout=\(X, y\)",
        ),
        "y is None": (
            lambda X, y: log(fitted(X, y), holdout=(X, None), reference=(X, y)),
            "has no y",
            r"holdout=\(X, y\)",
        ),
        "short y": (
            lambda X, y: log(fitted(X, y), holdout=(X, y[:3]), reference=(X, y)),
            "shape",
            "one truth per row",
        ),
        "missing y": (
            lambda X, y: log(fitted(X, y), holdout=(X, [None] * len(X)), reference=(X, y)),
            "missing values",
            "Leave out",
        ),
        "other columns": (
            lambda X, y: log(fitted(X, y), holdout=(X.assign(z=1), y), reference=(X, y)),
            "has also z",
            "same feature columns",
        ),
        "lacking column": (
            lambda X, y: log(fitted(X, y), holdout=(X[["age"]], y), reference=(X, y)),
            "lacks income",
            "same feature columns",
        ),
        "target is a feature": (
            lambda X, y: log(fitted(X, y), **halves(X, y), target="age"),
            "also a feature",
            "Drop it",
        ),
        "fails on sample": (
            lambda X, y: log(fitted(X, y), **halves(X.assign(z=1), y)),
            "fails on its own sample",
            "fitted on",
        ),
        "text for a regressor": (
            lambda X, y: log(LinearRegression().fit(X, X["age"]), **halves(X, y)),
            "predicts numbers",
            "classifier",
        ),
        "numbers for a classifier": (
            lambda X, y: log(fitted(X, y), **halves(X, X["income"].to_numpy())),
            "is a class of the model",
            "Encode y",
        ),
        "own class": (
            lambda X, y: log(Lambdas().fit(X, y), **halves(X, y)),
            "cannot be saved safely",
            "own estimators",
        ),
        "torch floats": (
            lambda X, y: log(net, **halves(X, X["age"].to_numpy(dtype=float))),
            "3 outputs",
            "integers",
        ),
        "torch classes": (lambda X, y: log(net, **halves(X, y)), "3 classes apart", "classes="),
        "torch text": (
            lambda X, y: log(net, **halves(X.assign(city="Wien"), y)),
            "torch models take numbers",
            "Encode",
        ),
        "one dimension": (
            lambda X, y: log(fitted(X, y), holdout=(X["age"].to_numpy(), y), reference=(X, y)),
            "shape",
            "DataFrame",
        ),
        "empty": (
            lambda X, y: log(fitted(X, y), holdout=(X[:0], y[:0]), reference=(X, y)),
            "empty",
            "at least one",
        ),
    }


@pytest.mark.parametrize("call", wrong_calls().values(), ids=wrong_calls())
def test_a_wrong_call_names_the_fix_and_logs_nothing(
    call: tuple[Callable[[pd.DataFrame, np.ndarray], Any], str, str],
    store: Mlflow,
    numbers: pd.DataFrame,
    churn: np.ndarray,
) -> None:
    act, what, fix = call
    with pytest.raises(UsageError, match=what) as caught:
        act(numbers, churn)
    assert re.search(fix, caught.value.next_step)
    assert store.call("get_experiment_by_name", "mlplatform") is None


def doubled(rows: Any) -> Any:
    return rows * 2


def test_a_notebook_sees_our_own_advice_and_no_other(
    store: Mlflow, numbers: pd.DataFrame, churn: np.ndarray
) -> None:
    model = make_pipeline(FunctionTransformer(doubled), LogisticRegression()).fit(numbers, churn)
    with pytest.raises(UsageError) as caught:
        mlplatform.log_candidate(model, **halves(numbers, churn))
    seen = "".join(traceback.format_exception(caught.value))
    assert seen.count("Traceback") == 1
    assert seen.rstrip().endswith(caught.value.next_step)
    assert "Use scikit-learn's own estimators" in caught.value.next_step


class LooksAtTypes(GaussianNB):
    """Answers by the types of the columns, as estimators with native categories may."""

    def predict(self, X: pd.DataFrame) -> np.ndarray:
        return np.full(len(X), self.classes_[int("category" in map(str, X.dtypes))])


def test_column_types_that_get_lost_on_the_way_are_noticed(
    store: Mlflow, numbers: pd.DataFrame, churn: np.ndarray
) -> None:
    model = LooksAtTypes().fit(numbers, churn)
    X = numbers.assign(age=numbers["age"].astype("category"))
    with pytest.raises(UsageError, match="answers differently"):
        mlplatform.log_candidate(model, **halves(X, churn))


@pytest.mark.filterwarnings("ignore")
def test_any_flavor_of_mlflow_is_logged_by_its_folder_as_a_model_that_runs_code(
    store: Mlflow, frame: pd.DataFrame, churn: np.ndarray, tmp_path: Path
) -> None:
    rows = pd.DataFrame(
        {"a": np.arange(len(churn)) / 7.0, "raw": [b"\xff" * (i % 5) for i in range(len(churn))]}
    )
    code = "class M(mlflow.pyfunc.PythonModel):\n    def predict(self, context, model_input, params=None):\n"
    code += "        return (model_input['raw'].map(len) > 2).astype(int).to_numpy()\n"
    columns = (Column("a", "float"), Column("raw", "binary"))
    save_code_model(tmp_path / "made" / "model", code, columns)
    with quiet():
        run_id = mlplatform.log_candidate(tmp_path / "made" / "model", **halves(rows, churn))
    candidate = logged(store, run_id, tmp_path / "candidate")
    assert (candidate.runtime, candidate.inputs, candidate.task.output) == ("pyfunc", columns, "label")
    assert ParquetTables().read(candidate.sample)["raw"].tolist()[:3] == rows["raw"].tolist()[CUT : CUT + 3]
    Inspector().inspect(candidate.model_folder, ("pyfunc",))
    with pytest.raises(UsageError, match="the model's signature has raw, which the rows lack"):
        mlplatform.log_candidate(tmp_path / "made" / "model", **halves(rows[["a"]], churn))
    with pytest.raises(UsageError, match="the rows have more, which the model's signature lacks"):
        mlplatform.log_candidate(tmp_path / "made" / "model", **halves(rows.assign(more=1), churn))


FOREIGN: dict[str, tuple[dict[str, Any], str, str]] = {
    "an array": ({"type": "array", "items": {"type": "long"}}, "Array(long)", "TensorSpec"),
    "arrays in arrays": (
        {"type": "array", "items": {"type": "array", "items": {"type": "string"}}},
        "Array(Array(string))",
        "TensorSpec",
    ),
    "an object": ({"type": "object", "properties": {"a": {"type": "string"}}}, "Object", "JSON in a string"),
    "a map": ({"type": "map", "values": {"type": "double"}}, "Map(string -> double)", "JSON in a string"),
    "any type": ({"type": "any"}, "AnyType", "Give it a type"),
    "a vector of Spark's": ({"type": "sparkml_vector"}, "SparkMLVector", "TensorSpec"),
}
LENGTHS = "class M(mlflow.pyfunc.PythonModel):\n    def predict(self, context, model_input, params=None):\n"
LENGTHS += "        return model_input['tags'].map(len).to_numpy()\n"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("spec", "kind", "fix"), FOREIGN.values(), ids=FOREIGN)
def test_a_saved_model_with_columns_of_other_types_is_refused_by_column_and_type(
    store: Mlflow, tmp_path: Path, spec: dict[str, Any], kind: str, fix: str
) -> None:
    inputs = Schema.from_json(json.dumps([{"type": "double", "name": "a"}, {**spec, "name": "tags"}]))
    save_code_model(tmp_path / "made" / "model", LENGTHS, (), inputs=inputs)
    rows = pd.DataFrame({"a": np.arange(ROWS) / 7.0, "tags": [[1, 2]] * ROWS})
    with pytest.raises(UsageError, match=r"^column tags of the model's signature is of") as caught, quiet():
        mlplatform.log_candidate(tmp_path / "made" / "model", **halves(rows, np.arange(ROWS) % 2))
    assert f"MLflow's type {kind}, which is not served" in str(caught.value)
    assert fix in caught.value.next_step
    assert store.call("search_runs", ["0"]) == []


@pytest.mark.filterwarnings("ignore")
def test_a_saved_models_parameters_are_logged_and_evaluated_with_their_defaults(
    store: Mlflow, numbers: pd.DataFrame, churn: np.ndarray, tmp_path: Path
) -> None:
    code = "class M(mlflow.pyfunc.PythonModel):\n    def predict(self, context, model_input, params=None):\n"
    code += "        return [params['words'][params['k']]] * len(model_input)\n"
    params = {"k": 1, "words": ["yes", "no"], "at": np.datetime64("2026-01-31T12:00:00")}
    schema = mlflow.models.infer_signature(params=params).params
    columns = (Column("age", "double"), Column("income", "double"))
    save_code_model(tmp_path / "made" / "model", code, columns, params=schema)
    with quiet():
        run_id = mlplatform.log_candidate(tmp_path / "made" / "model", **halves(numbers, churn))
    candidate = logged(store, run_id, tmp_path / "candidate")
    assert candidate.params == (
        Parameter("k", "long", 1),
        Parameter("words", "string", ("yes", "no"), (-1,)),
        Parameter("at", "datetime", "2026-01-31T12:00:00"),
    )
    manifest = Manifest("pyfunc", "model", candidate.inputs, candidate.task, {}, params=candidate.params)
    served = PyfuncRuntime().load_here(candidate.model_folder.parent, manifest)
    batch = Batch(("age", "income"), np.zeros((2, 2)))
    assert served.predict(batch).predictions.tolist() == ["no", "no"]
    set_ = replace(batch, params=(("k", 0), ("words", ("a", "b")), ("at", "2026-02-01")))
    assert served.predict(set_).predictions.tolist() == ["a", "a"]


@pytest.mark.filterwarnings("ignore")
def test_a_parameter_that_is_an_object_is_refused(
    store: Mlflow, tmp_path: Path, numbers: Any, churn: Any
) -> None:
    schema = mlflow.models.infer_signature(params={"o": {"a": 1}}).params
    save_code_model(tmp_path / "made" / "model", LENGTHS, (Column("age", "double"),), params=schema)
    with pytest.raises(
        UsageError, match="parameter o of the model's signature is of MLflow's type Object"
    ) as caught:
        mlplatform.log_candidate(tmp_path / "made" / "model", **halves(numbers[["age"]], churn))
    assert "text that holds JSON" in caught.value.next_step


@pytest.mark.filterwarnings("ignore")
def test_types_that_mlflow_finds_in_nested_cells_are_refused(store: Mlflow, tmp_path: Path) -> None:
    """As a person gets such a signature: without asking for it."""
    rows = pd.DataFrame({"a": np.arange(ROWS) / 7.0, "tags": [{"b": 1}] * ROWS})
    inputs = mlflow.models.infer_signature(rows).inputs
    save_code_model(tmp_path / "made" / "model", LENGTHS, (), inputs=inputs)
    with pytest.raises(UsageError, match=r"column tags .* type Object"), quiet():
        mlplatform.log_candidate(tmp_path / "made" / "model", **halves(rows, np.arange(ROWS) % 2))


@pytest.mark.parametrize(
    "cell", [[1, 2], (1, 2), {"b": 1}, {1}, np.ones(2)], ids=lambda cell: type(cell).__name__
)
def test_cells_that_hold_several_values_are_refused_by_column_and_type(
    store: Mlflow, numbers: pd.DataFrame, churn: np.ndarray, cell: Any
) -> None:
    rows = numbers.assign(tags=[cell for _ in range(len(numbers))])
    what = f"column tags of holdout is not one value per row: it holds a {type(cell).__name__}"
    with pytest.raises(UsageError, match=what) as caught:
        mlplatform.log_candidate(LogisticRegression().fit(numbers, churn), **halves(rows, churn))
    assert "Flatten it into columns" in caught.value.next_step


# --- tensors ---


class Pictures(torch.nn.Module):
    """A small convolution over (rows, 1, 8, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 2)
        )

    def forward(self, picture: Any) -> Any:
        return self.layers(picture)


class Both(torch.nn.Module):
    """A picture of bytes, and a number beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.last = torch.nn.Linear(2, 2)

    def forward(self, picture: Any, age: Any) -> Any:
        light = picture.to(torch.float32).mean(dim=(1, 2))
        return self.last(torch.stack([light, age], dim=1))


@pytest.fixture
def pictures() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(ROWS, 1, 8, 8))
    return X, (X.mean(axis=(1, 2, 3)) > 0).astype(int)


def test_a_torch_network_over_pictures_becomes_a_candidate_with_a_tensor_signature(
    store: Mlflow, pictures: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    X, y = pictures
    run_id = mlplatform.log_candidate(net := Pictures(), **halves(X, y))
    candidate = logged(store, run_id, tmp_path / "c")
    assert candidate.runtime == "torch"
    assert candidate.inputs == (Column("picture", "float", shape=(1, 8, 8)),), (
        "doubles are what nobody took care of"
    )
    assert (candidate.task.output, candidate.task.classes) == ("logits", (0, 1))
    Inspector().inspect(candidate.model_folder, ("torch",))
    holdout = ParquetTables().read(candidate.holdout)
    np.testing.assert_array_equal(holdout["picture"], X[CUT:].astype("float32"))
    assert len(np.load(candidate.trained_on)) == CUT
    signature = mlflow.models.Model.load(str(candidate.model_folder / "MLmodel")).signature
    assert signature.inputs.is_tensor_spec()
    assert signature.inputs.inputs[0].shape == (-1, 1, 8, 8)
    with quiet():
        served = mlflow.pyfunc.load_model(str(candidate.model_folder)).predict(X[:3].astype("float32"))
    with torch.no_grad():
        given = net.eval()(torch.from_numpy(X[:3].astype("float32")))
    np.testing.assert_allclose(np.asarray(served), given.numpy(), rtol=1e-5)


def test_several_named_arrays_go_into_the_arguments_of_their_names(
    store: Mlflow, pictures: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    X, y = pictures
    light = (np.abs(X[:, 0]) * 60).astype(np.uint8)
    rows = {"age": np.linspace(0, 1, ROWS), "picture": light}
    parts = {
        name: ({key: values[part] for key, values in rows.items()}, y[part])
        for name, part in (("holdout", slice(CUT, None)), ("reference", slice(CUT)))
    }
    candidate = logged(store, mlplatform.log_candidate(Both(), **parts), tmp_path / "c")
    assert candidate.inputs == (Column("picture", "uint8", shape=(8, 8)), Column("age", "float"))
    Inspector().inspect(candidate.model_folder, ("torch",))
    sample = ParquetTables().read(candidate.sample)
    assert (sample["picture"].dtype, sample["picture"].shape[1:]) == (np.uint8, (8, 8))
    wrong = {name: ({"age": X["age"], "image": X["picture"]}, y) for name, (X, y) in parts.items()}
    with pytest.raises(UsageError, match="takes picture, age; X has age, image"):
        mlplatform.log_candidate(Both(), **wrong)


def a_graph(width: int) -> Any:
    """ONNX: pictures (rows, 1, 8, 8) to so many numbers."""
    from onnx import TensorProto, helper, numpy_helper

    weights = np.random.default_rng(0).normal(size=(64, width)).astype("float32")
    nodes = [
        helper.make_node("Flatten", ["picture"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["sums"]),
    ]
    given = helper.make_tensor_value_info("picture", TensorProto.FLOAT, [None, 1, 8, 8])
    sums = helper.make_tensor_value_info("sums", TensorProto.FLOAT, [None, width])
    made = helper.make_graph(nodes, "g", [given], [sums], [numpy_helper.from_array(weights, "weights")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def test_an_onnx_graph_over_pictures_becomes_a_candidate_that_runs_no_code(
    store: Mlflow, pictures: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    from mlplatform.domain.bundle import Manifest
    from mlplatform.plugins.runtimes.onnx import OnnxRuntime
    from mlplatform.stats.batch import Batch

    X, y = pictures
    candidate = logged(store, mlplatform.log_candidate(graph := a_graph(2), **halves(X, y)), tmp_path / "c")
    assert (candidate.runtime, candidate.inputs) == ("onnx", (Column("picture", "float", shape=(1, 8, 8)),))
    assert (candidate.task.output, candidate.task.classes) == ("logits", (0, 1))
    Inspector().inspect(candidate.model_folder, ("onnx",))
    manifest = Manifest("onnx", "model", candidate.inputs, candidate.task, {}, options=candidate.options)
    served = OnnxRuntime().load(candidate.model_folder.parent, manifest)
    given = X[:5].astype("float32")
    answers = served.predict(Batch(("picture",), arrays={"picture": given})).predictions
    weights = np.frombuffer(graph.graph.initializer[0].raw_data, "float32").reshape(64, 2)
    np.testing.assert_allclose(answers, given.reshape(5, -1) @ weights, rtol=1e-4)
    with pytest.raises(UsageError, match="the graph takes picture; X has image"):
        mlplatform.log_candidate(a_graph(2), holdout=({"image": X}, y), reference=({"image": X}, y))
    with pytest.raises(UsageError, match="fails on its own sample"):
        mlplatform.log_candidate(a_graph(2), holdout=(X[:, :, :7], y), reference=(X[:, :, :7], y))


def test_an_onnx_graph_over_a_matrix_of_numbers_is_regression_where_the_truth_is_numbers(
    store: Mlflow, tmp_path: Path
) -> None:
    from skl2onnx import to_onnx

    X = np.random.default_rng(1).normal(size=(ROWS, 3)).astype("float32")
    model = LinearRegression().fit(X, X @ [1.0, 2.0, 3.0])
    y = X @ [1.0, 2.0, 3.0]
    run_id = mlplatform.log_candidate(to_onnx(model, X[:1], target_opset=15), **halves(X, y))
    candidate = logged(store, run_id, tmp_path / "c")
    assert (candidate.options["layout"], candidate.task.output) == ("matrix", "value")
    assert candidate.metrics["holdout_mae"] < 1e-3


def wrong_tensors() -> dict[str, tuple[Any, str, str]]:
    ragged = [np.zeros((1, 8, n % 2 + 7)) for n in range(ROWS)]
    objects = np.empty(ROWS, object)
    objects[:] = [np.zeros((1, 8, 8))] * ROWS
    frame = pd.DataFrame({"picture": list(objects)})
    return {
        "ragged": (ragged, "differ in shape", "pad them"),
        "objects": (objects, "are objects", "np.stack"),
        "text": (np.full((ROWS, 2, 2), "a"), "<U1 array", "encode text"),
        "a frame of arrays": (frame, "not one value per row", "pass tensors as an array"),
        "nothing in a row": (np.zeros((ROWS, 0, 8, 8)), "holds no values", "Pass values"),
        "complex": (np.zeros((ROWS, 2, 2), complex), "complex128 array", "Pass numbers"),
        "long double": (np.zeros((ROWS, 2, 2), np.longdouble), "not known", "Convert"),
        "unequal arrays": (
            {"a": np.zeros((ROWS, 2, 2)), "b": np.zeros(3)},
            "different numbers of rows",
            "the rows",
        ),
    }


@pytest.mark.parametrize(("X", "what", "fix"), wrong_tensors().values(), ids=wrong_tensors())
def test_what_is_no_tensor_is_refused_with_what_to_do(store: Mlflow, X: Any, what: str, fix: str) -> None:
    y = np.arange(ROWS) % 2
    with pytest.raises(UsageError, match=what) as caught:
        mlplatform.log_candidate(Pictures(), holdout=(X, y), reference=(X, y))
    assert re.search(fix, caught.value.next_step)


def test_tensors_that_differ_from_table_to_table_are_refused(
    store: Mlflow, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = pictures
    for other in (X.astype(np.uint8), np.zeros((ROWS, 1, 9, 9))):
        with pytest.raises(UsageError, match="not alike in holdout, reference and sample"):
            mlplatform.log_candidate(Pictures(), holdout=(other, y), reference=(X, y))


def test_an_estimator_for_tables_is_not_given_tensors(
    store: Mlflow, pictures: tuple[np.ndarray, np.ndarray]
) -> None:
    X, y = pictures
    model = LogisticRegression().fit(X.reshape(ROWS, -1), y)
    with pytest.raises(UsageError, match=r"takes tables, and X holds tensors: input \[1, 8, 8\]") as caught:
        mlplatform.log_candidate(model, **halves(X, y))
    assert "reshape" in caught.value.next_step


@pytest.mark.filterwarnings("ignore")
def test_a_saved_model_of_one_tensor_needs_no_name_in_the_rows(
    store: Mlflow, pictures: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    X, y = pictures
    code = "import numpy as np\nclass M(mlflow.pyfunc.PythonModel):\n"
    code += "    def predict(self, context, model_input, params=None):\n"
    code += "        return (model_input['image'].mean(axis=(1, 2, 3)) > 0).astype(int)\n"
    save_code_model(tmp_path / "model", code, (Column("image", "double", shape=(1, 8, 8)),))
    with quiet():
        run_id = mlplatform.log_candidate(tmp_path / "model", **halves(X, y))
    candidate = logged(store, run_id, tmp_path / "c")
    assert candidate.inputs == (Column("image", "double", shape=(1, 8, 8)),)


def test_importing_the_package_is_cheap() -> None:
    code = (
        "import sys, mlplatform; assert mlplatform.__version__ == '0.1.0';"
        "print([m for m in ('numpy', 'mlflow', 'torch', 'sklearn', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
