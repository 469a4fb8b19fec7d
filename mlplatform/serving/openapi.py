"""`/openapi.json`: what this server takes and answers now, from the manifests of the loaded models."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlplatform.domain.bundle import Column, Parameter
from mlplatform.serving.access import DETAILED, OPEN
from mlplatform.serving.models.predictor import Arm, Table
from mlplatform.serving.protocols import tensors
from mlplatform.serving.protocols.v2 import datatypes
from mlplatform.serving.values import BOUNDS, FLOAT64_MAX, FLOATS, limit_of

Schema = dict[str, Any]
LONGEST_EXAMPLE = 64
"""Values of a tensor."""
_TEXT = {"type": "string"}
_TIME = r"^(1[7-9]\d\d|2[01]\d\d)-(0[1-9]|1[0-2])-(0[1-9]|1\d|2[0-8])(T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?Z?)?$"
_BASE64 = r"^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
_BINARY = "application/octet-stream"
_EXAMPLES: dict[str, Any] = {
    **dict.fromkeys(BOUNDS, 1),
    **dict.fromkeys(FLOATS, 0.5),
    "boolean": True,
    "string": "text",
    "binary": "Ynl0ZXM=",
    "datetime": "2026-01-31T12:00:00Z",
}
"""Made up: a bundle's sample holds real rows."""
_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "mlp_<id>_<secret>_<checksum>",
    "description": "Scopes: `labels:<model>` for /labels, `metrics` for /metrics, `predict:<model>` for all else.",
}
_BRIEF = (
    "Without a token that holds for `metrics` or for predictions only `status`, of /v2/health/ready `ready`."
)
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
        "properties": {
            # Of a model with several outputs, each by its name.
            "predictions": {
                "oneOf": [{"type": "array"}, {"type": "object", "additionalProperties": {"type": "array"}}]
            }
        },
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
    if table.arms and len(table.models) == 1:
        paths["/invocations"] = {"post": _invocations(table.arms)}
    for model in dict.fromkeys(arm.route.model for arm in table.arms):
        arms = table.named(model)
        paths[f"/models/{model}/invocations"] = {"post": _invocations(arms, model)}
        paths.update(_model(f"/v2/models/{model}", arms))
        for arm in arms:
            paths.update(_model(f"/v2/models/{model}/versions/{arm.route.version}", [arm]))
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlplatform model server", "version": version},
        "paths": paths,
        "components": {"schemas": _COMPONENTS},
    }


def guarded(described: Schema) -> Schema:
    """A document of a server that demands tokens."""
    for path, operations in described["paths"].items():
        if path in DETAILED:
            operations["get"]["security"] = [{}, {"token": []}]
        if path in OPEN:
            continue
        said = "V2Error" if path.startswith("/v2") else "Error"
        for operation in operations.values():
            operation["security"] = [{"token": []}]
            operation["responses"].update({status: _answer(said) for status in ("401", "403")})
    schemas = {**_COMPONENTS, "Health": {**_COMPONENTS["Health"], "required": [], "description": _BRIEF}}
    described["components"] = {"schemas": schemas, "securitySchemes": {"token": _TOKEN}}
    return described


def column_schema(column: Column) -> Schema:
    """A value of a column in JSON. Integers and booleans have no missing values, except where a column is left out."""
    schema = _value_schema(column)
    for length in reversed(column.shape):
        exact = {} if length == -1 else {"maxItems": length}
        schema = {"type": "array", "items": schema, "minItems": max(length, 1), **exact}
    return schema


def _value_schema(column: Column) -> Schema:
    if column.dtype in BOUNDS:
        low, high = BOUNDS[column.dtype]
        return {"type": "integer", "minimum": low, "maximum": high}
    if column.dtype == "boolean":
        return {"type": "boolean"}
    if column.dtype == "datetime":
        return {"type": ["string", "null"], "pattern": _TIME}
    if column.dtype == "binary":
        kinds = "string" if column.required else ["string", "null"]
        return {"type": kinds, "pattern": _BASE64, "contentEncoding": "base64"}
    if column.dtype in FLOATS:
        limit = min(limit_of(column), FLOAT64_MAX)
        bounds = {} if column.dtype == "double" else {"minimum": -limit, "maximum": limit}
        return {"type": ["number", "null"], **bounds}
    return {"type": ["string", "null"]}


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


def _invocations(arms: Sequence[Arm], model: str = "") -> Schema:
    forms, columns = [form for arm in arms for form in _forms(arm)], _columns(arms)
    content = {
        "application/json": {
            "schema": {"anyOf": forms},
            **_example({"dataframe_records": [{c.name: _example_value(c) for c in columns}]}, columns),
        },
        "text/csv": {"schema": {"type": "string", "description": "a header with the columns, then rows"}},
    }
    key = f"invocations_{model}" if model else "invocations"
    return _operation(key, {"200": _answer("Predictions"), **_problems("Error")}, content)


