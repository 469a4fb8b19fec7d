"""The JSON part of an `infer` request -> inputs, and how the answer is wanted. Problem names the field."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from mlplatform.serving.bodies import first_repeated
from mlplatform.serving.problems import Problem
from mlplatform.serving.protocols import tensors
from mlplatform.serving.protocols.tensors import Described
from mlplatform.serving.values import kind_of

MAX_ROWS = 2**31
MAX_RANK = 8
MAX_INPUTS = 10_000


class Given(NamedTuple):
    """An input as the JSON part describes it: with its values, or with how many bytes of the body they take."""

    tensor: Described
    data: Any = None
    size: int | None = None
    plain: bool = False
    """Whether the data is known to be as many finite floats as the shape says."""


class Wanted(NamedTuple):
    """How the answer is to be given."""

    id: str = ""
    binary: bool = False
    outputs: tuple[tuple[str, bool], ...] = ()
    """Names, and whether each is binary; all when empty."""
    parameters: Mapping[str, Any] = MappingProxyType({})
    """Of the request, but for those of the protocol."""


Request = tuple[tuple[Given, ...], Wanted]


class _Floats(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An input of plain numbers."""

    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _Plain(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A request that asks for nothing special."""

    inputs: list[_Floats]
    id: str = ""


_quick = msgspec.json.Decoder(_Plain).decode


def quick_request(body: bytes) -> Request | None:
    """The quick way, for flat lists of floats; None where only the careful way can tell what is wrong."""
    try:
        request = _quick(body)
    except (ValueError, RecursionError):
        return None
    if len(request.inputs) > MAX_INPUTS:
        return None
    # A key that is written twice has quotes that no field accounts for.
    if body.count(b'"') != 2 + 12 * len(request.inputs) + (4 if request.id else 0):
        return None
    given = []
    for item in request.inputs:
        if item.datatype not in ("FP32", "FP64") or not 1 <= len(item.shape) <= MAX_RANK or not item.name:
            return None
        described = Described(item.name, item.datatype, tuple(item.shape))
        if min(item.shape) < 1 or described.elements != len(item.data):
            return None
        given.append(Given(described, item.data, plain=True))
    distinct = len({g.tensor.name for g in given}) == len(given) > 0
    return (tuple(given), Wanted(request.id)) if distinct else None


def read_request(body: Any) -> Request:
    """The JSON part; Problem names the field."""
    if not isinstance(body, dict):
        raise Problem(f"expected an object with 'inputs', got {kind_of(body)}")
    inputs = body.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise Problem(f"field 'inputs': expected a list of tensors, got {_seen(inputs)}")
    if len(inputs) > MAX_INPUTS:
        raise Problem(f"field 'inputs': expected at most {MAX_INPUTS} tensors, got {len(inputs)}")
    given = tuple(_given(i, item) for i, item in enumerate(inputs))
    if (twice := first_repeated(g.tensor.name for g in given)) is not None:
        raise Problem(f"input {twice!r} is given twice")
    key = body.get("id", "")
    if not isinstance(key, str):
        raise Problem(f"field 'id': expected text, got {kind_of(key)}")
    parameters = dict(_parameters(body, "the request"))
    binary = _flag(parameters, "binary_data_output", False, "the request")
    parameters.pop("binary_data_output", None)
    return given, Wanted(key, binary, _wanted_outputs(body, binary), parameters)


def _given(i: int, item: Any) -> Given:
    if not isinstance(item, dict):
        raise Problem(
            f"input {i}: expected an object with name, shape, datatype and data, got {kind_of(item)}"
        )
    name, datatype, shape = item.get("name"), item.get("datatype"), item.get("shape")
    if not isinstance(name, str) or not name:
        raise Problem(f"input {i}: expected 'name' as text, got {_seen(name)}")
    if not isinstance(datatype, str) or datatype not in tensors.NUMPY:
        shown = repr(datatype[:40]) if isinstance(datatype, str) else kind_of(datatype)
        raise Problem(f"input {name!r}: expected 'datatype' one of {', '.join(tensors.NUMPY)}, got {shown}")
    described = Described(name, datatype, _shape(name, shape))
    parameters = _parameters(item, f"input {name!r}")
    if "shared_memory_region" in parameters:
        raise Problem(f"input {name!r}: shared memory is not supported; send the values")
    size = parameters.get("binary_data_size")
    if (size is None) == ("data" not in item):
        raise Problem(f"input {name!r}: expected either 'data' or the parameter 'binary_data_size'")
    if size is not None and (type(size) is not int or not 0 <= size < 2**63):
        raise Problem(f"input {name!r}: expected 'binary_data_size' as a number of bytes, got {_seen(size)}")
    return Given(described, item.get("data"), size)


def _shape(name: str, shape: Any) -> tuple[int, ...]:
    whole = isinstance(shape, list) and all(type(n) is int for n in shape)
    if not whole or not 1 <= len(shape) <= MAX_RANK or not all(0 <= n < MAX_ROWS for n in shape):
        shown = str(shape)[:60] if whole else _seen(shape)
        raise Problem(
            f"input {name!r}: expected 'shape' as [rows], [rows, columns] or that of the tensor, got {shown}"
        )
    if len(shape) > 2 and not all(shape):  # as an array its other lengths may be more than NumPy can count
        raise Problem(f"input {name!r}: shape {str(shape)[:60]} holds no values")
    return tuple(shape)


def _wanted_outputs(body: dict[str, Any], binary: bool) -> tuple[tuple[str, bool], ...]:
    outputs = body.get("outputs")
    if outputs is None:
        return ()
    if not isinstance(outputs, list):
        raise Problem(f"field 'outputs': expected a list of outputs, got {kind_of(outputs)}")
    wanted: dict[str, bool] = {}
    for i, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str):
            raise Problem(f"output {i}: expected an object with a 'name', got {_seen(output)}")
        if name in wanted:
            raise Problem(f"output {name!r} is asked for twice")
        parameters = _parameters(output, f"output {name!r}")
        for unsupported in ("classification", "shared_memory_region"):
            if unsupported in parameters:
                raise Problem(f"output {name!r}: the parameter {unsupported!r} is not supported")
        wanted[name] = _flag(parameters, "binary_data", binary, f"output {name!r}")
    return tuple(wanted.items())


def _parameters(holder: dict[str, Any], where: str) -> dict[str, Any]:
    found = holder.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise Problem(f"{where}: expected 'parameters' as an object, got {kind_of(found)}")
    return found


def _flag(parameters: dict[str, Any], name: str, default: bool, where: str) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise Problem(f"{where}: expected the parameter {name!r} as true or false, got {_seen(value)}")
    return value


def _seen(value: Any) -> str:
    if isinstance(value, list) and not value:
        return "an empty list"
    return f"{value}"[:40] if type(value) in (int, float) else kind_of(value)
