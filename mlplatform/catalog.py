"""Names of extensions: short name -> "module:Class". Nothing heavy is imported until a name is chosen.

Another package adds a name by an entry point in the group `mlplatform.<kind>`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import Any

from mlplatform.errors import BrokenExtension, UnknownName

_BUILTIN: dict[str, dict[str, str]] = {
    "gate": {
        "metric": "mlplatform.plugins.gates.metric:MetricGate",
        "no_regression": "mlplatform.plugins.gates.no_regression:NoRegressionGate",
        "budget": "mlplatform.plugins.gates.budget:BudgetGate",
        "serving_check": "mlplatform.plugins.gates.serving_check:ServingCheckGate",
        "slices": "mlplatform.plugins.gates.slices:SlicesGate",
        "fairness": "mlplatform.plugins.gates.fairness:FairnessGate",
        "signature": "mlplatform.plugins.gates.signature:SignatureGate",
        "leak": "mlplatform.plugins.gates.leak:LeakGate",
        "freshness": "mlplatform.plugins.gates.freshness:FreshnessGate",
    },
    "technique": {
        "onnx": "mlplatform.plugins.techniques.onnx_export:OnnxExport",
        "dynamic_int8": "mlplatform.plugins.techniques.dynamic_int8:DynamicInt8",
    },
    "runtime": {
        "onnx": "mlplatform.plugins.runtimes.onnx:OnnxRuntime",
        "sklearn": "mlplatform.plugins.runtimes.sklearn:SklearnRuntime",
        "torch": "mlplatform.plugins.runtimes.torch:TorchRuntime",
        "pyfunc": "mlplatform.plugins.runtimes.pyfunc:PyfuncRuntime",
    },
    "target": {
        "local": "mlplatform.plugins.targets.local:LocalTarget",
        "docker": "mlplatform.plugins.targets.docker:DockerTarget",
        "external": "mlplatform.plugins.targets.external:ExternalTarget",
    },
    "metric": {
        "drift": "mlplatform.plugins.metrics.drift:DriftMetric",
        "quality": "mlplatform.plugins.metrics.quality:QualityMetric",
    },
    "judge": {
        "error_rate": "mlplatform.plugins.judges.error_rate:ErrorRateJudge",
        "refusals": "mlplatform.plugins.judges.refusals:RefusalsJudge",
        "latency": "mlplatform.plugins.judges.latency:LatencyJudge",
        "memory": "mlplatform.plugins.judges.memory:MemoryJudge",
        "output_drift": "mlplatform.plugins.judges.output_drift:OutputDriftJudge",
        "disagreement": "mlplatform.plugins.judges.disagreement:DisagreementJudge",
        "quality": "mlplatform.plugins.judges.quality:QualityJudge",
    },
    "trigger": {"sustained": "mlplatform.plugins.triggers.sustained:SustainedTrigger"},
}


def names(kind: str) -> dict[str, str]:
    """Every known name of a kind, built in or from another package; nobody replaces what is built in."""
    return {**_BUILTIN[kind], **{k: v for k, v in _installed(kind).items() if k not in _BUILTIN[kind]}}


def kinds() -> tuple[str, ...]:
    return tuple(_BUILTIN)


def find(kind: str, name: str) -> Any:
    """The class behind a name; UnknownName lists the known ones, BrokenExtension says why one does not load."""
    known = _BUILTIN[kind]
    if name not in known:  # only then: to ask what is installed takes a server a tenth of its start
        known = names(kind)
    if name not in known:
        raise UnknownName(kind, name, known)
    module, _, attribute = known[name].partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise BrokenExtension(kind=kind, name=name, place=known[name], cause=str(error)) from error


@cache
def _installed(kind: str) -> dict[str, str]:
    from importlib.metadata import entry_points

    return {point.name: point.value for point in entry_points(group=f"mlplatform.{kind}")}
