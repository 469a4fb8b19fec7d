"""Values of a request -> rows in the signature's order. Knows no transport and no format of a body."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np

from mlplatform.domain.bundle import Column, Parameter, differing_columns
from mlplatform.errors import nearest
from mlplatform.serving.bodies import first_repeated
from mlplatform.serving.params import ParamReader
from mlplatform.serving.problems import NotTheSignature, Problem
from mlplatform.serving.values import BOUNDS, FLOAT64_MAX, absent, check_scalars, kind_of, limit_of, read
from mlplatform.stats.batch import Array, Batch, Params

NUMBERS = ("integer", "long", "float", "double")
EXACT = 2.0**53 - 1
"""Whole numbers up to this are exact in a float64, and no other number is rounded to one of them."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Checked rows of one request."""

    batch: Batch
    context: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """Columns that travel beside the features; captured, never shown to the model."""
    missing: bool = False
    """Whether a feature has a missing value somewhere."""

    def beside(self, params: Params) -> Rows:
        """The same rows, to be answered with these parameters."""
        return replace(self, batch=replace(self.batch, params=params)) if params else self


class RowDecoder:
    """Checks values against a signature. Problem names the field and what was expected."""

    def __init__(
        self, inputs: Sequence[Column], context: Collection[str] = (), params: Sequence[Parameter] = ()
    ) -> None:
        self.inputs = tuple(inputs)
        self.params = ParamReader(params)
        self.names = tuple(column.name for column in inputs)
        self.context = frozenset(context) - set(self.names)
        self._known = self.context.union(self.names)
        self.numeric = all(column.dtype in NUMBERS and not column.shape for column in inputs)
        """Whether requests may take the way of one float matrix."""
        self.only = self.inputs[0] if len(self.inputs) == 1 else None
        """The column of a signature that has just one: it needs no name."""
        whole = [i for i, column in enumerate(inputs) if column.dtype in ("integer", "long")]
        self._whole = np.array(whole, dtype=int) if whole else None
        self._limits = np.array(
            [min(limit_of(column), EXACT if column.dtype in BOUNDS else FLOAT64_MAX) for column in inputs]
        )
        self._bounded = any(column.dtype != "double" for column in inputs)

    def matrix(self, rows: Sequence[Sequence[float]], order: Array | None = None) -> Rows | None:
        """The quick way, for rows of plain floats; None where only the careful way can tell what is wrong."""
        width = len(self.names)
        count = len(rows)
        if not width or set(map(len, rows)) != {width}:
            return None
        flat = rows[0] if count == 1 else chain.from_iterable(rows)
        matrix = np.fromiter(flat, np.float64, count * width).reshape(count, width)
        if order is not None:
            matrix = matrix[:, order]
        if self._bounded and not self._fits(matrix):
            return None
        return Rows(Batch(self.names, matrix))

    def typed_matrix(self, matrix: Array) -> Rows:
        """An (n, k) array of numbers in the signature's order; NaN is a missing value."""
        if self.numeric and len(matrix):
            with np.errstate(invalid="ignore"):  # some bit patterns of NaN complain
                floats = matrix.astype(np.float64)
                fits = self._fits(floats)
            if fits:
                return Rows(Batch(self.names, floats))
        return self.columns({name: matrix[:, i] for i, name in enumerate(self.names)})

    def rows(self, rows: Any, columns: Sequence[str] | None = None) -> Rows:
        """Lists of values; `columns` names them, without it they stand in the signature's order."""
        names = self.names if columns is None else self._check_names(columns)
        if not isinstance(rows, list):
            raise Problem(f"expected a list of rows, got {kind_of(rows)}")
        if columns is None and self.only and (self.only.shape or not (rows and isinstance(rows[0], list))):
            return self.columns({self.only.name: rows})
        for i, row in enumerate(rows):
            if not isinstance(row, list):
                raise Problem(f"row {i}: expected a list of {len(names)} values, got {kind_of(row)}")
            if len(row) != len(names):
                raise Problem(f"row {i} has {len(row)} values, expected {len(names)}: {_some(names)}")
        return self._convert(
            dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {}, len(rows)
        )

    def records(self, records: Any) -> Rows:
        """One object a row."""
        if not isinstance(records, list):
            raise Problem(f"expected a list of records, got {kind_of(records)}")
        for i, record in enumerate(records):
            if not isinstance(record, dict):
                raise Problem(f"row {i}: expected an object of columns, got {kind_of(record)}")
            self._check_names(record, f"row {i}: ")
        names = dict.fromkeys(chain.from_iterable(records))
        return self._convert({name: [r.get(name) for r in records] for name in names}, len(records))

    def columns(self, columns: Mapping[str, Any]) -> Rows:
        """One list a column."""
        self._check_names(columns)
        count = 0
        for i, (name, values) in enumerate(columns.items()):
            if not isinstance(values, (list, tuple, np.ndarray)):
                raise Problem(f"column {name!r}: expected a list of values, got {kind_of(values)}")
            if i and len(values) != count:
                raise Problem(f"column {name!r} has {len(values)} values, the columns before it have {count}")
            count = len(values)
        return self._convert(columns, count)

    def _check_names(self, given: Collection[str], where: str = "") -> Sequence[str]:
        for name in given:
            if not isinstance(name, str):
                raise Problem(f"{where}names of columns are strings, got {kind_of(name)}")
            if name not in self._known:
                hint = nearest(name[:100], [*self.names, *self.context][:1000])
                raise NotTheSignature(f"{where}unknown column {name!r}. {hint}")
        if (twice := first_repeated(given)) is not None:
            raise NotTheSignature(f"{where}column {twice!r} is given twice")
        missing, _ = differing_columns(self.inputs, list(given))
        if missing:
            absent = _some([repr(name) for name in missing])
            raise NotTheSignature(f"{where}missing column {absent}; the model takes {_some(self.names)}")
        return list(given)

    def _convert(self, values: Mapping[str, Sequence[Any]], count: int) -> Rows:
        if not count:
            raise NotTheSignature("the request has no rows")
        arrays: dict[str, Array] = {}
        missing = False
        for column in self.inputs:
            given = values.get(column.name)
            arrays[column.name], gaps = absent(column, count) if given is None else read(column, given)
            missing = missing or gaps
        context = {name: _plain(values[name]) for name in self.context if name in values}
        for name, beside in context.items():
            check_scalars(name, beside)
        return Rows(Batch(self.names, arrays=arrays), context, missing)

    def _fits(self, matrix: Array) -> bool:
        if not bool((np.abs(matrix) <= self._limits).all()):
            return False
        if self._whole is None:
            return True
        whole = matrix[:, self._whole]
        return bool((whole == np.rint(whole)).all())


def _plain(values: Any) -> Sequence[Any]:
    listed: Sequence[Any] = values.tolist() if isinstance(values, np.ndarray) else values
    return listed


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
