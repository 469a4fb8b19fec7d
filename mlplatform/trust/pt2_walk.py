"""A torch exported program (`.pt2`): tensors as plain bytes, a graph of known operators, no pickled objects.

`torch.export.load` would run code hidden in three places: pickled tensors and constants, the sample inputs (read again
without `weights_only` when the safe way fails), and symbolic shapes, which `sympify` evaluates.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from pathlib import PurePosixPath
from typing import Any

from mlplatform.trust.limits import MAX_JSON, MAX_PICKLE, Unsafe

_MEMBERS = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/version|\.data/serialization_id"
    r"|\.format_version|\.storage_alignment"
    r"|models/\w+\.json|data/weights/(weight_\d+|\w+_weights_config\.json)"
    r"|data/constants/(tensor_\d+|\w+_constants_config\.json)|data/sample_inputs/\w+\.pt)"
)
_SAMPLE_MEMBERS = re.compile(
    r"\w+/(data\.pkl|byteorder|version|\.data/serialization_id|\.format_version|\.storage_alignment|data/\d+)"
)
_LOOKED_UP = ("torch", "_operator", "math", "#")
"""What torch looks up by name when a target starts so; other targets stay text (names of parameters)."""
_TARGET = re.compile(
    r"torch\.ops\.aten\.[a-z_][a-z0-9_]*\.[A-Za-z][A-Za-z0-9_]*"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\.(sym_int|sym_float|sym_max|sym_min|sym_not|sym_ite)"
)
_WORDS = re.compile(
    r"[su]\d+|Symbol|Integer|Rational|Float|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv|TruncToInt"
    r"|ToFloat|Eq|Ne|And|Or|Not|int_oo|oo|True|False|true|false|positive|nonnegative|integer|real"
)
"""All that sympy may read in a shape."""
_SHAPE = re.compile(r"[A-Za-z0-9_ +\-*/%(),<>=!&|~]*")
_TREES = frozenset({"builtins.tuple", "builtins.list", "builtins.dict", None})
_FLOATS, _WHOLE = ("Float", "Double", "Half", "BFloat16"), ("Byte", "Char", "Short", "Int", "Long")
_GLOBALS = frozenset(
    {
        ("torch._utils", "_rebuild_tensor_v2"),
        ("collections", "OrderedDict"),
        *(("torch", f"{kind}Storage") for kind in (*_FLOATS, *_WHOLE, "Bool")),
    }
)
_FORBIDDEN_OPCODES = frozenset(
    {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "LONG_BINPUT", "PERSID"}
)


def check(archive: zipfile.ZipFile) -> None:
    """Unsafe for a member, an operator, a shape or a pickled name that is not on the list."""
    graphs = 0
    for info in archive.infolist():
        name = "/".join(PurePosixPath(info.filename).parts[1:])  # below the archive's own top folder
        if not _MEMBERS.fullmatch(name):
            raise Unsafe(f"a member of an unknown kind: {info.filename!r}")
        if name.endswith(".json"):
            _check_json(_json(archive, info), name)
            graphs += name.startswith("models/")
        elif name.endswith(".pt"):
            _check_samples(archive, info)
    if not graphs:
        raise Unsafe("it holds no graph")


def _json(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    if info.file_size > MAX_JSON:
        raise Unsafe(f"{info.filename} is too large")
    try:
        return json.loads(archive.read(info))
    except (ValueError, RecursionError) as error:
        raise Unsafe(f"{info.filename} is not readable JSON") from error


def _check_json(document: Any, where: str) -> None:
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            for key, item in value.items():
                _check_entry(key, item, where)
            waiting.extend(value.values())


def _check_entry(key: str, value: Any, where: str) -> None:
    if key == "use_pickle" and value is not False:
        raise Unsafe(f"{where} says that a tensor is pickled")
    if key == "path_name" and not re.fullmatch(r"(weight|tensor)_\d+", str(value)):
        raise Unsafe(f"{where} refers to {value!r}")
    if key == "target" and isinstance(value, str) and value.startswith(_LOOKED_UP):
        if not _TARGET.fullmatch(value):
            raise Unsafe(f"the graph calls {value}, which is not on the list of operators")
    elif key == "target" and not isinstance(value, (str, type(None))):
        raise Unsafe("the graph calls something without a name")
    if key in ("expr_str", "range_constraints"):
        for text in value if isinstance(value, dict) else [value]:
            _check_shape(text)
    if key in ("in_spec", "out_spec") and value:
        _check_tree(value)
    if key in ("as_custom_obj", "as_operator", "as_script_module") and value is not None:
        raise Unsafe(f"the graph uses {key}")


def _check_shape(text: Any) -> None:
    plain = re.sub(r"'([su]\d+)'", r"\1", str(text))  # Symbol('s31')
    words = re.findall(r"[A-Za-z_]\w*", plain)
    if not _SHAPE.fullmatch(plain) or not all(_WORDS.fullmatch(word) for word in words):
        raise Unsafe(f"a symbolic shape is not plain arithmetic: {str(text)[:60]!r}")


def _check_tree(text: Any) -> None:
    """How arguments are nested; named tuples and enums would be imported by name."""
    try:
        waiting = [json.loads(text)]
    except (ValueError, TypeError, RecursionError) as error:
        raise Unsafe("the nesting of the arguments is not readable") from error
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            if value.get("type") not in _TREES or "__enum__" in value:
                raise Unsafe(f"arguments are nested in {value.get('type')}")
            waiting.extend(value.get("children_spec") or [])
            if "__enum__" in str(value.get("context")) or "fqn" in str(value.get("context")):
                raise Unsafe("the nesting of the arguments names a class")


def _check_samples(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Sample inputs: a torch archive whose one pickle may name only tensors."""
    if info.file_size > MAX_JSON:
        raise Unsafe("the sample inputs are too large")
    if not info.file_size:
        return
    with zipfile.ZipFile(io.BytesIO(archive.read(info))) as inner:
        for member in inner.infolist():
            if not _SAMPLE_MEMBERS.fullmatch(member.filename):
                raise Unsafe(f"the sample inputs hold {member.filename!r}")
            if member.filename.endswith(".pkl"):
                if member.file_size > MAX_PICKLE:
                    raise Unsafe("the pickle of the sample inputs is too large")
                check_pickle(inner.read(member))


def check_pickle(raw: bytes) -> None:
    """Walk the opcodes of a protocol 2 pickle: only tensors, by exact names. Runs nothing."""
    try:
        for opcode, argument, _ in pickletools.genops(raw):
            if opcode.name in _FORBIDDEN_OPCODES:
                raise Unsafe(f"a pickle uses {opcode.name}")
            if opcode.name == "GLOBAL" and tuple(str(argument).split(" ", 1)) not in _GLOBALS:
                raise Unsafe(f"a pickle names {argument}")
    except (ValueError, IndexError, UnicodeDecodeError) as error:
        raise Unsafe("a pickle is damaged") from error
