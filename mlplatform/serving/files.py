"""Small files that other processes read: whole or not there."""

from __future__ import annotations

import os
from pathlib import Path

Stat = tuple[int, int, int]


def stat_of(path: Path) -> Stat | None:
    """What changes with every replacement of a file; None while there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def write_atomically(path: Path, content: bytes, durable: bool = False) -> None:
    """Replace a file by a temporary one and a rename; `durable` waits until the disk has it."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            if durable:
                stream.flush()
                os.fsync(stream.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
