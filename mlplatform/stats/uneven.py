"""Values of which every row has its own number: bytes, and tensors whose shapes differ from row to row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlplatform.stats.batch import Array


@dataclass(frozen=True)
class Uneven:
    """The values of all rows one after the other, and where each row's are.

    >>> Uneven.of([b"ab", None, b""]).rows().tolist()
    [b'ab', None, b'']
    """

    flat: Array
    """(m,): of bytes uint8, of tensors their own type."""
    ends: Array
    """(n,) int64: where in `flat` a row ends; it begins where the one before it ends."""
    gaps: Array
    """(n,) bool: rows that have no value."""
    shapes: Array | None = None
    """(n, d) int64, of tensors; None for bytes."""

    @classmethod
    def of(cls, rows: Sequence[Any], dtype: str = "") -> Uneven:
        """Bytes or arrays of equally many dimensions, None where there is no value. `dtype`: where arrays are meant,
        their type."""
        gaps = np.array([row is None for row in rows], bool)
        known = [row for row in rows if row is not None]
        arrays = bool(dtype) or any(isinstance(row, np.ndarray) for row in known)
        if not arrays:
            lengths = [0 if row is None else len(row) for row in rows]
            flat = np.frombuffer(b"".join(known), np.uint8)
            return cls(flat, np.cumsum(lengths, dtype=np.int64), gaps)
        dimensions = max((row.ndim for row in known), default=1)
        none = (0,) * dimensions
        shapes = np.array([none if row is None else row.shape for row in rows], np.int64)
        shapes = shapes.reshape(len(rows), dimensions)
        flat = np.concatenate([np.empty(0, dtype or known[0].dtype), *(row.reshape(-1) for row in known)])
        return cls(flat.astype(dtype or flat.dtype, copy=False), np.cumsum(shapes.prod(axis=1)), gaps, shapes)

    def rows(self) -> Array:
        """(n,) objects: bytes, or arrays, which are views of `flat`; None in gaps. ValueError where the parts do not
        fit each other."""
        count = len(self.ends)
        if len(self.gaps) != count or (self.shapes is not None and len(self.shapes) != count):
            raise ValueError("values, ends and gaps are of different numbers of rows")
        begins = np.concatenate([[0], self.ends[:-1]]).astype(np.int64)
        if count and ((self.ends < begins).any() or self.ends[-1] != len(self.flat)):
            raise ValueError(f"the rows end at {self.ends[-1]}, there are {len(self.flat)} values")
        out = np.full(count, None, object)
        raw = self.flat.tobytes() if self.shapes is None else b""
        for row in np.flatnonzero(~self.gaps).tolist():
            begin, end = int(begins[row]), int(self.ends[row])
            if self.shapes is None:
                out[row] = raw[begin:end]
            else:
                out[row] = self.flat[begin:end].reshape(self.shapes[row])
        return out
