"""Profiles of a segment's rows, in the metadata of its Parquet file: one a version and stretch of time.

A window is the sum of the slices in it. A segment with a slice across an end of the window, or whose slices were made
for other cells or another clock, is summed up from its rows: the result is the same, bit for bit in what is counted.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.data import windows
from mlplatform.data.arrow import to_numpy
from mlplatform.data.capture import CONTEXT, FEATURE, ticks_of
from mlplatform.data.index import History, Range, Segment
from mlplatform.data.windows import Span
from mlplatform.domain.counts import SHADOW
from mlplatform.ports.data import Profiling
from mlplatform.stats.batch import Array
from mlplatform.stats.profile import Profile, merge, profile, within
from mlplatform.stats.spec import ReferenceSpec

KEY = b"mlplatform.profiles"
MOST_SLICES = 100
"""Of a segment; its rows are quicker to read than more profiles."""


@dataclass(frozen=True)
class Slice:
    """Some rows of one version, none of them a shadow's."""

    model: str
    version: int
    times: Range
    """Smallest and largest epoch us."""
    cells: str
    """Digest of the spec; "" where the version has none, and the profile no column."""
    profile: Profile


@dataclass(frozen=True)
class Sliced:
    """What a segment's file keeps."""

    column: str
    """Stored name of the time by which it was cut, "" for the prediction's."""
    slices: tuple[Slice, ...]

    def encode(self) -> bytes:
        slices = [{**vars(part), "profile": part.profile.to_dict()} for part in self.slices]
        text = json.dumps({"column": self.column, "slices": slices}, separators=(",", ":"), allow_nan=False)
        return base64.b64encode(zlib.compress(text.encode()))  # readers of Parquet take metadata for text

    @classmethod
    def decode(cls, raw: bytes) -> Sliced:
        data = json.loads(zlib.decompress(base64.b64decode(raw)))
        slices = ({**d, "times": (d["times"][0], d["times"][1])} for d in data["slices"])
        return cls(
            data["column"], tuple(Slice(**{**d, "profile": Profile.from_dict(d["profile"])}) for d in slices)
        )


def keeper(profiling: Profiling | None) -> Callable[[pa.Table, Segment], Mapping[bytes, bytes]]:
    """What to keep with the rows of a new segment."""

    def kept(table: pa.Table, segment: Segment) -> Mapping[bytes, bytes]:
        if profiling is None:
            return {}
        names = (FEATURE + (profiling.time or ""), CONTEXT + (profiling.time or ""))
        column = next((name for name in names if name in segment.times), "")
        slices = _cut(table, ticks_of(table, column), profiling)
        return {KEY: Sliced(column, slices).encode()} if slices else {}

    return kept


def window(history: History, spec: ReferenceSpec, version: int, span: Span) -> Profile:
    """Rows of a version in a span, in the cells of `spec`; columns that no row of the span has are left out."""
    parts: list[Profile] = []
    names: set[str] = set()
    for segment in windows.overlapping(history, span):
        footer = history.footer(segment.file)
        clock = span.column if span.column in segment.times else ""
        slices = _stored(footer.metadata or {}, clock, spec, version, span)
        if slices is None:
            slices = _read(history, segment, spec, version, span)
        if slices:
            names.update(_profiled(footer.schema.to_arrow_schema(), spec))
        parts += [part.profile for part in slices if part.version == version]
    seen = ReferenceSpec({name: column for name, column in spec.columns.items() if name in names})
    return reduce(merge, (within(seen, part) for part in parts), within(seen, Profile(0, {})))


# ---- making them


