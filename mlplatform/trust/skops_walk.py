"""A skops file's schema, node by node: exact names of types and of ways to build them."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import IO, Any

from mlplatform.trust.limits import MAX_JSON, MAX_RATIO, Unsafe
from mlplatform.trust.skops_names import SKOPS_NAMES

BUILDERS = frozenset(
    {
        "BytearrayNode",
        "BytesNode",
        "DTypeNode",
        "DefaultDictNode",
        "DictNode",
        "FunctionNode",
        "JsonNode",
        "ListNode",
        "LossNode",
        "MaskedArrayNode",
        "NdArrayNode",
        "ObjectNode",
        "PartialNode",
        "RandomGeneratorNode",
        "RandomStateNode",
        "SetNode",
        "SliceNode",
        "SparseMatrixNode",
        "TreeNode",
        "TupleNode",
        "TypeNode",
    }
)
"""Not here: MethodNode, OperatorFuncNode, ConstructorFromReduceNode: they take attributes or call what they name."""


def check(
    archive: zipfile.ZipFile,
    check_npy: Callable[[IO[bytes]], None],
    check_npz: Callable[[zipfile.ZipFile], None],
) -> None:
    """Unsafe for a name or a member that is not on the list."""
    if archive.getinfo("schema.json").file_size > MAX_JSON:
        raise Unsafe("the schema is too large")
    try:
        schema = json.loads(archive.read("schema.json"))
    except (ValueError, RecursionError) as error:
        raise Unsafe("the schema is not readable JSON") from error
    _check_nodes(schema)
    for info in archive.infolist():
        if info.filename.endswith(".npy"):
            with archive.open(info) as member:
                check_npy(member)
        elif info.filename.endswith(".npz"):
            _check_sparse(archive, info, check_npz)
        elif info.filename != "schema.json" and not info.filename.endswith(".bin"):
            raise Unsafe(f"a member of an unknown kind: {info.filename!r}")


def _check_nodes(schema: Any) -> None:
    """Every table that names a type must be a node with a known builder and a known name."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        if not isinstance(value, dict):
            continue
        if {"__class__", "__module__", "__loader__"} & set(value):
            _check_node(value)
        waiting.extend(value.values())


def _check_node(node: dict[str, Any]) -> None:
    builder = node.get("__loader__")
    name = f"{node.get('__module__')}.{node.get('__class__')}"
    if builder not in BUILDERS:
        raise Unsafe(f"it is built by {builder!r}, which is not on the list")
    if name not in SKOPS_NAMES:
        raise Unsafe(f"it holds {name}, which is not on the list of types that may be rebuilt")


def _check_sparse(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, check_npz: Callable[[zipfile.ZipFile], None]
) -> None:
    if info.file_size > MAX_RATIO * max(info.compress_size, 1 << 20):
        raise Unsafe("a sparse matrix that unpacks to far more than it is")
    with zipfile.ZipFile(io.BytesIO(archive.read(info))) as inner:
        check_npz(inner)
