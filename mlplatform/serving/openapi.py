"""`/openapi.json`: what this server takes and answers now, from the manifests of the loaded models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlplatform.domain.bundle import Column
from mlplatform.serving.predictor import Arm, Table
from mlplatform.serving.protocols import tensors
from mlplatform.serving.protocols.v2 import datatypes
from mlplatform.serving.values import FLOAT32_MAX, RANGES

Schema = dict[str, Any]
_TEXT = {"type": "string"}
_TIME = r"^(1[7-9]\d\d|2[01]\d\d)-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])(T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?Z?)?$"
_BINARY = "application/octet-stream"
_EXAMPLES = {
    "boolean": True,
    "integer": 1,
    "long": 1,
    "float": 0.5,
    "double": 0.5,
    "string": "text",
    "datetime": "2026-01-31T12:00:00Z",
}
"""Made up: a bundle's sample holds real rows."""
_LABEL = {
    "type": "object",
    "required": ["id", "label"],
    "additionalProperties": False,
    "properties": {
        "id": {"type": "string", "maxLength": 200, "pattern": "^.+/[0-9]+$"},
        "label": {
            "oneOf": [
                {"type": "string", "maxLength": 1000},
                {"type": "number", "exclusiveMinimum": -(2**63), "exclusiveMaximum": 2**63},
                {"type": "boolean"},
            ]
        },
    },
}
_LABELS = {
    "type": "object",
    "required": ["labels"],
    "additionalProperties": False,
    "properties": {"labels": {"type": "array", "minItems": 1, "items": _LABEL}},
}
_COMPONENTS: dict[str, Schema] = {
    "Error": {
        "type": "object",
        "required": ["error_code", "message"],
        "properties": {"error_code": _TEXT, "message": _TEXT},
    },
    "V2Error": {"type": "object", "required": ["error"], "properties": {"error": _TEXT}},
    "Tensor": {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": _TEXT,
            "datatype": {"enum": list(tensors.NUMPY)},
            "shape": {"type": "array", "items": {"type": "integer"}},
            "data": {"type": "array"},
            "parameters": {"type": "object"},
        },
    },
    "InferAnswer": {
        "type": "object",
        "required": ["model_name", "model_version", "id", "outputs"],
        "properties": {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "id": _TEXT,
            "outputs": {"type": "array", "items": {"$ref": "#/components/schemas/Tensor"}},
        },
    },
    "Predictions": {
        "type": "object",
        "required": ["predictions"],
        "properties": {"predictions": {"type": "array"}},
    },
    "Health": {
        "type": "object",
        "required": ["status", "generation", "models"],
        "properties": {
            "status": _TEXT,
            "ready": {"type": "boolean"},
            "generation": {"type": "integer"},
            "models": {"type": "array", "items": {"type": "object"}},
            "rejected": {"type": ["integer", "null"]},
            "error": _TEXT,
        },
    },
}


def document(table: Table, version: str) -> Schema:
    """An OpenAPI 3.1 document of the models in a table."""
    paths: Schema = {**_pages(), "/labels": {"post": _labels()}}
    if table.arms:
        paths["/invocations"] = {"post": _invocations(table.arms)}
    for model in dict.fromkeys(arm.route.model for arm in table.arms):
        arms = table.named(model)
        paths.update(_model(f"/v2/models/{model}", arms))
        for arm in arms:
            paths.update(_model(f"/v2/models/{model}/versions/{arm.route.version}", [arm]))
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlplatform model server", "version": version},
        "paths": paths,
        "components": {"schemas": _COMPONENTS},
    }


def column_schema(column: Column) -> Schema:
    """A value of a column in JSON. Integers and booleans have no missing values, except where a column is left out."""
    if column.dtype in RANGES:
        end = RANGES[column.dtype]
        return {"type": "integer", "minimum": -end, "maximum": end - 1}
    if column.dtype == "boolean":
        return {"type": "boolean"}
    if column.dtype == "datetime":
        return {"type": ["string", "null"], "pattern": _TIME}
    if column.dtype == "float":
        return {"type": ["number", "null"], "minimum": -FLOAT32_MAX, "maximum": FLOAT32_MAX}
    return {"type": [{"double": "number", "string": "string"}[column.dtype], "null"]}


def _pages() -> Schema:
    health = {"200": _answer("Health"), "503": _answer("Health")}
    known = {"type": "object"}
    return {
        "/ping": {"get": _operation("ping", {"200": _text("text/plain")})},
        "/version": {"get": _operation("version", {"200": _text("text/plain")})},
        "/metrics": {"get": _operation("metrics", {"200": _text("text/plain")})},
        "/openapi.json": {"get": _operation("openapi", {"200": _json(known)})},
        "/health": {"get": _operation("health", health)},
        "/v2": {"get": _operation("v2_server", {"200": _json(known)})},
        "/v2/health/live": {"get": _operation("v2_live", {"200": _json(known)})},
        "/v2/health/ready": {"get": _operation("v2_ready", health)},
    }


def _labels() -> Schema:
    answers = {"200": _json({"type": "object", "required": ["accepted"]}), **_problems("Error")}
    return _operation("labels", answers, {"application/json": {"schema": _LABELS}})


def _invocations(arms: Sequence[Arm]) -> Schema:
    forms = [form for arm in arms for form in _forms(arm)]
    content = {
        "application/json": {
            "schema": {"anyOf": forms},
            "example": {"dataframe_records": [{c.name: _EXAMPLES[c.dtype] for c in _columns(arms)}]},
        },
        "text/csv": {"schema": {"type": "string", "description": "a header with the columns, then rows"}},
    }
    return _operation("invocations", {"200": _answer("Predictions"), **_problems("Error")}, content)


