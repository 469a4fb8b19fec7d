"""Tensors, bytes, several outputs and models that run code of their own pass through the sandboxed child."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest

from mlplatform.domain.bundle import Column
from mlplatform.evaluation.evaluator import ChildEvaluator
from tests import served_models

# MLflow warns of its own code when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")
CODE = """
class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input["raw"].map(len).astype(float).to_numpy() + model_input["text"].str.len()
"""


def test_a_model_of_tensors_with_several_outputs_is_checked_and_answers(tmp_path: Path) -> None:
    served_models.pixels(tmp_path / "pixels")
    report = ChildEvaluator().serving_check(tmp_path / "pixels")
    assert report.problems == () and report.latency_ms > 0
    images = np.full((3, 2, 3, 3), 10, np.uint8)
    answers = ChildEvaluator().answer(
        tmp_path / "pixels", {"image": images, "factor": np.array([1.0, 2.0, 3.0])}
    )
    assert answers.predictions.tolist() == [10.0, 20.0, 30.0]


def test_rows_whose_tensors_differ_in_length_are_answered_in_their_order(tmp_path: Path) -> None:
    served_models.lengths(tmp_path / "lengths")
    rng = np.random.default_rng(0)
    waves = np.array([rng.normal(size=(n, 2)).astype("float32") for n in (3, 1, 3, 2, 1)] + [None], object)
    answers = ChildEvaluator().answer(tmp_path / "lengths", {"wave": waves[:-1]})
    np.testing.assert_allclose(answers.predictions, [wave.sum() for wave in waves[:-1]], rtol=1e-5)


def test_a_model_of_its_own_code_on_bytes_is_checked_and_answers(tmp_path: Path) -> None:
    columns = (Column("raw", "binary"), Column("text", "string"))
    sample = {
        "raw": [base64.b64encode(b"\xff" * n).decode() for n in range(1, 5)],
        "text": ["a", "bc", "d", ""],
    }
    folder = tmp_path / "code"
    served_models.saved(folder, CODE, columns, sample)
    report = ChildEvaluator().serving_check(folder)
    assert report.problems == ()
    rows = {"raw": np.array([b"\xff\x00", b""], object), "text": np.array(["abc", "d"], object)}
    assert ChildEvaluator().answer(folder, rows).predictions.tolist() == [5.0, 1.0]
