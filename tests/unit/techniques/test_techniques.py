"""Export and quantization on real models: exact where they promise it, refused with a reason where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.bundle import Column, Manifest, Task
from mlplatform.errors import Refused
from mlplatform.plugins.runtimes.onnx import OnnxRuntime
from mlplatform.plugins.runtimes.sklearn import SklearnRuntime
from mlplatform.plugins.techniques.dynamic_int8 import DynamicInt8
from mlplatform.plugins.techniques.onnx_export import OnnxExport
from mlplatform.ports.extensions import Made
from mlplatform.stats.batch import Batch
from mlplatform.stats.typed import typed_batch
from mlplatform.testing.native import make_rows, make_sklearn_bundle, make_torch_bundle, write_bundle


def exported(bundle: Path, manifest: Manifest) -> tuple[Path, Manifest, Made]:
    into = bundle.with_name(bundle.name + "-onnx")
    into.mkdir()
    made = OnnxExport().compress(bundle, manifest, into)
    (into / "sample.json").write_bytes((bundle / "sample.json").read_bytes())
    child = replace(
        manifest, runtime="onnx", model_path=made.model_path, options=made.options, requirements={}
    )
    return into, child, made


def all_rows(manifest: Manifest) -> Batch:
    return typed_batch(make_rows(2000, seed=9)[0], manifest.inputs)


def estimators() -> dict[str, Any]:
    from sklearn.ensemble import (
        GradientBoostingClassifier,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
    )
    from sklearn.linear_model import LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    return {
        "scaled logistic": make_pipeline(StandardScaler(), LogisticRegression()),
        "tree": DecisionTreeClassifier(max_depth=5, random_state=0),
        "forest": RandomForestClassifier(20, max_depth=8, random_state=0),
        "boosting": GradientBoostingClassifier(n_estimators=20, random_state=0),
        "histogram boosting": HistGradientBoostingClassifier(max_iter=20, random_state=0),
        "network": MLPClassifier((16,), max_iter=50, solver="lbfgs", random_state=0),
    }


@pytest.mark.parametrize("name", estimators())
def test_onnx_answers_like_scikit_learn_on_rows_it_never_saw(name: str, tmp_path: Path) -> None:
    bundle = tmp_path / "parent"
    manifest = make_sklearn_bundle(bundle, estimators()[name])
    into, child, made = exported(bundle, manifest)
    assert made.options["layout"] == "matrix"
    assert made.notes["label_flips"] <= 1, "a forest may tie at exactly one half"
    assert made.notes["sample_rows"] == 8
    rows = all_rows(manifest)
    before = SklearnRuntime().load(bundle, manifest).predict(rows)
    after = OnnxRuntime().load(into, child).predict(rows)
    assert before.scores is not None and after.scores is not None
    assert (before.predictions != after.predictions).mean() < 0.002
    assert np.quantile(np.abs(before.scores - after.scores), 0.99) < 1e-5


def test_columns_of_text_and_numbers_are_exported_by_name(tmp_path: Path) -> None:
    import pandas as pd
    import skops.io
    from sklearn.compose import ColumnTransformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    rng = np.random.default_rng(0)
    table = pd.DataFrame({"size": rng.normal(size=200), "town": rng.choice(["Wien", "Graz", "Linz"], 200)})
    truth = np.where((table["size"] > 0) == (table["town"] == "Wien"), "yes", "no")
    encoders = [("n", StandardScaler(), ["size"]), ("t", OneHotEncoder(handle_unknown="ignore"), ["town"])]
    model = make_pipeline(ColumnTransformer(encoders), LogisticRegression()).fit(table, truth)
    inputs = (Column("size", "double"), Column("town", "string"))
    sample = {"size": [0.5, -0.5, 1.0], "town": ["Wien", "Graz", "Rom"]}
    task = Task("classification", "label", ("no", "yes"))
    bundle = tmp_path / "parent"
    manifest = write_bundle(bundle, "sklearn", "model.skops", skops.io.dumps(model), task, inputs, sample)
    into, child, made = exported(bundle, manifest)
    assert made.options == {"layout": "named", "outputs": {"predictions": "label", "scores": "probabilities"}}
    rows = typed_batch(sample, inputs)
    answers = [SklearnRuntime().load(bundle, manifest), OnnxRuntime().load(into, child)]
    before, after = (predictor.predict(rows).predictions.tolist() for predictor in answers)
    assert before == after == model.predict(pd.DataFrame(sample)).tolist()


def test_a_regression_is_exported_as_values(tmp_path: Path) -> None:
    import skops.io
    from sklearn.ensemble import HistGradientBoostingRegressor

    table, _ = make_rows()
    matrix = np.column_stack(list(table.values()))
    model = HistGradientBoostingRegressor(max_iter=20).fit(matrix, matrix[:, 0] * 3)
    bundle = tmp_path / "parent"
    manifest = write_bundle(
        bundle, "sklearn", "model.skops", skops.io.dumps(model), Task("regression", "value")
    )
    into, child, made = exported(bundle, manifest)
    assert "scores" not in made.options["outputs"]
    answers = OnnxRuntime().load(into, child).predict(typed_batch(table, manifest.inputs)).predictions
    assert answers.shape == (400,)
    np.testing.assert_allclose(answers, model.predict(matrix), atol=1e-4)


def test_an_export_whose_answers_flip_is_refused(tmp_path: Path) -> None:
    import skops.io
    from sklearn.linear_model import LogisticRegression

    # The classes lie closer together than float32 can tell at this distance from zero.
    matrix = np.full((200, 8), 1e6) + np.arange(200)[:, None] % 2 * 1e-3
    model = LogisticRegression(C=1e9, solver="newton-cholesky").fit((matrix - 1e6) * 1e3, np.arange(200) % 2)
    model.intercept_ -= (model.coef_ * 1e9).sum()
    model.coef_ *= 1e3
    sample = {name: matrix[:8, 0].tolist() for name in "abcdefgh"}
    bundle, task = tmp_path / "parent", Task("classification", "label", (0, 1))
    manifest = write_bundle(bundle, "sklearn", "model.skops", skops.io.dumps(model), task, sample=sample)
    with pytest.raises(Refused, match="answers differently"):
        exported(bundle, manifest)


def test_an_estimator_without_an_onnx_form_is_refused_by_name(tmp_path: Path) -> None:
    from sklearn.neighbors import NearestCentroid

    bundle = tmp_path / "parent"
    manifest = make_sklearn_bundle(bundle, NearestCentroid())
    with pytest.raises(Refused, match="NearestCentroid has no ONNX form"):
        exported(bundle, manifest)


def test_a_program_for_images_takes_flat_rows_as_onnx(tmp_path: Path) -> None:
    import torch

    class Image(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = torch.nn.Conv2d(1, 4, 3, padding=1)
            self.head = torch.nn.Linear(32, 2)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.convolution(rows.reshape(-1, 1, 2, 4))).flatten(1))

    bundle = tmp_path / "parent"
    manifest = make_torch_bundle(bundle, Image())
    into, child, made = exported(bundle, manifest)
    assert made.notes["max_deviation"] < 1e-5
    assert OnnxRuntime().load(into, child).predict(all_rows(manifest)).predictions.shape == (2000, 2)


def test_a_program_for_a_fixed_number_of_rows_answers_any_but_is_not_exported(tmp_path: Path) -> None:
    from mlplatform.plugins.runtimes.torch import TorchRuntime

    fixed, free = (
        make_torch_bundle(tmp_path / str(any_rows), any_rows=any_rows) for any_rows in (False, True)
    )
    rows = all_rows(fixed)
    one = TorchRuntime().load(tmp_path / "False", fixed).predict(rows).predictions
    np.testing.assert_allclose(
        one, TorchRuntime().load(tmp_path / "True", free).predict(rows).predictions, atol=1e-5
    )
    with pytest.raises(Refused, match="exactly 3 rows"):
        exported(tmp_path / "False", fixed)


def test_int8_quantizes_every_matrix_of_a_network_and_tells_the_share(tmp_path: Path) -> None:
    bundle = tmp_path / "parent"
    into, child, _ = exported(bundle, make_torch_bundle(bundle))
    (tmp_path / "int8").mkdir()
    made = DynamicInt8().compress(into, child, tmp_path / "int8")
    assert made.notes["quantized_operators"] == 2 and made.notes["quantized_share"] == 1.0
    assert 0 < made.notes["max_deviation"] < 0.05
    assert made.options == child.options


@pytest.mark.parametrize(("name", "hint"), [("forest", "tree ensemble"), ("scaled logistic", "linear model")])
def test_int8_is_refused_where_there_is_nothing_to_quantize(name: str, hint: str, tmp_path: Path) -> None:
    bundle = tmp_path / "parent"
    into, child, _ = exported(bundle, make_sklearn_bundle(bundle, estimators()[name]))
    (tmp_path / "int8").mkdir()
    with pytest.raises(Refused, match="nothing to quantize") as caught:
        DynamicInt8().compress(into, child, tmp_path / "int8")
    assert hint in caught.value.next_step
