"""Native runtimes: what they answer, and what they do not load."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.bundle import Column, Task
from mlplatform.domain.trusted import SKLEARN_TYPES
from mlplatform.errors import UnsafeArtifact
from mlplatform.plugins.runtimes.sklearn import SklearnRuntime
from mlplatform.plugins.runtimes.torch import TorchRuntime
from mlplatform.stats.typed import typed_batch
from mlplatform.testing.native import make_rows, make_sklearn_bundle, make_torch_bundle, write_bundle


def common_estimators() -> dict[str, Any]:
    from sklearn import ensemble, linear_model, naive_bayes, neighbors, neural_network, svm, tree
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return {
        type(model).__name__: model
        for model in (
            linear_model.LogisticRegression(),
            linear_model.SGDClassifier(loss="log_loss", random_state=0),
            linear_model.RidgeClassifier(),
            naive_bayes.GaussianNB(),
            tree.DecisionTreeClassifier(random_state=0),
            tree.ExtraTreeClassifier(random_state=0),
            ensemble.RandomForestClassifier(5, n_jobs=2, random_state=0),
            ensemble.ExtraTreesClassifier(5, random_state=0),
            ensemble.GradientBoostingClassifier(n_estimators=5, random_state=0),
            ensemble.HistGradientBoostingClassifier(max_iter=5, random_state=0),
            ensemble.AdaBoostClassifier(n_estimators=5, random_state=0),
            ensemble.BaggingClassifier(n_estimators=5, random_state=0),
            ensemble.VotingClassifier(
                [("a", linear_model.LogisticRegression()), ("b", naive_bayes.GaussianNB())]
            ),
            neighbors.KNeighborsClassifier(),
            neural_network.MLPClassifier((8,), max_iter=20, solver="lbfgs", random_state=0),
            svm.SVC(),
            svm.LinearSVC(),
            CalibratedClassifierCV(svm.LinearSVC(), cv=2),
            make_pipeline(SimpleImputer(), StandardScaler(), linear_model.LogisticRegression()),
        )
    }


@pytest.mark.parametrize("name", common_estimators())
@pytest.mark.filterwarnings("ignore:lbfgs failed to converge")
def test_common_estimators_load_from_our_list_and_answer_as_fitted(name: str, tmp_path: Path) -> None:
    model = common_estimators()[name]
    manifest = make_sklearn_bundle(tmp_path / "b", model)
    table, _ = make_rows(100, seed=5)
    outputs = SklearnRuntime().load(tmp_path / "b", manifest).predict(typed_batch(table, manifest.inputs))
    matrix = np.column_stack(list(table.values()))
    np.testing.assert_array_equal(outputs.predictions, model.predict(matrix))
    assert (outputs.scores is not None) == hasattr(model, "predict_proba")
    if outputs.scores is not None:
        np.testing.assert_allclose(outputs.scores, model.predict_proba(matrix))


def test_our_list_names_things_exactly() -> None:
    assert len(set(SKLEARN_TYPES)) == len(SKLEARN_TYPES)
    assert all(name.count(".") >= 1 and "*" not in name for name in SKLEARN_TYPES)


def test_a_type_that_is_not_on_our_list_is_refused_by_name(tmp_path: Path) -> None:
    from sklearn.preprocessing import FunctionTransformer

    manifest = make_sklearn_bundle(tmp_path / "b")
    _rewrite_skops(tmp_path / "b" / "model" / "model.skops", FunctionTransformer(__import__("os").system))
    with pytest.raises(UnsafeArtifact, match=r"system"):
        SklearnRuntime().load(tmp_path / "b", manifest)


@pytest.mark.parametrize("name", ["RandomForestClassifier", "HistGradientBoostingClassifier"])
def test_a_tree_that_points_outside_itself_is_refused(name: str, tmp_path: Path) -> None:
    manifest = make_sklearn_bundle(tmp_path / "b", common_estimators()[name])
    file = tmp_path / "b" / "model" / "model.skops"
    _redirect_a_child(file)
    with pytest.raises(UnsafeArtifact, match="points outside itself"):
        SklearnRuntime().load(tmp_path / "b", manifest)


def test_one_column_of_text_is_given_as_texts(tmp_path: Path) -> None:
    import skops.io
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    texts, spam = (
        ["win money now", "see you at noon", "money prize win", "noon is fine"] * 5,
        [1, 0, 1, 0] * 5,
    )
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(texts, spam)
    inputs, task = [Column("text", "string")], Task("classification", "label", (0, 1))
    raw = skops.io.dumps(model)
    manifest = write_bundle(tmp_path / "b", "sklearn", "model.skops", raw, task, inputs, {"text": texts[:2]})
    batch = typed_batch({"text": np.array(["win a prize", "fine", None], dtype=object)}, inputs)
    answers = SklearnRuntime().load(tmp_path / "b", manifest).predict(batch).predictions
    assert answers.tolist()[:2] == [1, 0] and len(answers) == 3


def test_a_program_answers_its_raw_output(tmp_path: Path) -> None:
    import torch

    manifest = make_torch_bundle(tmp_path / "b")
    table, _ = make_rows(50)
    outputs = TorchRuntime().load(tmp_path / "b", manifest).predict(typed_batch(table, manifest.inputs))
    program = torch.export.load(tmp_path / "b" / "model" / "model.pt2").module()
    rows = torch.from_numpy(np.column_stack(list(table.values())).astype(np.float32))
    np.testing.assert_allclose(outputs.predictions, program(rows).detach().numpy(), rtol=1e-5)
    assert outputs.scores is None
    assert torch.get_num_threads() == 1


def test_a_program_that_wants_other_inputs_is_refused(tmp_path: Path) -> None:
    import torch

    class Sum(torch.nn.Module):
        def forward(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
            return left + right

    manifest = make_torch_bundle(tmp_path / "b")
    file = tmp_path / "b" / "model" / "model.pt2"
    torch.export.save(torch.export.export(Sum(), (torch.zeros(3, 8), torch.zeros(3, 8))), file)
    with pytest.raises(UnsafeArtifact, match="takes 2 inputs"):
        TorchRuntime().load(tmp_path / "b", manifest)


def _rewrite_skops(file: Path, model: Any) -> None:
    import skops.io

    file.write_bytes(skops.io.dumps(model))


def _redirect_a_child(file: Path) -> None:
    """Set the left child of the first tree's root to a node that does not exist, in the file itself."""
    out = io.BytesIO()
    changed = False
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            raw = old.read(name)
            if not changed and name.endswith(".npy"):
                array = np.load(io.BytesIO(raw), allow_pickle=False)
                field = next((f for f in ("left_child", "left") if f in (array.dtype.names or ())), None)
                if field and len(array) > 1:
                    array[field][0] = 10_000_000
                    buffer = io.BytesIO()
                    np.save(buffer, array, allow_pickle=False)
                    raw, changed = buffer.getvalue(), True
            new.writestr(name, raw)
    assert changed, json.dumps(zipfile.ZipFile(file).namelist())[:200]
    file.write_bytes(out.getvalue())
