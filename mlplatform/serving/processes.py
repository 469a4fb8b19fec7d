"""What the system knows of a process: memory, CPU, files. Linux; elsewhere nothing is known."""

from __future__ import annotations

import os
from functools import cache
from typing import NamedTuple

_TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    started_at_s: float
    """Since 1970, UTC."""
    cpu_s: float
    """User and system."""
    resident_bytes: int
    open_files: int
    max_files: int


def process(pid: int) -> Process | None:
    """None when there is no such process, it is another user's, or the system has no `/proc`."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            # The name of the program, in brackets, may hold anything.
            fields = stream.read().rpartition(b")")[2].split()
        with open(f"/proc/{pid}/limits", "rb") as stream:
            limit = next((line.split()[3] for line in stream if line.startswith(b"Max open files")), b"0")
        files = len(os.listdir(f"/proc/{pid}/fd"))
        started_at_s = _booted_at_s() + int(fields[19]) / _TICKS_A_SECOND
    except (OSError, IndexError, ValueError):
        return None
    cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND
    max_files = int(limit) if limit.isdigit() else 0
    return Process(started_at_s, cpu_s, int(fields[21]) * _PAGE_BYTES, files, max_files)


def resident_bytes() -> int:
    """What this process takes; 0 where the system has no `/proc`."""
    try:
        with open("/proc/self/statm", "rb") as stream:
            return int(stream.read().split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


@cache
def _booted_at_s() -> int:
    with open("/proc/stat", "rb") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith(b"btime"))
