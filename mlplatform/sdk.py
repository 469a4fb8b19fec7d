"""The training SDK: one call makes what a script trained into a candidate that can be gated, served and monitored.

    import mlplatform
    from sklearn.datasets import load_breast_cancer
    from sklearn.ensemble import RandomForestClassifier

    X, y = load_breast_cancer(return_X_y=True, as_frame=True)
    model = RandomForestClassifier(50).fit(X[:400], y[:400])
    run_id = mlplatform.log_candidate(model, holdout=(X[400:], y[400:]), reference=(X[:400], y[:400]), target="benign")

Then `mlplatform register MODEL --run RUN_ID`. Takes fitted scikit-learn estimators, `torch.nn.Module`, ONNX graphs, and
the path of any other model that MLflow saved: such a one runs code of its own, and is registered only where the policy
says `[trust] code_models = true`. Rows are a DataFrame; a two-dimensional array (whose columns become c0, c1, ...); an
array of more dimensions, such as pictures (rows, 1, 28, 28); or a dict of arrays, one for each input of the model.
Tensors are numbers of one shape: pad what differs in length, and stack what is a list of arrays.
Inside an MLflow run it adds to that run; without one it makes a run, in the project's own store when the script lies
in a project.
"""

from __future__ import annotations

import getpass
import shutil
import sys
import tempfile
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.config.settings import Settings, load_settings
from mlplatform.domain.bundle import Task, sample_rows
from mlplatform.errors import NoProject, UsageError
from mlplatform.stats.batch import Array, take
from mlplatform.stats.labels import to_codes, to_labels
from mlplatform.tracking import flavors, graphs, parts
from mlplatform.tracking.client import Mlflow, prepare, quiet
from mlplatform.tracking.describe import Kind, TrainingData, answer, describe, evaluating, tensor_name
from mlplatform.tracking.runs import log_model
from mlplatform.tracking.saved import SavedModel
from mlplatform.tracking.saved import load as load_saved
from mlplatform.tracking.user_rows import TENSOR, UserRows, infer_inputs, read_rows, read_truth

EXPERIMENT = "mlplatform"
"""Of runs that the SDK starts itself."""
MAX_REFERENCE_ROWS, MAX_REFERENCE_BYTES = 50_000, 500_000_000
_EXAMPLE_ROWS = 5


def log_candidate(
    model: Any,
    *,
    holdout: tuple[Any, Any],
    reference: tuple[Any, Any],
    target: str = "target",
    sample: Any = None,
    trained_on: Any = None,
    kind: Kind | None = None,
    classes: Sequence[Any] | None = None,
    context: Any = None,
) -> str:
    """Log a fitted model with everything that `mlplatform register` needs; the id of the run.

    model: a fitted estimator, a `torch.nn.Module`, an `onnx.ModelProto`, or the path of a model that MLflow saved.
    holdout: (X, y) the model has not seen. reference: (X, y) it was trained on; what live data are compared with.
    sample: a few rows to warm servers up with; the holdout's first ones if left out.
    trained_on: X of all training rows, where `reference` is only a sample of them.
    kind, classes: for torch models whose y does not tell; `classes` in the order of the model's outputs.
    context: columns of the holdout's rows that the model does not see, as a DataFrame: groups that gates compare,
    the time of each row. Live they come as `[data] context` and `time` of the policy.

    Raises UsageError, which names the fix, before anything is logged; MlflowUnreachable.
    """
    prepare()
    if isinstance(model, str | PathLike):
        model = load_saved(Path(model))
    elif graphs.is_graph(model):
        model = graphs.load(model)
    data = _read(holdout, reference, sample, trained_on, target, tensor_name(model)).taken_by(model)
    beside = _beside(context, data)
    with evaluating(model), tempfile.TemporaryDirectory(prefix="mlplatform-candidate-") as folder:
        description = describe(model, data, kind, classes)
        metric = _holdout_metric(model, data, description.task)
        files, saved = Path(folder) / parts.FOLDER, Path(folder) / "model"
        _save_model(saved, model, data, description)
        _write_parts(files, data, beside, description)
        return _log(files, saved, metric)


# --- what was passed ---


def _read(
    holdout: Any, reference: Any, sample: Any, trained_on: Any, target: str, name: str = TENSOR
) -> TrainingData:
    held, held_truth = _pair("holdout", holdout, name)
    known, known_truth = _pair("reference", reference, name)
    few = read_rows("sample", held.head(sample_rows(held.row_bytes)) if sample is None else sample, name)
    every = known if trained_on is None else read_rows("trained_on", trained_on, name)
    inputs = infer_inputs([known, held, few, every])
    if target in {c.name for c in inputs}:
        raise UsageError(
            what=f"the target {target} is also a feature column",
            hint=f"Drop it from X, or give the truth another name with target=: X.drop(columns=[{target!r}]).",
        )
    return TrainingData(inputs, target, few, held, held_truth, known, known_truth, every)


def _beside(context: Any, data: TrainingData) -> dict[str, Array]:
    """Columns of the holdout that are no features, row by row."""
    if context is None:
        return {}
    table = read_rows("context", context)
    if table.layout != "frame" or table.rows != data.holdout.rows:
        raise UsageError(
            what=f"context has {table.rows} rows, the holdout {data.holdout.rows}"
            if table.layout == "frame"
            else "context is an array, whose columns have no names",
            hint="Pass a DataFrame with one row for each row of the holdout.",
        )
    known = {*data.holdout.columns, data.target}
    if twice := [name for name in table.columns if name in known]:
        raise UsageError(
            what=f"context holds {', '.join(twice)}, which the holdout has already",
            hint="Leave features and the target out of it; gates find those by themselves.",
        )
    return table.columns


