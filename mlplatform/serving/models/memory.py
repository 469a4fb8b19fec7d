"""What models take of a worker's memory."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
from functools import cache
from pathlib import Path
from typing import Any

BASE_BYTES, FACTOR = 150_000, 2.5
"""What a bundle takes at least: so much, and that many times its model's files (weights as read and as laid out for the
processor). Measured on ONNX Runtime: 0.15 MB, and 2.2 to 2.6 times."""
BESIDE_BYTES = 300_000
"""What comes with a model: decoders, counters, an open block of captured rows. Measured: 0.2 to 0.25 MB."""
OWN_BLOCK_BYTES = 65_536
"""Above it a block is the system's own where models come and go by a limit of memory,"""
LARGE_BLOCK_BYTES = 8_388_608
"""and above this one in any worker: with 256 KB, 64 rows of 784 columns cost 1.6 times as much."""
ARENAS = 2
KEPT_BYTES = 33_554_432
"""What may stay free at a heap's end, so that the next request need not ask the system for it."""
TRIM_SECONDS = 30.0
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8


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


def steady_heap() -> None:
    """Keep what is in use together, so that hours of bodies of all sizes on many threads do not scatter it.

    By itself glibc gives each thread a heap of its own and moves its bound for large blocks up to 32 MB: under mixed
    load the heaps of a worker grew from 37 to 52 MB within four minutes, while 21 to 27 MB of them were in use."""
    _set_option(_ARENA_MAX, ARENAS)
    _set_option(_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
    _set_option(_TRIM_THRESHOLD, KEPT_BYTES)


async def keep_trimmed() -> None:
    """For ever, now and then: what is free in the middle of a heap goes back to the system. The thread holds no lock of
    Python's, but malloc's: 1 to 4 ms in a worker of 50 MB, 14 ms at 200 MB."""
    while True:
        await asyncio.sleep(TRIM_SECONDS)
        await asyncio.get_running_loop().run_in_executor(None, _trim)


def own_blocks() -> None:
    """Blocks are from now on taken from the system and given back to it one by one. glibc would keep them for others,
    and a model that is loaded into what another one left would seem to take nothing."""
    _set_option(_MMAP_THRESHOLD, OWN_BLOCK_BYTES)
    _set_option(_TRIM_THRESHOLD, OWN_BLOCK_BYTES)


def give_back() -> None:
    """What is freed by now back to the system."""
    gc.collect()
    _trim()


def _trim() -> None:
    if (trim := getattr(_libc(), "malloc_trim", None)) is not None:
        trim(0)


def _set_option(option: int, value: int) -> None:
    """No other C library than glibc has it."""
    if (mallopt := getattr(_libc(), "mallopt", None)) is not None:
        mallopt(option, value)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None)
