"""Rows on their way into a model: one matrix where every column is a number of one type, else one array a column."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Columns = Mapping[str, Array]
"""A table: equally long arrays by name, of one dimension where a column is no tensor. Text and bytes are dtype
object, times are datetime64."""

Params = tuple[tuple[str, Any], ...]
"""What a request sets besides its rows, by name in the signature's order; lists are tuples."""

Form = Literal["list", "records", "dict"]
"""How a model gives its answers: one array, a table, or arrays by name."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows in the signature's column order. Exactly one of `matrix` (n, k) and `arrays` is set."""

    names: tuple[str, ...]
    matrix: Array | None = None
    arrays: Columns | None = None
    params: Params = ()
    """All of the signature's; none where each is what the model takes by default."""

    @property
    def rows(self) -> int:
        if self.matrix is not None:
            return int(self.matrix.shape[0])
        return row_count(self.arrays or {})

    def columns(self) -> Columns:
        """The rows as one array a column; views, not copies, of a matrix."""
        if self.matrix is not None:
            return {name: self.matrix[:, i] for i, name in enumerate(self.names)}
        return self.arrays or {}

    def as_matrix(self, dtype: str) -> Array:
        """The rows as one C-contiguous (n, k) array; TypeError or ValueError for columns that are not numbers."""
        if self.matrix is not None:
            return np.ascontiguousarray(self.matrix, dtype=dtype)
        columns = self.arrays or {}
        out = np.empty((self.rows, len(self.names)), dtype=dtype)
        for i, name in enumerate(self.names):
            out[:, i] = columns[name]
        return out

    @classmethod
    def of(cls, columns: Columns, names: Sequence[str]) -> Batch:
        """Pick the named columns of a table, in that order."""
        return cls(tuple(names), arrays={name: columns[name] for name in names})


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model answers: `predictions` (n,) or (n, k), as its task's `output` says; `scores` (n, classes)."""

    predictions: Array
    scores: Array | None = None
    others: Columns | None = None
    """Further outputs of a model that has several, one entry a row, by the model's own names."""
    name: str = "predictions"
    """What the model itself calls the first."""
    form: Form = "list"

    def named(self) -> dict[str, Array]:
        """Every output by its name."""
        found = {self.name: self.predictions}
        if self.scores is not None:
            found["scores"] = self.scores
        if self.others:
            found.update(self.others)
        return found

    def part(self, start: int, stop: int) -> Outputs:
        """The answers to some of the rows; views, not copies."""
        scores = None if self.scores is None else self.scores[start:stop]
        if self.others is None and self.form == "list":
            return Outputs(self.predictions[start:stop], scores)
        others = {name: values[start:stop] for name, values in (self.others or {}).items()}
        return replace(
            self, predictions=self.predictions[start:stop], scores=scores, others=others or self.others
        )


class LateColumns(Mapping[str, Array]):
    """A table that is read when somebody looks at it, and then kept."""

    def __init__(self, read: Callable[[], Columns]) -> None:
        self._read = read

    @cached_property
    def _columns(self) -> Columns:
        return self._read()

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


def row_count(columns: Columns) -> int:
    return len(next(iter(columns.values()), ()))


def take(columns: Columns, rows: Array) -> dict[str, Array]:
    """The chosen rows: a mask or positions."""
    return {name: values[rows] for name, values in columns.items()}


def concatenate(parts: Sequence[Columns]) -> dict[str, Array]:
    """Tables below each other; columns that not all of them have are left out."""
    if not parts:
        return {}
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in names}


def dense(answers: Array | None) -> Array | None:
    """Answers of one shape as one array, of several shapes as objects; None where nobody gave any."""
    if answers is None or answers.dtype != object or not len(answers):
        return answers
    if all(row is None for row in answers):
        return None
    if any(type(row) is str for row in answers) or len({np.shape(row) for row in answers}) > 1:
        return answers
    return np.stack([np.asarray(row) for row in answers])
