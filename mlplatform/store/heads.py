"""Heads of the ledger's chains in a file that is kept away from the database, one JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from mlplatform.domain.chain import Head
from mlplatform.errors import UsageError, WorldError
from mlplatform.store.documents import replace_durably


class FileHeads:
    """Port `Heads`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Head] | None:
        """None where there is no file yet; raises UsageError for one that holds something else."""
        try:
            lines = self._path.read_text().splitlines()
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise WorldError(what=f"{self._path} cannot be read: {error}") from error
        return [self._head(number, line) for number, line in enumerate(lines, 1) if line.strip()]

    def write(self, heads: Sequence[Head]) -> None:
        lines = [json.dumps(asdict(head), ensure_ascii=False) for head in heads]
        try:
            replace_durably(self._path, "".join(f"{line}\n" for line in lines).encode())
        except OSError as error:
            raise WorldError(what=f"{self._path} cannot be written: {error}") from error

    def _head(self, number: int, line: str) -> Head:
        try:
            raw = json.loads(line)
            return Head(str(raw["model"]), int(raw["seq"]), str(raw["hash"]))
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(
                what=f"line {number} of {self._path} is no head of a chain",
                hint="Give the file that an earlier `mlplatform verify --head FILE` wrote, or a name that is free.",
            ) from error
