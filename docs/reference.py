"""Prints the tables of docs/policy.md from the code: `python docs/reference.py`. A test keeps the page equal to it."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

from mlplatform import catalog
from mlplatform.domain import approval, governor, policy

TABLES: dict[str, type[Any]] = {
    "(top)": policy.Policy,
    "[data]": policy.Data,
    "data.evaluate": policy.EvaluateOn,
    "[stages.NAME]": policy.Stage,
    "stages.NAME.endpoint": policy.Endpoint,
    "stages.NAME.approvals": approval.Demand,
    "stages.NAME.probation": policy.Probation,
    "[compress]": policy.Compress,
    "[capture]": policy.Capture,
    "[watch]": policy.Watch,
    "[retrain]": policy.Retrain,
    "retrain.governor": governor.Limits,
    "[reconcile]": policy.Reconcile,
}
PLACES = {
    "gate": "stages.NAME.gates",
    "technique": "compress.steps",
    "metric": "watch.metrics",
    "trigger": "retrain.when",
    "target": "endpoint.target",
}


def main() -> None:
    print("\n".join(reference()))


def reference() -> Iterator[str]:
    for place, cls in TABLES.items():
        yield f"\n### `{place}`\n" if place != "(top)" else "\n### At the top\n"
        yield "| key | default | meaning |\n| --- | --- | --- |"
        for name, default, meaning in _fields(cls):
            yield f"| `{name}` | {default} | {meaning} |"
    for kind, place in PLACES.items():
        yield f"\n### Kinds of {kind}, in `{place}`\n"
        for name in catalog.names(kind):
            cls = catalog.find(kind, name)
            yield f"- **`{name}`** {_options(cls)}: {' '.join((cls.__doc__ or '').split())}"


def _fields(cls: type[Any]) -> Iterator[tuple[str, str, str]]:
    """Name, default and docstring of every field; tables of their own are not repeated."""
    body = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(body, ast.ClassDef)
    for node, after in zip(body.body, [*body.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        said = after.value.value if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant) else ""
        if said:  # tables have a section of their own
            yield node.target.id, _default(node.value), " ".join(str(said).split())


def _default(value: ast.expr | None) -> str:
    if value is None:
        return "required"
    if isinstance(value, ast.Call):
        return "see below"
    text = ast.unparse(value).replace("'", '"')
    return {"()": "none", "None": "none", "True": "`true`", "False": "`false`"}.get(text, f"`{text}`")


def _options(cls: type[Any]) -> str:
    named = [f.name if f.default is dataclasses.MISSING else f"{f.name} = {f.default}" for f in dataclasses.fields(cls)]
    return f"({', '.join(named)})" if named else ""


if __name__ == "__main__":
    main()
