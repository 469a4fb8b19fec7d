"""The JSON schema of `policy.toml`, for editors and for people."""

from __future__ import annotations

from typing import Any

from mlplatform import catalog
from mlplatform.config.policy_file import EXTENSIONS
from mlplatform.config.validate import adapter
from mlplatform.domain.policy import Policy


def policy_schema() -> dict[str, Any]:
    """JSON schema (2020-12) of the file as people write it, every extension with its own options."""
    definitions: dict[str, Any] = {}
    policy = _collect(Policy, definitions)
    definitions["Ladder"] = {"type": "array", "items": {"type": "string"}, "minItems": 1}
    for place, kind in EXTENSIONS.items():
        owner = _owner(place, policy, definitions)
        owner["properties"][place[-1]]["items"] = {"$ref": f"#/$defs/{kind}"}
        definitions[kind] = _choices(kind, definitions)
    del definitions["Use"]
    title = "A policy of mlplatform"
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **policy,
        "title": title,
        "$defs": definitions,
    }


def _collect(cls: type[Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """A class's own schema; what it refers to goes to the definitions."""
    schema = adapter(cls).model_json_schema(ref_template="#/$defs/{model}")
    definitions.update(schema.get("$defs", {}))
    own: dict[str, Any] = definitions.pop(cls.__name__)
    return own


def _owner(place: tuple[str, ...], policy: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The table that names extensions under the last key of the place."""
    owner = policy
    for part in place[:-1]:
        table = owner["additionalProperties"] if part == "*" else owner["properties"][part]
        owner = definitions[table["$ref"].rpartition("/")[2]] if "$ref" in table else table
    return owner


def _choices(kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Any extension of a kind: its table, or just its name."""
    tables = [_table(kind, name, definitions) for name in catalog.names(kind)]
    return {"anyOf": [{"enum": list(catalog.names(kind))}, *tables]}


def _table(kind: str, name: str, definitions: dict[str, Any]) -> dict[str, Any]:
    options = _collect(catalog.find(kind, name), definitions)
    properties = {"use": {"const": name}, **options.get("properties", {})}
    return {
        "type": "object",
        "description": options.get("description", ""),
        "properties": properties,
        "required": ["use", *options.get("required", [])],
        "additionalProperties": False,
    }