def _cut(table: pa.Table, ticks: Array, profiling: Profiling) -> tuple[Slice, ...]:
    """Rows of each model, version and stretch of time, profiled; none at all where they would be too many."""
    groups = _groups(table, ticks, profiling.step)
    if len(groups) > MOST_SLICES:
        return ()
    columns: dict[str, Array] = {}
    slices = []
    for (model, version), rows in groups:
        spec = profiling.spec_of(model, version)
        names = _profiled(table.schema, spec) if spec else {}
        columns |= {name: to_numpy(table[stored]) for name, stored in names.items() if name not in columns}
        mine = ticks[rows]
        of_rows = ReferenceSpec({name: spec.columns[name] for name in names} if spec else {})
        summed = Profile(len(rows), profile(of_rows, {name: columns[name][rows] for name in names}).columns)
        times = (int(mine.min()), int(mine.max()))
        slices.append(Slice(model, version, times, spec.digest if spec else "", summed))
    return tuple(slices)


def _groups(table: pa.Table, ticks: Array, step: timedelta) -> list[tuple[tuple[str, int], Array]]:
    """Model, version and positions of the rows that belong together; without a shadow's."""
    given = np.arange(table.num_rows)
    if "arm" in table.column_names:
        given = given[to_numpy(pc.not_equal(table["arm"], SHADOW))]
    models, model = _coded(table["model"] if "model" in table.column_names else None, table.num_rows)
    versions, version = np.unique(to_numpy(table["version"]), return_inverse=True)
    times, time = np.unique(ticks // (step // timedelta(microseconds=1)), return_inverse=True)
    keys = ((model * len(versions) + version) * len(times) + time)[given]
    found, starts = np.unique(np.sort(keys), return_index=True)
    parts = np.split(given[np.argsort(keys, kind="stable")], starts[1:]) if len(given) else []
    owners = [divmod(int(key) // len(times), len(versions)) for key in found]
    return [((models[m], int(versions[v])), rows) for (m, v), rows in zip(owners, parts, strict=True)]


def _coded(column: pa.ChunkedArray | None, rows: int) -> tuple[list[str], Array]:
    if column is None:
        return [""], np.zeros(rows, np.int64)
    coded = column.combine_chunks().dictionary_encode()
    return coded.dictionary.to_pylist(), to_numpy(coded.indices).astype(np.int64)


def _profiled(schema: pa.Schema, spec: ReferenceSpec) -> dict[str, str]:
    """Columns of the spec with one value a row, and their stored names; a feature wins over its namesake."""
    stored = {prefix + name: name for prefix in (CONTEXT, FEATURE) for name in spec.columns}
    fields = (schema.field(at) for at in stored if at in schema.names)
    return {stored[field.name]: field.name for field in fields if _is_value(field.type)}


def _is_value(kind: pa.DataType) -> bool:
    return not (pa.types.is_nested(kind) or pa.types.is_binary(kind))


# ---- using them


def _stored(
    metadata: Mapping[bytes, bytes], clock: str, spec: ReferenceSpec, version: int, span: Span
) -> list[Slice] | None:
    """Slices in the span; None where what the file keeps does not answer for it."""
    sliced = _kept(metadata)
    if sliced is None or sliced.column != clock:
        return None
    met = [part for part in sliced.slices if span.model in ("", part.model) and span.meets(part.times)]
    if not all(span.holds(part.times) for part in met):
        return None
    return met if all(part.cells == spec.digest for part in met if part.version == version) else None


def _kept(metadata: Mapping[bytes, bytes]) -> Sliced | None:
    raw = metadata.get(KEY)
    try:
        return None if raw is None else Sliced.decode(raw)
    except (ValueError, KeyError, TypeError, zlib.error):
        return None


def _read(history: History, segment: Segment, spec: ReferenceSpec, version: int, span: Span) -> list[Slice]:
    """The same of a segment's rows."""
    wanted = {prefix + name for name in spec.columns for prefix in (FEATURE, CONTEXT)}
    table, ticks = windows.part(history, segment, span, {"version", *wanted})
    if not table.num_rows:
        return []
    mine = table.filter(pc.equal(table["version"], version))
    names = _profiled(mine.schema, spec)
    of_rows = ReferenceSpec({name: spec.columns[name] for name in names})
    summed = profile(of_rows, {name: to_numpy(mine[stored]) for name, stored in names.items()})
    times = (int(ticks.min()), int(ticks.max()))
    return [Slice(span.model, version, times, spec.digest, Profile(mine.num_rows, summed.columns))]
