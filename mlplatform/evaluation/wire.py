"""Tables between parent and child: `.npz` without pickles. Text and bytes are bytes with offsets and a mask of
gaps.
"""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from mlplatform.stats.batch import Array, Batch, Outputs

LARGEST_BYTES = 4 * 2**30


def save_batch(path: Path, batch: Batch) -> None:
    if batch.matrix is not None:
        _save(path, {"matrix": batch.matrix}, batch.names)
    else:
        columns = batch.arrays or {}
        _save(path, {f"column{i}": columns[name] for i, name in enumerate(batch.names)}, batch.names)


def load_batch(path: Path) -> Batch:
    arrays, names = _load(path)
    if "matrix" in arrays:
        return Batch(names, matrix=arrays["matrix"])
    return Batch(names, arrays={name: arrays[f"column{i}"] for i, name in enumerate(names)})


def save_outputs(path: Path, outputs: Mapping[str, Outputs]) -> None:
    """Several sets of answers by name; TypeError for answers that are neither numbers nor text."""
    arrays = {}
    for name, answers in outputs.items():
        arrays[f"{name}.predictions"] = plain(answers.predictions)
        if answers.scores is not None:
            arrays[f"{name}.scores"] = plain(answers.scores)
    _save(path, arrays, tuple(outputs))


def load_outputs(path: Path) -> dict[str, Outputs]:
    """ValueError for a file that is not what `save_outputs` writes."""
    arrays, names = _load(path)
    try:
        return {name: Outputs(arrays[f"{name}.predictions"], arrays.get(f"{name}.scores")) for name in names}
    except KeyError as error:
        raise ValueError(f"answers without {error}") from error


def plain(values: Array) -> Array:
    """An object array as numbers, booleans or text; TypeError for anything else."""
    values = np.asarray(values)
    if values.dtype != object or _is_text(values):
        return values
    unwrapped = np.array(values.tolist())
    if unwrapped.dtype.kind not in "biufM" or unwrapped.shape != values.shape:
        raise TypeError(f"answers are neither numbers nor text, but {type(values.flat[0]).__name__}")
    return unwrapped


def _save(path: Path, arrays: Mapping[str, Array], names: tuple[str, ...]) -> None:
    parts: dict[str, Array] = {"names": np.frombuffer(json.dumps(names).encode(), dtype=np.uint8)}
    for key, values in arrays.items():
        if values.dtype != object:
            parts[key] = values
            continue
        flat = values.ravel().tolist()
        kind = "bytes" if any(isinstance(v, bytes) for v in flat) else "text"
        encoded = [_encoded(v) for v in flat]
        parts[f"{key}:{kind}"] = np.frombuffer(b"".join(encoded), dtype=np.uint8)
        parts[f"{key}:shape"] = np.array(values.shape, dtype=np.int64)
        parts[f"{key}:ends"] = np.cumsum([len(v) for v in encoded], dtype=np.int64)
        parts[f"{key}:gaps"] = np.array([v is None for v in flat], dtype=np.bool_)
    np.savez(path, **parts)  # type: ignore[arg-type]


def _load(path: Path) -> tuple[dict[str, Array], tuple[str, ...]]:
    try:
        with _open_file(path) as raw:
            with zipfile.ZipFile(raw) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > LARGEST_BYTES:
                    raise ValueError("a table of more than 4 GB")
            raw.seek(0)
            with np.load(raw, allow_pickle=False) as file:
                parts = {key: file[key] for key in file.files}
        names = tuple(map(str, json.loads(parts.pop("names").tobytes())))
        arrays = {key: values for key, values in parts.items() if ":" not in key}
        texts = [key.rpartition(":") for key in parts if key.endswith((":text", ":bytes"))]
        return {**arrays, **{key: _objects(parts, key, kind) for key, _, kind in texts}}, names
    except (OSError, KeyError, EOFError, TypeError, zipfile.BadZipFile) as error:
        raise ValueError(f"not a table: {error}") from error


def _open_file(path: Path) -> IO[bytes]:
    """An ordinary file only: a link or a pipe left there by a hostile child must not be followed or waited
    for.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise ValueError(f"{path.name} is no ordinary file")
    return os.fdopen(handle, "rb")


def _encoded(value: Any) -> bytes:
    if value is None or isinstance(value, bytes):
        return value or b""
    return str(value).encode("utf-8", "surrogatepass")


def _objects(parts: Mapping[str, Array], key: str, kind: str) -> Array:
    """Text, or bytes."""
    blob, start = parts[f"{key}:{kind}"].tobytes(), 0
    out = np.empty(len(parts[f"{key}:ends"]), dtype=object)
    for i, (end, gap) in enumerate(
        zip(parts[f"{key}:ends"].tolist(), parts[f"{key}:gaps"].tolist(), strict=True)
    ):
        value = blob[start:end]
        out[i] = None if gap else value if kind == "bytes" else value.decode("utf-8", "surrogatepass")
        start = end
    return out.reshape(parts[f"{key}:shape"].tolist())


def _is_text(values: Array) -> bool:
    return all(v is None or isinstance(v, (str, bytes)) for v in values.ravel().tolist())
