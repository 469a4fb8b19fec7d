"""What a bundle says of itself: `manifest.json`, whose SHA-256 is the version's digest.

A bundle is an immutable folder::

    manifest.json      this page; its bytes are digested
    model/             the model's own files (MLflow layout, or model.onnx)
    sample.json        a few real rows as `{column: [values]}`: warm-up requests and the serving check
    reference.json     profile of the reference data (`mlplatform.stats.profile`), with `spec` and `profile`
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mlplatform.domain.canonical import canonical, plain

MAX_FILES, MAX_BYTES = 2_000, 4 << 30
"""What the folder of one model may hold."""

SAMPLE_ROWS, SAMPLE_BYTES, LEAST_SAMPLE_ROWS = 32, 2_000_000, 4
"""Of `sample.json`: JSON writes several characters for each byte of a tensor."""

Dtype = Literal[
    "boolean",
    "integer",
    "long",
    "float",
    "double",
    "string",
    "binary",
    "datetime",
    "int8",
    "int16",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
]
"""MLflow's names of the types of a signature; NumPy's names where only tensors have the type."""

NUMPY_DTYPES: dict[str, str] = {
    "boolean": "bool",
    "integer": "int32",
    "long": "int64",
    "float": "float32",
    "double": "float64",
    "string": "object",
    "binary": "object",
    "datetime": "datetime64[ns]",
    **{name: name for name in ("int8", "int16", "uint8", "uint16", "uint32", "uint64", "float16")},
}

ParameterType = Literal["boolean", "integer", "long", "float", "double", "string", "datetime"]
"""MLflow's names of the types of a signature's parameters."""

OutputKind = Literal["label", "probabilities", "logits", "value"]
"""What a runtime's `predictions` are: class labels, class probabilities, logits, or regression values."""


@dataclass(frozen=True)
class Column:
    name: str
    dtype: Dtype
    required: bool = True
    shape: tuple[int, ...] = ()
    """Of a tensor: what one row of it is like, -1 where any length will do. Empty: one value a row."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Column:
        """A column as JSON keeps it; TypeError when it is none."""
        return cls(**{**stored, "shape": tuple(stored.get("shape", ()))})


@dataclass(frozen=True)
class Parameter:
    """What a caller may send beside the rows, for all of them."""

    name: str
    dtype: ParameterType
    default: Any
    """As JSON has it, a list as a tuple; times are text."""
    shape: tuple[int, ...] = ()
    """(-1,) of a list; empty: one value."""

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Parameter:
        """A parameter as JSON keeps it; TypeError or ValueError when it is none."""
        made = cls(**{**stored, "shape": tuple(stored.get("shape", ()))})
        if made.dtype not in get_args(ParameterType) or made.shape not in ((), (-1,)):
            raise ValueError(f"not a parameter: {made}")
        return cls(made.name, made.dtype, tuple(made.default), made.shape) if made.shape else made


@dataclass(frozen=True)
class Task:
    """How to read the answers."""

    kind: Literal["classification", "regression"]
    output: OutputKind
    classes: tuple[str | int | float | bool, ...] = ()
    target: str = "target"


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds and how to run it."""

    runtime: str
    model_path: str
    """The model's file or folder, relative to the bundle."""
    inputs: tuple[Column, ...]
    task: Task
    files: Mapping[str, FileEntry]
    """Every file but the manifest itself, by path relative to the bundle, with `/`."""
    requirements: Mapping[str, str] = field(default_factory=dict)
    """Package versions that the model was made with, for native runtimes."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What only the runtime reads."""
    params: tuple[Parameter, ...] = ()
    """What a request may set besides its rows; the runtime gets them with the batch."""
    format: int = 1

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.inputs)

    @property
    def size_bytes(self) -> int:
        """Size of the model itself, without sample and reference."""
        return sum(f.size_bytes for path, f in self.files.items() if path.startswith("model/"))

    def encode(self) -> bytes:
        page = plain(self)
        for column in page["inputs"]:
            if not column["shape"]:  # bundles from before there were tensors keep their digest
                del column["shape"]
        if not self.params:  # and so do those without parameters
            del page["params"]
        return canonical(page)

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.encode()).hexdigest()

    @classmethod
    def decode(cls, raw: bytes) -> Manifest:
        """Read a manifest; ValueError when it is not one."""
        try:
            d = json.loads(raw)
            return cls(
                runtime=d["runtime"],
                model_path=d["model_path"],
                inputs=tuple(map(Column.of, d["inputs"])),
                task=Task(**{**d["task"], "classes": tuple(d["task"]["classes"])}),
                files={path: FileEntry(**f) for path, f in d["files"].items()},
                requirements=d["requirements"],
                options=d["options"],
                params=tuple(map(Parameter.of, d.get("params", ()))),
                format=d["format"],
            )
        except (KeyError, TypeError, AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a bundle manifest: {error!r}") from error


def sample_rows(row_bytes: int) -> int:
    """How many rows a sample has whose rows take so many bytes.

    >>> sample_rows(100), sample_rows(600_000), sample_rows(10**8)
    (32, 4, 4)
    """
    return max(LEAST_SAMPLE_ROWS, min(SAMPLE_ROWS, SAMPLE_BYTES // max(1, row_bytes)))


def differing_columns(wanted: Sequence[Column], given: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names that are missing and names that are extra."""
    names = {c.name for c in wanted}
    missing = [c.name for c in wanted if c.required and c.name not in set(given)]
    return missing, [name for name in given if name not in names]
