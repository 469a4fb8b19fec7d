"""Captured rows in memory: from a server's block to what a reader of the history sees."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from mlplatform.errors import UnknownName, UsageError
from mlplatform.ports.data import Observed
from mlplatform.stats.batch import Array
from mlplatform.stats.uneven import Uneven
from mlplatform.testing.fakes.tables import as_stored, as_us, objects


@dataclass(frozen=True)
class Row:
    id: str
    time_us: int
    model: str
    arm: str
    version: int
    columns: Mapping[str, Any]
    prediction: Any
    scores: Array | None


def rows_of(block: Mapping[str, Array]) -> Iterator[Row]:
    columns: dict[str, Array] = {}
    block = _with_uneven(block)
    for prefix in ("ctx:", "in:"):
        for key in (key for key in block if key.startswith(prefix)):
            columns[key.removeprefix(prefix)] = block[key]
    for i in range(len(block["request"])):
        values = {name: array[i] for name, array in columns.items()}
        values = {name: _gap(block.get(f"null:{name}"), i, value) for name, value in values.items()}
        scores = block["scores"][i] if "scores" in block else None
        request = bytes(block["request"][i]).decode()
        name = f"{request}/{int(block['row'][i])}"
        model, version = str(block["model"][i]), int(block["version"][i])
        arm = str(block["arm"][i]) if "arm" in block else ""
        yield Row(name, int(block["time_us"][i]), model, arm, version, values, block["prediction"][i], scores)


def _with_uneven(block: Mapping[str, Array]) -> dict[str, Array]:
    """Bytes, and tensors of any length, one object a row."""
    out = {name: values for name, values in block.items() if not name.startswith("flat:")}
    for name in (key.removeprefix("flat:") for key in block if key.startswith("flat:")):
        ends = out.pop(f"ends:{name}")
        gaps = out.pop(f"null:{name}", np.zeros(len(ends), bool))
        rows = Uneven(block[f"flat:{name}"], ends, gaps, out.pop(f"shape:{name}", None)).rows()
        out[f"in:{name}"] = rows
    return out


def _gap(mask: Array | None, i: int, value: Any) -> Any:
    if mask is None or not mask[i]:
        return value
    return np.nan if isinstance(value, np.number | np.bool_) else None


def observed(chosen: Sequence[tuple[int, Row]], labels: Mapping[str, Any]) -> Observed:
    rows = [row for _, row in chosen]
    names = list(dict.fromkeys(name for row in rows for name in row.columns))
    given = [row.scores for row in rows if row.scores is not None]
    return Observed(
        ids=np.array([row.id for row in rows], object),
        times=np.array([us for us, _ in chosen], np.int64).astype("datetime64[us]"),
        versions=np.array([row.version for row in rows], np.int32),
        columns={name: as_stored(_column([row.columns.get(name) for row in rows])) for name in names},
        predictions=_stacked([row.prediction for row in rows]),
        scores=_stacked([row.scores for row in rows]) if given else None,
        truth=objects([labels.get(row.id) for row in rows]),
        labelled=np.array([row.id in labels for row in rows], np.bool_),
    )


def _column(values: Sequence[Any]) -> Array:
    """Tensors of one shape as one array."""
    bulk = [isinstance(value, np.ndarray | bytes) for value in values]
    if not any(bulk):
        return np.array(values)
    shapes = {np.shape(value) if isinstance(value, np.ndarray) else None for value in values}
    return np.stack(values) if len(shapes) == 1 and None not in shapes else objects(values)


def _stacked(values: Sequence[Any]) -> Array:
    if len({np.shape(value) for value in values}) > 1 or any(value is None for value in values):
        return objects(values)
    return as_stored(np.array(values)) if values else np.empty(0, object)


def check_time(rows: Sequence[Row], time: str | None) -> None:
    if not time or not rows:
        return
    values = [row.columns[time] for row in rows if time in row.columns]
    if not values:
        raise UnknownName("captured column", time, {name for row in rows for name in row.columns})
    if all(as_us(value) is None for value in values):
        raise UsageError(what=f"the captured column {time!r} does not hold times")


def event_us(row: Row, time: str | None) -> int:
    at = as_us(row.columns.get(time)) if time else None
    return row.time_us if at is None else at


def moment(value: np.datetime64) -> datetime:
    naive: datetime = value.astype("datetime64[us]").item()
    return naive.replace(tzinfo=UTC)
