"""INT8 weights, activations scaled while answering: a quarter of the size, faster where matrix products
dominate.
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from mlplatform.catalog import find
from mlplatform.domain.bundle import Manifest
from mlplatform.errors import MissingPackage, Refused
from mlplatform.plugins.techniques.comparison import compare
from mlplatform.plugins.techniques.onnx_export import MODEL, check_graph
from mlplatform.ports.extensions import Made

QUANTIZABLE = ("MatMul", "Gemm", "Gather", "Attention", "EmbedLayerNormalization", "LSTM")
"""Convolutions stay in float32: dynamic INT8 makes them slower on a CPU (0.56x measured)."""
_QUANTIZED = ("MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "ConvInteger")
_HOLDERS = ("Constant", "Transpose", "Identity", "DequantizeLinear")


@dataclass(frozen=True)
class DynamicInt8:
    """Quantize an ONNX graph with signed weights, one scale a channel.

    max_flips: share of the sample's rows that may change their label; above it the child is refused.
    """

    accepts: ClassVar[frozenset[str]] = frozenset({"onnx"})

    max_flips: float = 0.1

    def __post_init__(self) -> None:
        if not 0 <= self.max_flips < 1:
            raise ValueError("max_flips must be between 0 and 1")

    def compress(self, bundle: Path, manifest: Manifest, into: Path) -> Made:
        """Raises Refused when nothing in the graph can be quantized, or when too many labels change."""
        (into / MODEL).parent.mkdir(parents=True, exist_ok=True)
        before = _operators(bundle / manifest.model_path)
        if not any(before[name] for name in QUANTIZABLE):
            raise _nothing_to_do(before)
        _quantize(bundle / manifest.model_path, into / MODEL)
        notes = _share(into / MODEL)
        if not notes["quantized_operators"]:
            raise _nothing_to_do(before)
        check_graph(into / MODEL)
        runtime = find("runtime", "onnx")()
        child = runtime.load(into, replace(manifest, model_path=MODEL))
        deviation = compare(bundle, manifest, runtime.load(bundle, manifest), child)
        if deviation.flip_share > self.max_flips:
            raise Refused(
                what=f"INT8 changes the label of {deviation.flip_share:.1%} of {deviation.rows} rows",
                hint="This model does not bear INT8; keep the float32 graph.",
            )
        return Made("onnx", MODEL, dict(manifest.options), {**notes, **deviation.notes()})


def _quantize(source: Path, target: Path) -> None:
    try:
        from onnxruntime.quantization import QuantType, quantize_dynamic
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        raise MissingPackage(what="the technique `dynamic_int8`", package="onnx") from error
    # The quantizer writes its advice to the root logger; ours stands in the notes.
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            prepared, bare = Path(folder) / "prepared.onnx", Path(folder) / "bare.onnx"
            # Symbolic shape inference gives up on classical models and on convolutions; it is not needed
            # here.
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            _without_shapes(prepared, bare)
            quantize_dynamic(
                bare,
                target,
                op_types_to_quantize=list(QUANTIZABLE),
                per_channel=True,
                weight_type=QuantType.QInt8,
            )
    finally:
        root.setLevel(level)


def _without_shapes(source: Path, target: Path) -> None:
    """The quantizer turns Gemm's weights round and keeps what torch noted of their shape, which then
    contradicts.
    """
    import onnx

    model = onnx.load(str(source))
    del model.graph.value_info[:]
    onnx.save(model, str(target))


def _operators(path: Path) -> Counter[str]:
    """Operators by kind; those with two inputs where one is a weight matrix count as quantizable."""
    import onnx

    graph = onnx.load(str(path)).graph
    weights = {w.name for w in graph.initializer if len(w.dims) >= 2}
    weights |= {node.output[0] for node in graph.node if node.op_type in _HOLDERS}
    kept = (n for n in graph.node if n.op_type not in QUANTIZABLE or weights.intersection(n.input))
    return Counter(node.op_type for node in kept)


def _share(path: Path) -> dict[str, Any]:
    """Of the operators with weights, how many work in INT8: a graph with few is quantized in name only."""
    after = _operators(path)
    quantized = sum(after[name] for name in _QUANTIZED)
    left = sum(after[name] for name in QUANTIZABLE) + after["Conv"]
    return {
        "quantized_operators": quantized,
        "float_operators_left": left,
        "quantized_share": quantized / max(quantized + left, 1),
    }


def _nothing_to_do(operators: Mapping[str, int]) -> Refused:
    found = ", ".join(sorted(operators))
    trees = any(name.startswith("TreeEnsemble") for name in operators)
    linear = any(name.startswith("Linear") for name in operators)
    hint = "Its operators hold no weight matrices of the kind that INT8 shrinks."
    if trees:
        hint = "A tree ensemble has thresholds instead of weights: refit a smaller one instead."
    elif linear:
        hint = "A linear model is one small product already: the ONNX form is as fast as it gets."
    elif operators.get("Conv"):
        hint = "Convolutions need static INT8 with calibration; the dynamic kind makes them slower."
    return Refused(what=f"nothing to quantize: the graph has {found}", hint=hint)