def _pair(what: str, given: Any, name: str) -> tuple[UserRows, Array]:
    if not isinstance(given, tuple) or len(given) != 2:
        raise UsageError(what=f"{what} is not a pair", hint=f"Pass {what}=(X, y): rows and their truth.")
    table = read_rows(what, given[0], name)
    return table, read_truth(what, given[1], table.rows)


# --- what is logged ---


def _holdout_metric(model: Any, data: TrainingData, task: Task) -> tuple[str, float]:
    """One number for MLflow's pages; gates measure for themselves."""
    labels = to_labels(answer(model, data, data.holdout), task.output, task.classes or None)
    if task.kind == "regression":
        return "holdout_mae", float(np.abs(labels - data.holdout_truth).mean())
    classes = np.asarray(task.classes)
    right = to_codes(labels, classes) == to_codes(data.holdout_truth, classes)
    return "holdout_accuracy", float(right.mean())


def _save_model(folder: Path, model: Any, data: TrainingData, description: parts.Description) -> None:
    few = read_rows("sample", data.sample.head(_EXAMPLE_ROWS), tensor_name(model))
    if isinstance(model, SavedModel):
        shutil.copytree(model.folder, folder)
        return
    answers = answer(model, data, few)
    if isinstance(model, graphs.Graph):
        flavors.save_onnx(folder, model.proto, flavors.Saved(data.inputs, answers, None, {}))
    elif description.runtime == "torch":
        saved = flavors.Saved(data.inputs, answers, None, description.requirements)
        flavors.save_torch(folder, model, data.tensors(few), saved)
    else:
        saved = flavors.Saved(data.inputs, answers, data.feed(few), description.requirements)
        flavors.save_sklearn(folder, model, saved)


def _write_parts(
    folder: Path, data: TrainingData, beside: dict[str, Array], description: parts.Description
) -> None:
    from mlplatform.data.tables import ParquetTables

    tables, target = ParquetTables(), data.target
    tables.write(folder / parts.SAMPLE, data.sample.cast(data.inputs))
    holdout = {**data.holdout.cast(data.inputs), **beside, target: data.holdout_truth}
    tables.write(folder / parts.HOLDOUT, holdout)
    reference = {**data.reference.cast(data.inputs), target: data.reference_truth}
    tables.write(folder / parts.REFERENCE, take(reference, _spread(data.reference)))
    digests = tables.row_digests(data.trained_on.cast(data.inputs), data.inputs)
    np.save(folder / parts.TRAINED_ON, np.unique(digests), allow_pickle=False)
    (folder / parts.DESCRIPTION).write_bytes(description.encode())


def _spread(table: UserRows) -> Array:
    """Positions of at most so many rows and bytes, evenly over all of them."""
    most = min(MAX_REFERENCE_ROWS, max(1, MAX_REFERENCE_BYTES // max(1, table.row_bytes)))
    if table.rows <= most:
        return np.arange(table.rows)
    return np.linspace(0, table.rows - 1, most).astype(np.int64)


def _log(files: Path, saved: Path, metric: tuple[str, float]) -> str:
    """Add to the active run; without one make a run, where MLflow was told, else in the project's own store."""
    import mlflow

    told: Any = mlflow.is_tracking_uri_set
    with quiet():
        if active := mlflow.active_run():
            return _add(Mlflow(mlflow.get_tracking_uri()), active.info, files, saved, metric)
        if not told() and (settings := _project()):
            store = Mlflow(settings.tracking_uri, settings.artifact_root)
            return _add_new(store, files, saved, metric)
        with mlflow.start_run() as run:
            return _add(Mlflow(mlflow.get_tracking_uri()), run.info, files, saved, metric)


def _project() -> Settings | None:
    """Settings of the project around the script."""
    try:
        return load_settings()
    except NoProject:
        return None


def _add_new(store: Mlflow, files: Path, saved: Path, metric: tuple[str, float]) -> str:
    """A run of our own, without touching what the script's own MLflow calls would do."""
    tags = {
        "mlflow.user": getpass.getuser(),
        "mlflow.source.name": sys.argv[0],
        "mlflow.source.type": "LOCAL",
    }
    info = store.call("create_run", store.experiment(EXPERIMENT), tags=tags).info
    try:
        run_id = _add(store, info, files, saved, metric)
    except BaseException:
        store.call("set_terminated", info.run_id, "FAILED")
        raise
    store.call("set_terminated", run_id)
    return run_id


def _add(store: Mlflow, info: Any, files: Path, saved: Path, metric: tuple[str, float]) -> str:
    run_id = str(info.run_id)
    store.call("log_artifacts", run_id, str(files), parts.FOLDER)
    known = store.call("get_run", run_id).data
    model_id = log_model(store, run_id, info.experiment_id, saved, known.params)
    for name, value in {**known.metrics, metric[0]: metric[1]}.items():
        store.call("log_metric", run_id, name, value, model_id=model_id)
    return run_id
