"""scikit-learn models in the skops format, rebuilt from our own list of types only."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.trusted import SKLEARN_TYPES
from mlplatform.errors import MissingPackage, UnsafeArtifact
from mlplatform.stats.batch import Array, Batch, Outputs

_TORCH_ADAPTER = "sklearn.externals.array_api_compat.torch"


@dataclass(frozen=True)
class SklearnRuntime:
    """Answers labels (or values), and `predict_proba` as scores where the model has it."""

    safe: ClassVar[bool] = True

    def load(self, bundle: Path, manifest: Manifest) -> SklearnPredictor:
        """Raises UnsafeArtifact for a file that is no skops archive, names a foreign type or holds a broken
        tree.
        """
        path = bundle / manifest.model_path
        path = path / "model.skops" if path.is_dir() else path
        model = _read(path, manifest.model_path)
        parts = list(_parts(model, set()))
        _check_trees(parts, manifest.model_path)
        for part in parts:
            if getattr(part, "n_jobs", None) is not None:
                part.n_jobs = 1  # parallelism comes from several workers; threads only cost at one row
        return SklearnPredictor(model, parts)


class SklearnPredictor:
    """A fitted estimator or pipeline, as `model`."""

    def __init__(self, model: Any, parts: list[Any]) -> None:
        from sklearn.base import is_classifier
        from sklearn.compose import ColumnTransformer
        from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer

        self.model = model
        self.needs_frame = any(isinstance(part, ColumnTransformer) for part in parts) and hasattr(
            model, "feature_names_in_"
        )
        first = model.steps[0][1] if hasattr(model, "steps") else model
        self._takes_text = isinstance(first, CountVectorizer | HashingVectorizer)
        self._scores = is_classifier(model) and hasattr(model, "predict_proba")

    def predict(self, batch: Batch) -> Outputs:
        rows = self.table(batch)
        with warnings.catch_warnings():
            # Columns come in the signature's order, which is that of the names the model was fitted with.
            warnings.filterwarnings("ignore", message="X does not have valid feature names")
            predictions = np.asarray(self.model.predict(rows))
            scores = np.asarray(self.model.predict_proba(rows)) if self._scores else None
        return Outputs(predictions, scores)

    def table(self, batch: Batch) -> Any:
        """The rows as the model was fitted on them: one matrix, a list of texts, or a frame."""
        if self.needs_frame:
            # ColumnTransformer picks columns by name, and only from a data frame; scikit-learn has loaded
            # pandas.
            import pandas

            return pandas.DataFrame(dict(batch.columns()), columns=list(batch.names))
        if batch.matrix is not None:
            return batch.matrix
        columns = batch.columns()
        if self._takes_text:
            return ["" if text is None else text for text in columns[batch.names[0]]]
        if all(values.dtype.kind in "biuf" for values in columns.values()):
            return batch.as_matrix("float64")
        return _objects(batch)


def _objects(batch: Batch) -> Array:
    out = np.empty((batch.rows, len(batch.names)), dtype=object)
    for i, values in enumerate(batch.columns().values()):
        out[:, i] = values
    return out


# --- reading ------------------------------------------------------------------------------------------------


def _read(path: Path, name: str) -> Any:
    try:
        with _without_torch():
            from skops import io
    except ImportError as error:
        raise MissingPackage(what="a scikit-learn model", package="skops") from error
    try:
        return io.load(path, trusted=list(SKLEARN_TYPES))
    except Exception as error:  # skops raises whatever the damaged part runs into
        why = " ".join(str(error).split())[:300]
        raise UnsafeArtifact(
            path=name, why=f"skops does not load it: {why or type(error).__name__}"
        ) from error


@contextmanager
def _without_torch() -> Iterator[None]:
    """skops walks all of scikit-learn for its names, and one adapter there would import torch: 1.2 s for
    nothing.
    """
    import sklearn.utils  # noqa: F401 - first, since scipy looks for torch itself

    if _TORCH_ADAPTER in sys.modules or "skops.io" in sys.modules:
        yield
        return
    sys.modules[_TORCH_ADAPTER] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.modules.pop(_TORCH_ADAPTER, None)


def _parts(value: Any, seen: set[int]) -> Iterator[Any]:
    """Every object of scikit-learn inside a model, itself included."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | type):
        return
    seen.add(id(value))
    if isinstance(value, dict):
        inside = list(value.values())
    elif isinstance(value, list | tuple | set) or (isinstance(value, np.ndarray) and value.dtype == object):
        inside = list(value.flat if isinstance(value, np.ndarray) else value)
    elif type(value).__module__.startswith("sklearn."):
        yield value
        inside = list(getattr(value, "__dict__", {}).values())
    else:
        return
    for item in inside:
        yield from _parts(item, seen)


def _check_trees(parts: list[Any], name: str) -> None:
    """Compiled trees follow their indexes without looking; a forged one would read foreign memory or never
    end.
    """
    widest = max((getattr(part, "n_features_in_", 0) for part in parts), default=0)
    for part in parts:
        kind = type(part).__name__
        if kind == "Tree":
            children = np.stack([part.children_left, part.children_right])
            inner, features = children[0] != -1, part.feature
        elif kind == "TreePredictor":
            children = np.stack([part.nodes["left"], part.nodes["right"]]).astype(np.int64)
            inner, features = part.nodes["is_leaf"] == 0, part.nodes["feature_idx"]
        else:
            continue
        own = np.arange(children.shape[1])
        sound = (children[:, inner] > own[inner]).all() and (children[:, inner] < children.shape[1]).all()
        if not sound or (features[inner] < 0).any() or (features[inner] >= widest).any():
            raise UnsafeArtifact(path=name, why="a tree in it points outside itself")
