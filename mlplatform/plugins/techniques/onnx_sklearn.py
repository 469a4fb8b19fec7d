"""scikit-learn to ONNX by skl2onnx: float32 and a pinned opset. (In double precision trees came out
wrong.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Manifest
from mlplatform.errors import MissingPackage, Refused

OPSET = {"": 18, "ai.onnx.ml": 3}
SCORES = "probabilities"


def export(parent: Any, manifest: Manifest, path: Path) -> dict[str, Any]:
    """Write the graph of a loaded scikit-learn model; the ONNX runtime's options. Raises Refused."""
    layout = "named" if _needs_names(parent, manifest) else "matrix"
    try:
        with _plain_attributes():
            proto = _convert(parent.model, _input_types(manifest, layout))
    except ImportError as error:
        raise MissingPackage(what="the technique `onnx`", package="skl2onnx") from error
    except Exception as error:  # converters raise whatever an unsupported option runs into
        raise Refused(
            what=f"{type(parent.model).__name__} has no ONNX form: {' '.join(str(error).split())[:200]}",
            hint="skl2onnx lists the supported estimators; custom transformers have none.",
        ) from error
    path.write_bytes(proto.SerializeToString())
    names = [output.name for output in proto.graph.output]
    outputs = {"predictions": names[0]}
    if len(names) > 1 and hasattr(parent.model, "predict_proba"):
        outputs["scores"] = names[1]
    return {"layout": layout, "outputs": outputs}


def _needs_names(parent: Any, manifest: Manifest) -> bool:
    return bool(parent.needs_frame) or any(
        column.dtype in ("string", "datetime") for column in manifest.inputs
    )


def _input_types(manifest: Manifest, layout: str) -> list[tuple[str, Any]]:
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    if layout == "matrix":
        return [("X", FloatTensorType([None, len(manifest.inputs)]))]
    kinds = {"string": StringTensorType}
    return [(c.name, kinds.get(c.dtype, FloatTensorType)([None, 1])) for c in manifest.inputs]


def _convert(model: Any, inputs: list[tuple[str, Any]]) -> Any:
    from skl2onnx import to_onnx

    try:
        # Without zipmap scores are one tensor instead of a list of dictionaries; some models have no such
        # option.
        return to_onnx(model, initial_types=inputs, options={"zipmap": False}, target_opset=OPSET)
    except (NameError, ValueError) as error:
        if "zipmap" not in str(error):
            raise
        return to_onnx(model, initial_types=inputs, target_opset=OPSET)


@contextmanager
def _plain_attributes() -> Iterator[None]:
    """skl2onnx 1.20 puts booleans and NumPy scalars into integer attributes, which protobuf 7 refuses."""
    from onnx import helper

    original = helper.make_attribute

    def make_attribute(key: str, value: Any, *rest: Any, **named: Any) -> Any:
        value = value.tolist() if isinstance(value, np.ndarray) else value
        if isinstance(value, list | tuple):
            items = [v.item() if isinstance(v, np.generic) else v for v in value]
            value = [int(v) if isinstance(v, bool) else v for v in items]
        return original(key, value, *rest, **named)

    helper.make_attribute = make_attribute
    try:
        yield
    finally:
        helper.make_attribute = original
