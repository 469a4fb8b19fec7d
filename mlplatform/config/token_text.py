"""Where a token's text comes from: the environment, or a file that nobody else can read. Never the command line."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from mlplatform.config.settings import Settings
from mlplatform.errors import OpenTokenFile

VARIABLE = "MLPLATFORM_TOKEN"
LONGEST = 1024


def read_token(settings: Settings, environment: Mapping[str, str] | None = None) -> tuple[str, str] | None:
    """The text and where it was found; None when nobody gave one. Raises OpenTokenFile.

    A file that is named and cannot be used is an error: nobody acts under another name by mistake.
    """
    environment = os.environ if environment is None else environment
    if text := environment.get(VARIABLE, "").strip():
        return text, VARIABLE
    if settings.token_file is None:
        return None
    return _read(settings.token_file), str(settings.token_file)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            about = os.fstat(file.fileno())
            if not stat.S_ISREG(about.st_mode):
                raise OpenTokenFile("Name a file with one token in it.", path=str(path), why="is not a file")
            if about.st_mode & 0o077:
                why = f"can be read by others (mode {stat.S_IMODE(about.st_mode):04o})"
                hint = f"chmod 600 {path}, and revoke the token if others may have seen it."
                raise OpenTokenFile(hint, path=str(path), why=why)
            return file.read(LONGEST).decode("ascii", "replace").strip()
    except OSError as error:
        why = f"cannot be read: {error.strerror}"
        raise OpenTokenFile("Correct `token_file`, or unset it.", path=str(path), why=why) from None
