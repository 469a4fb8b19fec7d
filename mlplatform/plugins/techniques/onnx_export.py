"""A native model as an ONNX graph in float32: no Python at answering time, which is most of the cost of one
row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from mlplatform.catalog import find
from mlplatform.domain.bundle import Manifest
from mlplatform.errors import MissingPackage, Refused
from mlplatform.plugins.techniques.comparison import compare
from mlplatform.ports.extensions import Made

MODEL = "model/model.onnx"


@dataclass(frozen=True)
class OnnxExport:
    """Export through skl2onnx or torch, then check the graph, load it and compare it with its parent.

    max_flips: share of rows that may change their label; above it the export is refused. For a regression the
    same share of the answers' spread may be the largest deviation.
    """

    accepts: ClassVar[frozenset[str]] = frozenset({"sklearn", "torch"})

    max_flips: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.max_flips < 1:
            raise ValueError("max_flips must be between 0 and 1")

    def compress(self, bundle: Path, manifest: Manifest, into: Path) -> Made:
        """Raises Refused for a model without an ONNX form, or whose ONNX form answers differently."""
        parent = find("runtime", manifest.runtime)().load(bundle, manifest)
        (into / MODEL).parent.mkdir(parents=True, exist_ok=True)
        options = _exporter(manifest.runtime)(parent, manifest, into / MODEL)
        check_graph(into / MODEL)
        child_manifest = replace(manifest, runtime="onnx", model_path=MODEL, options=options, requirements={})
        child = find("runtime", "onnx")().load(into, child_manifest)
        deviation = compare(bundle, manifest, parent, child)
        kind, share = "labels", deviation.flip_share
        if manifest.task.kind == "regression":
            kind, share = "of the answers' spread", deviation.relative
        if share > self.max_flips:
            raise Refused(
                what=f"as ONNX the model answers differently: {share:.1%} {kind} on {deviation.rows} rows",
                hint="Serve it natively, or use other estimators; float32 moves some thresholds.",
            )
        return Made("onnx", MODEL, options, deviation.notes())


def check_graph(path: Path) -> None:
    """Raises Refused for a graph that breaks ONNX's own rules; exporters do write such graphs without a
    word.
    """
    import onnx

    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # checker and shape inference raise types of their own
        raise Refused(
            what=f"the exporter wrote an invalid graph: {' '.join(str(error).split())[:200]}"
        ) from error


def _exporter(runtime: str) -> Any:
    try:
        if runtime == "sklearn":
            from mlplatform.plugins.techniques.onnx_sklearn import export
        else:
            from mlplatform.plugins.techniques.onnx_torch import export
    except ImportError as error:
        raise MissingPackage(what="the technique `onnx`", package=str(error.name)) from error
    return export
