"""Tables in memory, and what a column is like after it was written and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Column
from mlplatform.errors import UnreadableTable
from mlplatform.stats import digests
from mlplatform.stats.batch import Array, Columns
from mlplatform.stats.spec import is_null


@dataclass
class FakeTables:
    """Port `Tables`: what was written under a path is read back from it."""

    tables: dict[Path, dict[str, Array]] = field(default_factory=dict)

    def read(self, path: Path) -> dict[str, Array]:
        if path not in self.tables:
            raise UnreadableTable(path=path, cause="there is no such file")
        return dict(self.tables[path])

    def write(self, path: Path, columns: Columns) -> None:
        self.tables[path] = {name: as_stored(np.asarray(values)) for name, values in columns.items()}

    def row_digests(self, columns: Columns, inputs: Sequence[Column]) -> Array:
        return digests.row_digests(columns, inputs)

    def times(self, values: Array) -> Array | None:
        moments = [as_us(value) for value in np.asarray(values)]
        if all(us is None for us in moments):
            return None
        missing = np.iinfo(np.int64).min
        ticks = np.array([missing if us is None else us for us in moments], np.int64)
        return ticks.astype("datetime64[us]")


def as_stored(values: Array) -> Array:
    """A column after writing and reading: text as objects, times in us, integers with gaps as floats."""
    if values.dtype.kind == "M":
        return values.astype("datetime64[us]")
    if values.dtype.kind in "US":
        return values.astype(object)
    if values.dtype.kind != "O":
        return values
    known = [value for value in values.tolist() if not is_null(value)]
    if any(isinstance(value, np.ndarray | bytes) for value in known):
        return values
    if known and all(isinstance(value, str) for value in known):
        return objects([None if is_null(value) else value for value in values.tolist()])
    if len(known) == len(values):
        return np.array(values.tolist())
    if known and all(isinstance(value, int | float) for value in known):
        return np.array([np.nan if is_null(value) else value for value in values.tolist()], np.float64)
    return values


def as_us(value: Any) -> int | None:
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else int(value.astype("datetime64[us]").astype(np.int64))
    if isinstance(value, str):
        try:
            return us(datetime.fromisoformat(value))
        except ValueError:
            return None
    if value is None or is_null(value) or not 1e8 <= value < np.inf:
        return None
    factor = next(
        factor for limit, factor in ((1e11, 1e6), (1e14, 1e3), (1e17, 1), (np.inf, 1e-3)) if value < limit
    )
    return round(float(value) * factor)


def us(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round((aware - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1e6)


def objects(values: Sequence[Any]) -> Array:
    out = np.empty(len(values), object)
    for i, value in enumerate(values):
        out[i] = value
    return out
