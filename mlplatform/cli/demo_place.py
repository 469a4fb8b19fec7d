"""Where a demo is made: in the place of an earlier one that nobody touched, and never over somebody's work.

A demo's folder is an invitation to go on working in it. One that is not as its demo left it stays where it is, with
the absolute paths that MLflow has of it, and the next demo is made beside it.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from mlplatform.errors import UsageError
from mlplatform.plugins.targets.folder import lock_held
from mlplatform.ports.clock import Progress

NAME = "mlplatform-demo"
MARK = ".mlplatform-demo"
"""In the folder of a demo that has ended: the second in which it did."""
SETTLES_SECONDS = 5.0
"""By then the demo's process has closed its databases."""
BY_LOOKING = ("-wal", "-shm", ".lock", ".pyc")
"""How names of files end that a look leaves behind."""


def empty_place(named: Path | None, tell: Progress) -> Path:
    """The folder, without anything in it: the one that was named, or `mlplatform-demo`, or the first beside it that may
    be taken. Raises UsageError for a named folder that may not."""
    for folder in [named] if named else _names():
        if why := _why_kept(folder):
            if named:
                raise UsageError("Name another folder: mlplatform demo FOLDER", what=f"{folder} {why}")
            tell(f"{folder} {why}: it stays as it is, and this demo is made beside it")
            continue
        if folder.exists():
            shutil.rmtree(folder)
        return folder
    raise AssertionError


def ended(folder: Path) -> None:
    """The demo is over, and nothing of it runs: an untouched folder may be replaced from now on."""
    (folder / MARK).write_text(str(time.time()))


def _names() -> Iterator[Path]:
    yield Path(NAME)
    for number in count(1):
        yield Path(f"{NAME}.{number}")


def _why_kept(folder: Path) -> str:
    """Why a folder may not be replaced; "" where it may."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return ""
    try:
        end = float((folder / MARK).read_text())
    except (OSError, ValueError):
        return "is not empty, and not a demo that has ended"
    files = [path for path in folder.rglob("*") if path.is_file()]
    if running := next(
        (path for path in files if path.suffix == ".lock" and lock_held(path.parent, path.name)), None
    ):
        return f"is in use: something holds {running.relative_to(folder)}"
    files = [path for path in files if path.name != MARK and not path.name.endswith(BY_LOOKING)]
    if changed := next((path for path in files if _changed_at(path) > end + SETTLES_SECONDS), None):
        return f"was worked in since its demo ended ({changed.relative_to(folder)} has changed)"
    return ""


def _changed_at(path: Path) -> float:
    """When it came to be there as it is: copying may keep the time of a file's contents."""
    try:
        return os.lstat(path).st_ctime
    except OSError:  # gone meanwhile
        return time.time()
