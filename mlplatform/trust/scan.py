"""What a file is, by content and never by its name; and whether its kind may be loaded. Executes nothing."""

from __future__ import annotations

import ast
import io
import json
import pickletools
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from mlplatform.trust import onnx_walk, pt2_walk, skops_walk
from mlplatform.trust.limits import MAX_BYTES, MAX_JSON, MAX_MEMBERS, MAX_RATIO, MAX_TEXT, Unsafe

TEXT_NAMES = frozenset({"MLmodel", "registered_model_meta"})
TEXT_ENDINGS = frozenset({".txt", ".json", ".yaml", ".yml", ".md", ".csv"})


def identify(path: Path, name: Path) -> str:
    """`skops`, `pt2`, `onnx`, `npz`, `npy`, `safetensors`, `parquet`, `json`, `text`; Unsafe for all else."""
    with path.open("rb") as file:
        head = file.read(16)
        file.seek(0)
        if head.startswith(b"PK\x03\x04"):
            return check_zip(file)
        if head.startswith(b"\x93NUMPY"):
            check_npy(file)
            return "npy"
        if head.startswith(b"PAR1"):
            return _tail(file, b"PAR1", "parquet")
        if head[8:9] == b"{" and _is_safetensors(file):
            return "safetensors"
        if (kind := _text(path, name)) is not None:
            return kind
        file.seek(0)
        if head[:1] == b"\x08" and onnx_walk.check(file):
            return "onnx"
    raise Unsafe(f"its format is not known ({_guess(head)})")


def check_zip(file: IO[bytes]) -> str:
    """The kind of a zip archive whose members were walked."""
    try:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive)
            names = archive.namelist()
            if "schema.json" in names:
                skops_walk.check(archive, check_npy, check_npz)
                return "skops"
            if any(PurePosixPath(n).name == "archive_format" for n in names):
                pt2_walk.check(archive)
                return "pt2"
            if names and all(n.endswith(".npy") for n in names):
                check_npz(archive)
                return "npz"
    except (zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError, NotImplementedError, EOFError) as error:
        raise Unsafe(f"it is a damaged archive: {error}") from error
    raise Unsafe("it is an archive of an unknown kind")


def check_npz(archive: zipfile.ZipFile) -> None:
    for name in archive.namelist():
        with archive.open(name) as member:
            check_npy(member)


def check_npy(file: IO[bytes]) -> None:
    """A numpy array without Python objects, whose header tells its type."""
    magic = file.read(8)
    width = {1: 2, 2: 4, 3: 4}.get(magic[6] if len(magic) == 8 else 0)
    if not magic.startswith(b"\x93NUMPY") or width is None:
        raise Unsafe("a member is not a numpy array")
    length = int.from_bytes(file.read(width), "little")
    if length > MAX_TEXT:
        raise Unsafe("a numpy header is too long")
    try:
        header = ast.literal_eval(file.read(length).decode("latin-1").strip())
        objects = _holds_objects(header["descr"])
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError) as error:
        raise Unsafe("a numpy header is not readable") from error
    if objects:
        raise Unsafe("a numpy array holds pickled objects")


def _holds_objects(descr: Any) -> bool:
    if isinstance(descr, str):
        return "O" in descr
    return any(_holds_objects(field[1]) for field in descr)


def _check_members(archive: zipfile.ZipFile) -> None:
    infos = archive.infolist()
    names = [i.filename for i in infos]
    if len(infos) > MAX_MEMBERS or len(set(names)) < len(names):
        raise Unsafe("an archive with too many members, or two of one name")
    unpacked, packed = sum(i.file_size for i in infos), sum(i.compress_size for i in infos)
    if unpacked > MAX_BYTES or unpacked > MAX_RATIO * max(packed, 1 << 20):
        raise Unsafe("an archive that unpacks to far more than it is")
    for info in infos:
        parts = PurePosixPath(info.filename).parts
        if info.filename.startswith("/") or ".." in parts or "\\" in info.filename:
            raise Unsafe(f"an archive with a path that leaves it: {info.filename!r}")
        if stat.S_ISLNK(info.external_attr >> 16) or info.flag_bits & 1:
            raise Unsafe(f"an archive with a link or a locked member: {info.filename!r}")


def _text(path: Path, name: Path) -> str | None:
    """`json` or `text` for text of a kind that models have; None when it is not text at all."""
    if path.stat().st_size > MAX_JSON:
        return None
    raw = path.read_bytes()
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    if any(ord(c) < 32 and c not in "\t\n\r\f" for c in text):
        return None
    if is_pickle(raw):
        raise Unsafe("it is a pickle")
    if name.suffix not in TEXT_ENDINGS and name.name not in TEXT_NAMES:
        raise Unsafe("it is text of a kind that models do not need")
    if name.suffix != ".json":
        return "text"
    return _parsed("json", json.loads, text)


def is_pickle(raw: bytes) -> bool:
    """Whether the bytes are a whole pickle, of any protocol; told by its opcodes, without running them."""
    try:
        names = [opcode.name for opcode, _, _ in pickletools.genops(io.BytesIO(raw))]
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError, MemoryError):
        return False
    return len(names) > 1 and names[-1] == "STOP"


def _parsed(kind: str, parse: Callable[[str], Any], text: str) -> str:
    try:
        parse(text)
    except (ValueError, RecursionError) as error:
        raise Unsafe(f"it is not readable {kind}") from error
    return kind


def _is_safetensors(file: IO[bytes]) -> bool:
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, MAX_JSON):
        return False
    try:
        return isinstance(json.loads(file.read(length)), dict)
    except (ValueError, RecursionError):
        return False


def _tail(file: IO[bytes], wanted: bytes, kind: str) -> str:
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - len(wanted), len(wanted)))
    if file.read() != wanted:
        raise Unsafe(f"it is a damaged {kind} file")
    return kind


def _guess(head: bytes) -> str:
    known = {
        b"\x80": "a pickle",
        b"\x1f\x8b": "gzip",
        b"BZh": "bzip2",
        b"\xfd7zXZ": "xz",
        b"x\x9c": "zlib",
        b"\x89HDF": "HDF5",
        b"\x7fELF": "a program",
    }
    return next((what for start, what in known.items() if head.startswith(start)), "unknown bytes")
