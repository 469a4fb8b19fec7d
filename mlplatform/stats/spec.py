"""Where the cells of a profile lie: chosen once, from the reference data, and stored with the model
version.

Numeric columns get cells between 120 quantiles of the reference plus ten finer quantiles in each tail; a
value that repeats over two or more quantiles (a zero-inflated column, an integer count) gets a cell of its
own. Categorical columns get a cell per label with at least ten reference rows: cells chosen from rarer
labels would make every high-cardinality column "drift", because the choice itself depends on the luck of
the reference.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

import numpy as np

from mlplatform.errors import UsageError
from mlplatform.stats.arrays import Array, Floats

QUANTILES = 120
"""A multiple of ten, so that the deciles of the reference are edges and the decile PSI is exact."""
TAIL_SHARES = (1e-4, 2e-4, 5e-4, 1e-3, 1.5e-3, 2e-3, 2.5e-3, 3e-3, 4e-3, 5e-3)
OWN_CELL_ROWS = 10
LARGEST = 1e140
"""Numbers beyond count as infinite: the sum of their squares would be."""
OWN_CELLS = 256
KNOWN_LABELS = 50_000
"""Above this many labels a column is an identifier or free text: unseen labels are its nature, so they are
not watched.
"""


@dataclass(frozen=True, eq=False)
class NumericSpec:
    """Cells (-inf, e0], (e0, e1], ... (em, inf) and the range of the reference (both None when it had no
    value).
    """

    edges: Floats
    minimum: float | None
    maximum: float | None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NumericSpec) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]

    def to_dict(self) -> dict[str, Any]:
        return {"kind": "numeric", "edges": self.edges.tolist(), "min": self.minimum, "max": self.maximum}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> NumericSpec:
        return cls(np.asarray(data["edges"], np.float64), data["min"], data["max"])


@dataclass(frozen=True)
class CategoricalSpec:
    """A cell per label of `labels`, then one for the rest.

    `known` holds the CRC-32 of every other label that the reference contained (None: too many to watch, see
    KNOWN_LABELS); `singletons` and `rows` bound the share of rows with labels the reference happened to miss.
    """

    labels: tuple[str, ...]
    known: frozenset[int] | None
    singletons: int
    rows: int

    @property
    def missing_mass(self) -> float:
        """Upper estimate of the probability of a label that the reference never showed (Good 1953, plus two
        sigma).

        >>> CategoricalSpec(("a",), frozenset(), singletons=0, rows=100).missing_mass
        0.01
        """
        if self.known is None:
            return 1.0
        return min(1.0, (self.singletons + 2.0 * math.sqrt(self.singletons) + 1.0) / max(self.rows, 1))

    def to_dict(self) -> dict[str, Any]:
        known = None
        if self.known is not None:
            known = base64.b64encode(np.array(sorted(self.known), "<u4").tobytes()).decode("ascii")
        return {
            "kind": "categorical",
            "labels": list(self.labels),
            "known": known,
            "singletons": self.singletons,
            "rows": self.rows,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> CategoricalSpec:
        known = data["known"]
        if known is not None:
            known = frozenset(np.frombuffer(base64.b64decode(known), "<u4").tolist())
        return cls(tuple(data["labels"]), known, int(data["singletons"]), int(data["rows"]))


ColumnSpec = NumericSpec | CategoricalSpec


@dataclass(frozen=True)
class ReferenceSpec:
    """The specs of a table's columns, in the order of the reference."""

    columns: Mapping[str, ColumnSpec]

    @cached_property
    def digest(self) -> str:
        """Profiles of equal digests can be merged."""
        return blake2b(json.dumps(self.to_dict()).encode(), digest_size=16).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        return {"columns": {name: spec.to_dict() for name, spec in self.columns.items()}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ReferenceSpec:
        kinds: dict[str, type[NumericSpec] | type[CategoricalSpec]] = {
            "numeric": NumericSpec,
            "categorical": CategoricalSpec,
        }
        return cls({name: kinds[item["kind"]].from_dict(item) for name, item in data["columns"].items()})


def make_spec(columns: Mapping[str, Array]) -> ReferenceSpec:
    """Choose the cells of every column from the reference table.

    Numbers, booleans and times become numeric; text and mixed objects categorical (an object column that
    holds only numbers and nulls is numeric). Each column is one-dimensional.
    """
    return ReferenceSpec({name: _column_spec(name, values) for name, values in columns.items()})


# ---- shared with profile.py: what counts as a number, a label, a null


def one_dimensional(name: str, values: Array) -> Array:
    values = np.asarray(values)
    if values.ndim != 1:
        raise UsageError(what=f"column {name!r} must be one-dimensional, it has shape {values.shape}")
    return values


def is_numeric(values: Array) -> bool:
    if values.dtype.kind == "O":
        kinds = {type(value) for value in values.tolist() if not is_null(value)}
        return bool(kinds) and all(issubclass(kind, int | float | np.number | np.bool_) for kind in kinds)
    return values.dtype.kind in "biufmM"


def as_floats(values: Array) -> Floats:
    """Numbers as float64, times as seconds, whatever is not a number as NaN."""
    if values.dtype.kind in "biuf":
        return np.ascontiguousarray(values, np.float64)
    if values.dtype.kind in "mM":
        unit = "timedelta64[us]" if values.dtype.kind == "m" else "datetime64[us]"
        ticks = values.astype(unit).astype(np.int64)
        return np.where(np.isnat(values), np.nan, ticks / 1e6)
    return np.fromiter(map(_number, values.tolist()), np.float64, len(values))


def label_counts(values: Array) -> tuple[dict[str, int], int]:
    """Rows per label (as text) and the number of nulls."""
    counts: Counter[Any] = Counter(values.tolist())
    if all(type(value) is str for value in counts):
        return counts, 0
    nulls = 0
    labels: Counter[str] = Counter()
    for value, rows in counts.items():
        if is_null(value):
            nulls += rows
        else:
            labels[value if isinstance(value, str) else str(value)] += rows
    return labels, nulls


def is_null(value: object) -> bool:
    """None, NaN, or pandas' NA and NaT (recognised by name: pandas is not imported here)."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float) and value != value


def label_hash(label: str) -> int:
    return zlib.crc32(label.encode("utf-8", "surrogatepass"))


# ---- helpers


def _column_spec(name: str, values: Array) -> ColumnSpec:
    values = one_dimensional(name, values)
    return _numeric_spec(as_floats(values)) if is_numeric(values) else _categorical_spec(values)


def _numeric_spec(values: Floats) -> NumericSpec:
    ordered = np.sort(values[np.abs(values) <= LARGEST])
    if len(ordered) == 0:
        return NumericSpec(np.zeros(0), None, None)
    deciles = ordered[_ranks((i / QUANTILES for i in range(1, QUANTILES)), len(ordered))]
    tails = ordered[_ranks((*TAIL_SHARES, *(1.0 - share for share in TAIL_SHARES)), len(ordered))]
    repeated, times = np.unique(deciles, return_counts=True)
    atoms = repeated[times > 1]
    edges = np.unique(np.concatenate([deciles, tails, np.nextafter(atoms, -np.inf)]))
    return NumericSpec(edges, float(ordered[0]), float(ordered[-1]))


def _ranks(shares: Iterable[float], rows: int) -> Array:
    """Positions of the inverted-CDF quantiles; the small slack keeps i/120 of 120*k rows on the exact row."""
    positions = np.ceil(np.fromiter(shares, np.float64) * rows - 1e-9) - 1
    return np.asarray(np.clip(positions, 0, rows - 1), np.int64)


def _categorical_spec(values: Array) -> CategoricalSpec:
    counts, _ = label_counts(values)
    frequent = sorted(
        (label for label, rows in counts.items() if rows >= OWN_CELL_ROWS),
        key=lambda label: (-counts[label], label),
    )
    own = tuple(frequent[:OWN_CELLS])
    known = frozenset(map(label_hash, counts.keys() - set(own))) if len(counts) <= KNOWN_LABELS else None
    return CategoricalSpec(own, known, sum(rows == 1 for rows in counts.values()), sum(counts.values()))


def _number(value: object) -> float:
    if isinstance(value, int | float | np.number | np.bool_):
        return float(value)
    try:
        return float(value) if isinstance(value, str) else float("nan")
    except ValueError:
        return float("nan")
