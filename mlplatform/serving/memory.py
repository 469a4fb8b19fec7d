"""What models take of a worker's memory."""

from __future__ import annotations

import ctypes
import gc
import os
from functools import cache
from pathlib import Path
from typing import Any

BASE_BYTES, FACTOR = 150_000, 2.5
"""What a bundle takes at least: so much, and that many times its model's files (weights as read and as laid out for the
processor). Measured on ONNX Runtime: 0.15 MB, and 2.2 to 2.6 times."""
BESIDE_BYTES = 250_000
"""What comes with a model: decoders, counters, an open block of captured rows. Measured: 0.15 to 0.2 MB."""
OWN_BLOCK_BYTES = 65_536
_MMAP_THRESHOLD = -3


def expected_bytes(file_bytes: int) -> int:
    """What a model with files of this size takes at least."""
    return BASE_BYTES + int(FACTOR * file_bytes)


def resident_bytes() -> int | None:
    """Memory of this process; None where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")


def own_blocks() -> None:
    """Large blocks are from now on taken from the system and given back to it one by one. glibc would keep them for
    others, and a model that is loaded into what another one left would seem to take nothing."""
    if (set_option := getattr(_libc(), "mallopt", None)) is not None:
        set_option(_MMAP_THRESHOLD, OWN_BLOCK_BYTES)


def give_back() -> None:
    """What is freed by now back to the system."""
    gc.collect()
    if (trim := getattr(_libc(), "malloc_trim", None)) is not None:
        trim(0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
