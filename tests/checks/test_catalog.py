"""Every extension in the catalog keeps what its kind promises."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlplatform import catalog
from mlplatform.testing import checks
from mlplatform.testing.bundles import make_onnx_bundle
from mlplatform.testing.native import make_sklearn_bundle, make_torch_bundle
from tests import served_models

EXTENSIONS = [(kind, name) for kind in catalog.kinds() for name in catalog.names(kind)]
GATES: dict[str, list[dict[str, Any]]] = {
    "metric": [
        {"name": "accuracy", "at_least": 0.8},
        {"name": "auc", "at_least": 0.8, "strict": True},
        {"name": "f1", "at_least": 0.5, "confidence": 0.9},
        {"name": "log_loss", "at_most": 0.7},
        {"name": "mae", "at_most": 0.5, "min_n": 10},
        {"name": "r2", "at_least": 0.5},
    ],
    "no_regression": [
        {"name": "accuracy"},
        {"name": "auc", "margin": 0.02},
        {"name": "balanced_accuracy", "confidence": 0.9},
        {"name": "brier", "margin": 0.0},
        {"name": "rmse", "margin": 0.05},
    ],
    "budget": [
        {"cpu_times_incumbent": 1.5},
        {"cpu_us": 100.0, "size_mb": 50.0, "memory_mb": 500.0},
        {"p99_ms": 1.0},
    ],
    "serving_check": [{}, {"latency_ms": 1.0}],
    "slices": [
        {"by": ("group",)},
        {"by": ("group", "x"), "name": "auc", "bins": 3, "margin": 0.1},
        {"by": ("group",), "name": "f1", "at_least": 0.5, "min_n": 20},
        {"by": ("x",), "name": "log_loss", "at_most": 2.0, "bins": 2},
        {"by": ("group",), "name": "mae", "margin": 0.2},
        {"by": ("grup",)},
    ],
    "fairness": [
        {"by": "group", "favourable": 1, "selection_ratio": 0.8},
        {"by": "group", "favourable": "yes", "odds_difference": 0.1, "min_n": 20},
        {"by": "x", "favourable": 1, "selection_ratio": 0.8, "odds_difference": 0.5, "bins": 2},
    ],
    "signature": [{}, {"new_classes": True}],
    "leak": [{}, {"at_most": 0.01}],
    "freshness": [{"max_age": "30d"}, {"max_age": "3d", "data_max_age": "7d"}],
}
"""Options to try each gate with; a gate that is missing here fails its test."""
NONSENSE: dict[str, list[dict[str, Any]]] = {
    "metric": [
        {"name": "accuracy"},
        {"name": "accuracy", "at_least": 0.5, "at_most": 0.6},
        {"name": "precison", "at_least": 0.5},
        {"name": "accuracy", "at_least": float("nan")},
        {"name": "accuracy", "at_least": 0.5, "confidence": 95.0},
        {"name": "accuracy", "at_least": 0.5, "min_n": 0},
    ],
    "no_regression": [
        {"name": "acc"},
        {"name": "auc", "margin": -0.1},
        {"name": "auc", "confidence": 1.0},
        {"name": "auc", "min_n": -1},
    ],
    "budget": [
        {"cpu_us": 0.0},
        {"size_mb": -1.0},
        {"memory_mb": float("inf")},
        {"cpu_times_incumbent": None},
    ],
    "serving_check": [{"latency_ms": 0.0}],
    "slices": [
        {"by": ()},
        {"by": ("sex",), "name": "acc"},
        {"by": ("sex",), "at_least": 0.5, "at_most": 0.6},
        {"by": ("sex",), "margin": -0.1},
        {"by": ("sex",), "margin": float("nan")},
        {"by": ("sex",), "bins": 1},
        {"by": ("sex",), "min_n": 0},
        {"by": ("sex",), "confidence": 0.3},
    ],
    "fairness": [
        {"by": "sex", "favourable": 1},
        {"by": "sex", "favourable": 1, "selection_ratio": 1.25},
        {"by": "sex", "favourable": 1, "odds_difference": -0.1},
        {"by": "sex", "favourable": 1, "selection_ratio": 0.8, "bins": -1},
    ],
    "leak": [{"at_most": -0.1}, {"at_most": 1.0}, {"at_most": float("nan")}],
    "freshness": [{}, {"max_age": "a month"}, {"data_max_age": "0d"}],
}
JUDGES: dict[str, list[dict[str, Any]]] = {
    "error_rate": [{}, {"at_most": 0.2, "min_requests": 1}],
    "refusals": [{}, {"margin": 0.2, "min_requests": 1}],
    "latency": [{"p99_ms": 40.0}, {"times_incumbent": 2.0}, {"p99_ms": 30.0, "times_incumbent": 1.5}],
    "memory": [{}, {"grow_mb": 50.0, "min_requests": 1}],
    "output_drift": [{}, {"at_most": 0.3, "min_rows": 10}],
    "disagreement": [{}, {"at_most": 0.01, "tolerance": 0.0}],
    "quality": [{}, {"drop": 0.2, "min_labels": 10}],
}
"""Options to try each judge with; a judge that is missing here fails its test."""
JUDGES_NONSENSE: dict[str, list[dict[str, Any]]] = {
    "error_rate": [{"at_most": 0.0}, {"min_requests": 0}],
    "refusals": [{"margin": 0.0}, {"margin": 1.0}, {"min_requests": 0}],
    "latency": [{}, {"p99_ms": 0.0}, {"times_incumbent": 1.0}, {"p99_ms": 1.0, "min_requests": 0}],
    "memory": [{"grow_mb": 0.0}, {"min_requests": 0}],
    "output_drift": [{"at_most": 1.0}, {"min_rows": 0}],
    "disagreement": [{"at_most": -0.1}, {"tolerance": -1.0}, {"min_rows": 0}],
    "quality": [{"drop": 0.0}, {"min_labels": 0}],
}
BUNDLES = {
    "onnx": make_onnx_bundle,
    "sklearn": make_sklearn_bundle,
    "torch": make_torch_bundle,
    "pyfunc": served_models.numbers,
}


@pytest.mark.parametrize(("kind", "name"), EXTENSIONS)
def test_extension_is_a_frozen_dataclass_with_documented_options(kind: str, name: str) -> None:
    checks.check_declared(catalog.find(kind, name))


def test_looking_up_extensions_loads_no_framework() -> None:
    modules = [catalog.names(kind)[name].partition(":")[0] for kind, name in EXTENSIONS]
    checks.check_light(sorted(set(modules)))


@pytest.mark.parametrize("name", catalog.names("gate"))
def test_gate_is_pure_and_survives_every_subject(name: str) -> None:
    assert GATES.get(name), f"give options to try the gate {name} with"
    for options in GATES[name]:
        checks.check_gate(catalog.find("gate", name)(**options))


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, many in NONSENSE.items() for options in many]
)
def test_gate_refuses_nonsense_by_the_name_of_the_option(name: str, options: dict[str, Any]) -> None:
    checks.check_options_refused(catalog.find("gate", name), **options)


@pytest.mark.parametrize("name", catalog.names("judge"))
def test_judge_is_pure_survives_every_fact_and_waits_for_what_it_needs(name: str) -> None:
    assert JUDGES.get(name), f"give options to try the judge {name} with"
    for options in JUDGES[name]:
        checks.check_judge(catalog.find("judge", name)(**options))


@pytest.mark.parametrize(
    ("name", "options"), [(name, options) for name, many in JUDGES_NONSENSE.items() for options in many]
)
def test_judge_refuses_nonsense_by_the_name_of_the_option(name: str, options: dict[str, Any]) -> None:
    checks.check_options_refused(catalog.find("judge", name), **options)


@pytest.mark.parametrize("name", catalog.names("runtime"))
def test_runtime_answers_rows_alone_as_in_a_batch_and_refuses_damaged_files(
    name: str, tmp_path: Path
) -> None:
    assert name in BUNDLES, f"say how to make a bundle for the runtime {name}"
    manifest = BUNDLES[name](tmp_path / "bundle")
    checks.check_runtime(catalog.find("runtime", name)(), tmp_path / "bundle", manifest, tmp_path / "damaged")


@pytest.mark.parametrize(
    ("name", "runtime"),
    [
        (name, runtime)
        for name in catalog.names("technique")
        for runtime in sorted(catalog.find("technique", name).accepts)
    ],
)
def test_technique_makes_a_child_that_answers_like_its_parent(
    name: str, runtime: str, tmp_path: Path
) -> None:
    technique = catalog.find("technique", name)()
    bundle, manifest = tmp_path / "bundle", BUNDLES[runtime](tmp_path / "bundle")
    if name == "dynamic_int8":  # it wants weights: a network as ONNX
        manifest = make_torch_bundle(tmp_path / "net")
        into = tmp_path / "exported"
        into.mkdir()
        made = catalog.find("technique", "onnx")().compress(tmp_path / "net", manifest, into)
        bundle, manifest = into, _child_of(tmp_path / "net", manifest, into, made)
    (tmp_path / "child").mkdir()
    checks.check_technique(technique, bundle, manifest, tmp_path / "child")


def _child_of(parent: Path, manifest: Any, into: Path, made: Any) -> Any:
    from dataclasses import replace

    (into / "sample.json").write_bytes((parent / "sample.json").read_bytes())
    return replace(
        manifest, runtime=made.runtime, model_path=made.model_path, options=made.options, requirements={}
    )
