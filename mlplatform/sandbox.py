"""What a child process gives up before it opens a model: network, writing, programs, unlimited memory and
time.

Linux offers each piece by itself, and a container may forbid some, so `enter` takes what it can get and says
what that was. Standard library only: it runs before anything else is imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import struct
from dataclasses import dataclass
from pathlib import Path

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
# Landlock's system calls have the same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _TRUNCATE = 1 << 0, 1 << 1, 1 << 14
_CHANGE_FOLDERS = sum(1 << bit for bit in (4, 5, 6, 7, 8, 9, 10, 11, 12))
_REFER = 1 << 13
_TCP = 0b11


@dataclass(frozen=True)
class Limits:
    """What one child may use. `seconds` is wall-clock time for one answer, and twice that in CPU time for all of
    them, unless it is to live on (`for_good`)."""

    seconds: float = 300.0
    memory_bytes: int = 8 * 2**30
    """Address space, which is several times what is resident: torch alone maps 3 GB."""
    file_bytes: int = 2 * 2**30
    open_files: int = 256
    for_good: bool = False


def enter(folder: Path, limits: Limits) -> list[str]:
    """Confine this process for good; what was given up, for the report."""
    # The namespace first: it needs a process with one thread, and its new credentials would undo PDEATHSIG.
    network = _leave_network()
    given_up = _landlock(folder)
    with contextlib.suppress(OSError):
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _limit(resource.RLIMIT_CORE, 0)
    if not limits.for_good:
        _limit(resource.RLIMIT_CPU, int(limits.seconds * 2) + 1)
    _limit(resource.RLIMIT_FSIZE, limits.file_bytes)
    _limit(resource.RLIMIT_NOFILE, limits.open_files)
    _limit(resource.RLIMIT_AS, limits.memory_bytes)
    return (["network"] if network else []) + given_up


def _limit(kind: int, amount: int) -> None:
    hard = resource.getrlimit(kind)[1]
    amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
    # macOS refuses some limits; the parent's clock still ends the child.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (amount, amount))


def _leave_network() -> bool:
    """An empty network namespace, where the kernel lets an ordinary process make one."""
    try:
        return int(ctypes.CDLL(None).unshare(_CLONE_NEWUSER | _CLONE_NEWNET)) == 0
    except AttributeError:  # not Linux
        return False


def _landlock(folder: Path) -> list[str]:
    """No writes outside the folder, no programs; from ABI 4 on no TCP either."""
    try:
        version = _system_call(_CREATE_RULESET, None, 0, 1)
        files = _EXECUTE | _WRITE_FILE | _CHANGE_FOLDERS
        files |= (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
        rules = struct.pack("QQ", files, _TCP) if version >= 4 else struct.pack("Q", files)
        ruleset = _system_call(_CREATE_RULESET, rules, len(rules), 0)
        _allow(ruleset, folder, files & ~_EXECUTE)
        _allow(ruleset, Path(os.devnull), files & (_WRITE_FILE | _TRUNCATE))
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        _system_call(_RESTRICT_SELF, ruleset, 0)
        os.close(ruleset)
    except (OSError, AttributeError):
        return []
    return ["writing", "programs"] + (["tcp"] if version >= 4 else [])


def _allow(ruleset: int, path: Path, access: int) -> None:
    handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        _system_call(_ADD_RULE, ruleset, 1, struct.pack("=Qi", access, handle), 0)
    finally:
        os.close(handle)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def _system_call(number: int, *arguments: int | bytes | None) -> int:
    result = int(ctypes.CDLL(None, use_errno=True).syscall(number, *arguments))
    if result < 0:
        raise OSError(ctypes.get_errno(), f"system call {number}")
    return result