def _forms(arm: Arm) -> list[Schema]:
    columns, context = arm.bundle.manifest.inputs, arm.rows.context
    names = [column.name for column in columns]
    row = {
        "type": "array",
        "prefixItems": [column_schema(column) for column in columns],
        "minItems": len(columns),
        "maxItems": len(columns),
    }
    rows: Schema = {"type": "array", "minItems": 1, "items": row}
    listed = [rows]
    if len(columns) == 1:  # the only column needs no name, and a tensor is a row by itself
        bare = {"type": "array", "minItems": 1, "items": column_schema(columns[0])}
        listed = [bare] if columns[0].shape else [rows, bare]
    records = {"type": "array", "minItems": 1, "items": _record(columns, context)}
    split = _object(
        {"columns": {"const": names}, "data": rows, "index": {"type": ["array", "null"]}}, ["columns", "data"]
    )
    forms = {"dataframe_split": split, "dataframe_records": records}
    known = {param.name: _param_schema(param) for param in arm.bundle.manifest.params}
    beside = {"params": {**_object(known, []), "type": ["object", "null"]}} if known else {}
    return [
        *(_object({name: form, **beside}, [name]) for name, form in forms.items()),
        *(
            _object({name: {"anyOf": [*listed, records]}, **beside}, [name])
            for name in ("instances", "inputs")
        ),
    ]


def _param_schema(param: Parameter) -> Schema:
    """A parameter in JSON: one value, or a list of them."""
    kind = {
        "integer": "integer",
        "long": "integer",
        "float": "number",
        "double": "number",
        "boolean": "boolean",
    }
    value: Schema = {"type": [kind.get(param.dtype, "string"), "null"]}
    if param.dtype == "datetime":
        value["pattern"] = _TIME
    default = {} if param.default is None else {"default": param.default}
    return {"type": "array", "items": value, **default} if param.shape else {**value, **default}


def _record(columns: Iterable[Column], context: Iterable[str]) -> Schema:
    columns = tuple(columns)
    beside: Schema = {"type": ["string", "number", "boolean", "null"]}
    known = {**dict.fromkeys(sorted(context), beside), **{c.name: column_schema(c) for c in columns}}
    return _object(known, [column.name for column in columns if column.required])


def _model(path: str, arms: Sequence[Arm]) -> Schema:
    key = path.removeprefix("/v2/models/").replace("/", "_")
    known, missing = {"type": "object"}, {"404": _answer("V2Error")}
    columns = _columns(arms)
    answer = _answer("InferAnswer")
    answer["content"][_BINARY] = {"schema": {}}
    content: Schema = {
        "application/json": {
            "schema": {"anyOf": [_infer(arm) for arm in arms]},
            **_example({"inputs": [_example_input(column) for column in columns]}, columns),
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
    params = {param.name: _param_schema(param) for param in arm.bundle.manifest.params}
    flags: Schema = {"type": "object", "properties": {**params, "binary_data_output": {"type": "boolean"}}}
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
    lengths = [one if n == -1 else {"const": n} for n in column.shape]
    items = [one, *(lengths or [{"const": 1}])]
    shape = {"type": "array", "prefixItems": items, "minItems": len(lengths) + 1, "maxItems": len(items)}
    return _tensor({"const": column.name}, datatypes(column), shape, _value_schema(column))


def _tensor(name: Schema, types: Iterable[str], shape: Schema, value: Schema) -> Schema:
    data = {"type": "array", "items": {"anyOf": [value, {"type": "array"}]}}
    known = {"name": name, "datatype": {"enum": list(types)}, "shape": shape, "data": data}
    schema = _object({**known, "parameters": {"type": "object"}}, ["name", "datatype", "shape"])
    return {**schema, "additionalProperties": True}


def _example(body: Any, columns: Sequence[Column]) -> Schema:
    """An example that can still be read; a picture's cannot."""
    small = all(math.prod(map(abs, column.shape)) <= LONGEST_EXAMPLE for column in columns)
    return {"example": body} if small else {}


def _example_input(column: Column) -> Schema:
    datatype = tensors.COLUMN_DATATYPES[column.dtype]
    shape = [1, *(max(n, 1) for n in column.shape)]
    data = [_example_value(column)]
    return {"name": column.name, "datatype": datatype, "shape": shape, "data": data}


def _example_value(column: Column) -> Any:
    value = _EXAMPLES[column.dtype]
    for length in reversed(column.shape):
        value = [value] * max(length, 1)
    return value


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
