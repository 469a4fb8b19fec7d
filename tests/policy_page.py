"""The reference part of docs/policy.md, from the code: `python -m tests.policy_page` writes it."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mlplatform import catalog
from mlplatform.config.validate import key_of
from mlplatform.domain import policy
from mlplatform.domain.approval import Demand
from mlplatform.domain.endpoint import Endpoint, Tls
from mlplatform.domain.freeze import Freeze
from mlplatform.domain.governor import Limits
from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.rollout_plan import Probation, RolloutPlan
from mlplatform.domain.use import Use

PAGE = Path(__file__).parent.parent / "docs" / "policy.md"
MARK = "<!-- from here on written by `python -m tests.policy_page` -->\n"
TABLES: dict[str, type[Any]] = {
    "": policy.Policy,
    "[data]": policy.Data,
    "[data] evaluate": policy.EvaluateOn,
    "[stages.NAME]": policy.Stage,
    "[stages.NAME] endpoint": Endpoint,
    "[stages.NAME] endpoint.limits": RequestLimits,
    "[stages.NAME] endpoint.tls": Tls,
    "[stages.NAME] approvals": Demand,
    "[stages.NAME] freeze": Freeze,
    "[stages.NAME] rollout": RolloutPlan,
    "[stages.NAME] probation": Probation,
    "[compress]": policy.Compress,
    "[capture]": policy.Capture,
    "[capture] keep": policy.Keep,
    "[watch]": policy.Watch,
    "[retrain]": policy.Retrain,
    "[retrain] governor": Limits,
    "[reconcile]": policy.Reconcile,
    "[gc]": policy.Gc,
    "[trust]": policy.Trust,
}
EXTENSIONS = {
    "gate": "Gates (`[stages.NAME] gates`)",
    "judge": "Judges (`[stages.NAME.rollout] judge`)",
    "technique": "Techniques (`[compress] steps`)",
    "metric": "Metrics (`[watch] metrics`)",
    "trigger": "Triggers (`[retrain] when`)",
    "target": "Targets (`endpoint.target`)",
}


def reference() -> str:
    """Every key of the policy, then every extension with its options."""
    parts = ["## Every key\n"]
    for name, cls in TABLES.items():
        parts.append(f"### `{name}`\n" if name else "### At the top\n")
        parts.append(_table(cls))
    parts.append("## Every extension\n")
    parts.append(
        'Written as a table with `use`, or just as a name where no option is given: `gates = ["serving_check"]`.\n'
    )
    for kind, title in EXTENSIONS.items():
        parts.append(f"### {title}\n")
        parts += [_extension(kind, name) for name in catalog.names(kind) if _built_in(kind, name)]
    return "\n".join(parts)


def _built_in(kind: str, name: str) -> bool:
    return catalog.names(kind)[name].startswith("mlplatform.")


def _extension(kind: str, name: str) -> str:
    cls = catalog.find(kind, name)
    told = inspect.cleandoc(cls.__doc__ or "")
    told = re.sub(r"^(\w+(?:, \w+)*): ", r"- `\1`: ", told, flags=re.MULTILINE)
    options = ", ".join(f"`{f.name}` {_default(f)}" for f in fields(cls))
    return f"**`{name}`**: {told}\n\nOptions: {options or 'none'}.\n"


def _table(cls: type[Any]) -> str:
    said, types = _docstrings(cls), get_type_hints(cls)
    rows = ["| key | kind | default | meaning |", "| --- | --- | --- | --- |"]
    for field in fields(cls):
        kind = _kind(types[field.name]).replace("|", "\\|")
        rows.append(f"| `{key_of(field.name)}` | {kind} | {_default(field)} | {said[field.name]} |")
    return "\n".join(rows) + "\n"


def _docstrings(cls: type[Any]) -> dict[str, str]:
    """The text below each field, in one line; "see below" for a table of its own."""
    [node] = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(node, ast.ClassDef)
    said = {f.name: "" for f in fields(cls)}
    last = ""
    for part in node.body:
        if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
            last = part.target.id
        elif isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and last in said:
            said[last] = " ".join(str(part.value.value).split())
            last = ""
    return {name: text or "see below" for name, text in said.items()}


def _kind(of: Any) -> str:
    if get_origin(of) in (Union, UnionType):
        return _kind(next(a for a in get_args(of) if a is not type(None)))
    if get_origin(of) is tuple:
        [item, *_] = get_args(of)
        if is_dataclass(item):
            return "list of extensions" if item is Use else "list of tables"
        return "list of text"
    if options := [repr(a) for a in get_args(of) if isinstance(a, str)]:
        return " or ".join(f"`{o[1:-1]}`" for o in options)
    if of is policy.Policy.__annotations__.get("ladder") or getattr(of, "__name__", "") == "Ladder":
        return "list of text"
    if is_dataclass(of) or get_origin(of) is not None:
        return "table"
    return {str: "text", int: "whole number", float: "number", bool: "true or false"}[of]


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return "none" if field.default is None else f"`{_toml(field.default)}`"
    if field.default_factory is MISSING:
        return "required"
    made = field.default_factory()
    return "its defaults" if is_dataclass(made) or isinstance(made, dict) else f"`{_toml(made)}`"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    return "[]" if value == () else str(value)


if __name__ == "__main__":
    PAGE.write_text(PAGE.read_text().partition(MARK)[0] + MARK + "\n" + reference())