def _forms(arm: Arm) -> list[Schema]:
    columns, context = arm.bundle.manifest.inputs, arm.rows.context
    names = [column.name for column in columns]
    row = {
        "type": "array",
        "prefixItems": [column_schema(column) for column in columns],
        "minItems": len(columns),
        "maxItems": len(columns),
    }
    rows = {"type": "array", "minItems": 1, "items": row}
    records = {"type": "array", "minItems": 1, "items": _record(columns, context)}
    split = _object(
        {"columns": {"const": names}, "data": rows, "index": {"type": ["array", "null"]}}, ["columns", "data"]
    )
    forms = {"dataframe_split": split, "dataframe_records": records}
    return [
        *(_object({name: form}, [name]) for name, form in forms.items()),
        *(_object({name: {"anyOf": [rows, records]}}, [name]) for name in ("instances", "inputs")),
    ]


def _record(columns: Iterable[Column], context: Iterable[str]) -> Schema:
    columns = tuple(columns)
    beside: Schema = {"type": ["string", "number", "boolean", "null"]}
    known = {**dict.fromkeys(sorted(context), beside), **{c.name: column_schema(c) for c in columns}}
    return _object(known, [column.name for column in columns if column.required])


def _model(path: str, arms: Sequence[Arm]) -> Schema:
    key = path.removeprefix("/v2/models/").replace("/", "_")
    known, missing = {"type": "object"}, {"404": _answer("V2Error")}
    answer = _answer("InferAnswer")
    answer["content"][_BINARY] = {"schema": {}}
    content: Schema = {
        "application/json": {
            "schema": {"anyOf": [_infer(arm) for arm in arms]},
            "example": {"inputs": [_example(column) for column in _columns(arms)]},
        },
        _BINARY: {"schema": {}},
    }
    infer = _operation(f"infer_{key}", {"200": answer, **_problems("V2Error"), **missing}, content)
    infer["parameters"] = [
        {
            "name": "Inference-Header-Content-Length",
            "in": "header",
            "description": "bytes of JSON before the binary tensors",
            "schema": {"type": "integer", "minimum": 0},
        }
    ]
    return {
        path: {"get": _operation(f"model_{key}", {"200": _json(known), **missing})},
        f"{path}/ready": {"get": _operation(f"ready_{key}", {"200": _json(known), **missing})},
        f"{path}/infer": {"post": infer},
    }


def _infer(arm: Arm) -> Schema:
    columns = arm.bundle.manifest.inputs
    inputs = [_input(column) for column in columns]
    if arm.rows.numeric:
        shape = {"type": "array", "prefixItems": [{"type": "integer"}, {"const": len(columns)}]}
        inputs.append(
            _tensor(_TEXT, datatypes(Column("", "double")), {**shape, "minItems": 2, "maxItems": 2}, {})
        )
    flags: Schema = {"type": "object", "properties": {"binary_data_output": {"type": "boolean"}}}
    output = {"type": "object", "required": ["name"], "properties": {"name": {"enum": _outputs(arm)}}}
    schema = _object(
        {
            "id": _TEXT,
            "inputs": {"type": "array", "minItems": 1, "items": {"anyOf": inputs}},
            "outputs": {"type": "array", "items": output},
            "parameters": flags,
        },
        ["inputs"],
    )
    return {**schema, "additionalProperties": True}


def _input(column: Column) -> Schema:
    one: Schema = {"type": "integer", "minimum": 1}
    shape = {"type": "array", "prefixItems": [one, {"const": 1}], "minItems": 1, "maxItems": 2}
    return _tensor({"const": column.name}, datatypes(column), shape, column_schema(column))


def _tensor(name: Schema, types: Iterable[str], shape: Schema, value: Schema) -> Schema:
    data = {"type": "array", "items": {"anyOf": [value, {"type": "array", "items": value}]}}
    known = {"name": name, "datatype": {"enum": list(types)}, "shape": shape, "data": data}
    schema = _object({**known, "parameters": {"type": "object"}}, ["name", "datatype", "shape"])
    return {**schema, "additionalProperties": True}


def _example(column: Column) -> Schema:
    datatype = tensors.COLUMN_DATATYPES[column.dtype]
    return {"name": column.name, "datatype": datatype, "shape": [1], "data": [_EXAMPLES[column.dtype]]}


def _columns(arms: Sequence[Arm]) -> Sequence[Column]:
    return max(arms, key=lambda arm: arm.route.share).bundle.manifest.inputs


def _outputs(arm: Arm) -> list[str]:
    return [output.name for output in arm.bundle.outputs]


def _object(properties: Mapping[str, Schema], required: Sequence[str]) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(required),
        "additionalProperties": False,
    }


def _operation(key: str, answers: Schema, content: Schema | None = None) -> Schema:
    operation: Schema = {"operationId": key, "responses": answers}
    if content is not None:
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _problems(name: str) -> Schema:
    return {status: _answer(name) for status in ("400", "413", "415", "500", "503")}


def _answer(name: str) -> Schema:
    return _json({"$ref": f"#/components/schemas/{name}"})


def _json(schema: Schema) -> Schema:
    return {"description": "JSON", "content": {"application/json": {"schema": schema}}}


def _text(kind: str) -> Schema:
    return {"description": "text", "content": {kind: {"schema": _TEXT}}}
