"""Reads a `.pt2` archive without running it and refuses what could run code when torch loads it.

`torch.export.load` unpickles every record that the archive marks as pickled, resolves operators by dotted name
from `torch` (`torch.hub.load` is one), and gives symbolic shapes to `sympy.sympify`, which evaluates Python.
"""

from __future__ import annotations

import io
import json
import pickletools
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlplatform.errors import UnsafeArtifact

_PLAIN_RECORDS = re.compile(r"archive_format|archive_version|byteorder|\.data/version|\.data/serialization_id")
_PLAIN_CONTENT = re.compile(rb"[A-Za-z0-9._-]{1,64}\n?")
_CONFIG = re.compile(r"data/(weights|constants)/[\w.-]+_config\.json")
_OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file)\w+(\.\w+)?"
    r"|_operator\.(getitem|add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|torch\.sym_(int|float|max|min|not|ite|sqrt)|math\.(ceil|floor|trunc)"
)
_SYMBOL = re.compile(
    r"[suz]\d+|\d*\.?\d+(e[+-]?\d+)?|Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|PythonMod|FloorDiv"
    r"|CleanDiv|CeilDiv|ToFloat|IntTrueDiv|oo|int_oo|True|False|positive|nonnegative|integer|zero|real|precision"
)
_NAME = re.compile(r"'([suz]\d+|-?\d+\.?\d*)'")
_WORD = re.compile(r"[A-Za-z_][\w.]*|\d[\w.]*")
_TENSOR_PARTS = re.compile(
    r"torch \w+Storage|torch\.storage UntypedStorage|collections OrderedDict"
    r"|torch\._utils _rebuild_(tensor_v2|parameter)|torch Size"
)
_SIGNS = re.compile(r"[\w\s.+\-*/(),<>=]*")


def check_archive(path: Path, name: str) -> None:
    """Raises UnsafeArtifact, naming the record."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = _records(archive)
            raw = _raw_tensors(archive, records)
            for record, full in records.items():
                if record not in raw and (why := _fault(record, archive.read(full))):
                    raise UnsafeArtifact(path=f"{name}:{record}", why=why)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile, RecursionError) as error:
        raise UnsafeArtifact(path=name, why=f"it is no exported program: {error}") from error


def _records(archive: zipfile.ZipFile) -> dict[str, str]:
    """Full names by their name below the archive's one top folder."""
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    if len(set(names)) != len(names) or len({n.partition("/")[0] for n in names}) != 1:
        raise ValueError("records are doubled or in several folders")
    return {full.partition("/")[2]: full for full in names}


def _raw_tensors(archive: zipfile.ZipFile, records: dict[str, str]) -> set[str]:
    """Records that torch reads as plain numbers, as every entry about them says."""
    raw, pickled = set(), set()
    for record, full in records.items():
        if not _CONFIG.fullmatch(record):
            continue
        folder = record.rpartition("/")[0]
        for entry in json.loads(archive.read(full))["config"].values():
            plain = entry["use_pickle"] is False and re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"])
            (raw if plain else pickled).add(f"{folder}/{entry['path_name']}")
    return raw - pickled


def _fault(record: str, content: bytes) -> str:
    if _PLAIN_RECORDS.fullmatch(record):
        return "" if _PLAIN_CONTENT.fullmatch(content) else "it is not a plain setting"
    if _CONFIG.fullmatch(record):
        return ""
    if re.fullmatch(r"models/[\w.-]+\.json", record):
        return _graph_fault(json.loads(content))
    if record.startswith("data/"):
        return _tensor_fault(content)
    return "an exported program has no such record"


def _graph_fault(program: Any) -> str:
    for key, value in _pairs(program):
        if key == "target" and isinstance(value, str) and not _OPERATORS.fullmatch(value):
            return f"the operator {value[:80]!r} is not one of ATen's"
        if key in ("expr_str", "as_expr") and isinstance(value, str) and not _is_arithmetic(value):
            return f"the shape {value[:80]!r} is not plain arithmetic"
    return ""


def _is_arithmetic(expression: str) -> bool:
    bare = _NAME.sub(r"\1", expression)
    words = _WORD.findall(bare)
    return bool(_SIGNS.fullmatch(bare)) and all(_SYMBOL.fullmatch(word) for word in words)


def _tensor_fault(content: bytes) -> str:
    """Whether a file of `torch.save` names anything but tensors, without unpickling it."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        pickles = [name for name in archive.namelist() if name.endswith(".pkl")]
        if len(pickles) != 1 or not pickles[0].endswith("/data.pkl"):
            return "it is no file of torch.save"
        for opcode, argument, _ in pickletools.genops(archive.read(pickles[0])):
            if opcode.name == "GLOBAL" and not _TENSOR_PARTS.fullmatch(str(argument)):
                return f"it holds more than tensors: {str(argument)[:80]!r}"
            if opcode.name in ("STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"):
                return "it hides what it refers to"
    return ""


def _pairs(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            yield from item.items()
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
