"""Answers as a file: by its suffix a Parquet table or a CSV that any program opens."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from mlplatform.errors import UnwritableTable, UsageError

SUFFIXES = (".csv", ".parquet", ".pq")


def demand_writable(path: Path) -> None:
    """UsageError for what cannot become a file of answers, before anybody is asked for them."""
    if path.suffix.lower() not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise UsageError(f"Known endings: {known}.", what=f"{path} does not end in the format that is wanted")
    if not path.parent.is_dir():
        raise UsageError("Make it, or name another.", what=f"there is no folder {path.parent} to write to")
    if path.is_dir():
        raise UsageError("Name a file.", what=f"{path} is a folder")


def write(path: Path, answers: dict[str, Any]) -> None:
    """Raises UnwritableTable."""
    from mlplatform.data.tables import ParquetTables

    if path.suffix.lower() != ".csv":
        ParquetTables().write(path, answers)
        return
    rows = zip(*(values.tolist() for values in answers.values()), strict=True)
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(answers)
            writer.writerows([_cell(value) for value in row] for row in rows)
    except OSError as error:
        raise UnwritableTable(path=path, cause=error.strerror or error) from error


def _cell(value: Any) -> Any:
    """Probabilities and tensors as JSON: a cell holds one text."""
    return json.dumps(value) if isinstance(value, list) else value
