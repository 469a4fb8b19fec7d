"""Blocks of captured requests, as servers write them, into Parquet segments.

A block is an uncompressed `.npz` without pickles, every array but `float_names` and `flat:` of the same length:

=================  =======================  ==================================================================
`request`          S36                      uuid of the request
`row`              integer                  row within the request
`time_us`          int64                    when it was answered, epoch us, UTC
`version`          integer                  version that answered
`model`, `arm`     U                        its model, and its route (`live`)
`latency_us`       number                   of the whole request
`floats`           (n, k), optional         features that are floats
`float_names`      (k,) U                   their names
`in:<name>`        number, bool, M8, U      any other feature; (n, ...) where it is a tensor of one shape
`flat:<name>`      (m,), optional           bytes, or tensors of any length, of all rows one after the other
`ends:<name>`      (n,) integer             where in `flat` a row ends
`shape:<name>`     (n, d) integer           of tensors: each row's shape
`ctx:<name>`       likewise                 a column beside the features
`null:<name>`      bool, optional           where the value of that name was missing
`prediction`       (n,) or (n, k)           what the model answered
`scores`           (n, k), optional         probabilities beside labels
`out:<name>`       (n,) or (n, k)           further answers of a model that gives several
=================  =======================  ==================================================================
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.data.arrow import below_each_other, shape_of, to_numpy
from mlplatform.data.arrow import to_table as arrow_table
from mlplatform.data.index import History, Range, Segment
from mlplatform.data.times import as_times
from mlplatform.stats.batch import Array
from mlplatform.stats.uneven import Uneven

FEATURE, CONTEXT, OUTPUT, NULL = "in:", "ctx:", "out:", "null:"
FLAT, ENDS, SHAPE = "flat:", "ends:", "shape:"
REQUIRED = ("request", "row", "time_us", "version", "prediction")
OWN = ("id", "time_us", "version", "model", "arm", "latency_us", "prediction", "scores")
KEPT = ("model", "arm", "latency_us", "scores", "prediction")
SEGMENT_ROWS, SEGMENT_BYTES = 65_536, 256_000_000
"""A segment is filled up to this by later blocks; then it is left alone. Bytes as they are in memory."""
DAY_US = 86_400_000_000

Block = tuple[str, pa.Table]
Note = Callable[[pa.Table, Segment], Mapping[bytes, bytes]]
"""What to keep beside the rows of a new segment, in its file."""


def batches(endpoint: Path) -> Iterator[tuple[list[Block], list[Path]]]:
    """The blocks that wait, ordered by name, a segment's worth at a time; and those that are damaged."""
    good: list[Block] = []
    damaged: list[Path] = []
    rows = size_bytes = 0
    for path in sorted((endpoint / "capture").glob("*.npz")):
        try:
            table = to_table(read_block(path))
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error):
            damaged.append(path)
            continue
        good.append((f"capture/{path.name}", table))
        rows, size_bytes = rows + table.num_rows, size_bytes + table.nbytes
        if rows >= SEGMENT_ROWS or size_bytes >= SEGMENT_BYTES:
            yield good, damaged
            good, damaged, rows, size_bytes = [], [], 0, 0
    if good or damaged:
        yield good, damaged


def read_block(path: Path) -> dict[str, Array]:
    """A block's arrays, every feature as `in:<name>`; ValueError, KeyError, OSError and more when it is none."""
    # a stream of our own: np.load leaves the file open when it is no archive
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
        block = {name: file[name] for name in file.files}
    if "floats" in block:
        floats, names = block.pop("floats"), block.pop("float_names").tolist()
        if floats.ndim != 2 or floats.shape[1] != len(names):
            raise ValueError(f"floats of shape {floats.shape} for {len(names)} names")
        block.update({f"{FEATURE}{name}": floats[:, i].astype("float64") for i, name in enumerate(names)})
    return with_uneven(block)


def with_uneven(block: dict[str, Array]) -> dict[str, Array]:
    """Bytes and tensors of any length as objects, one a row. Raises KeyError or ValueError."""
    for name in [key.removeprefix(FLAT) for key in block if key.startswith(FLAT)]:
        flat, ends = block.pop(FLAT + name), block.pop(ENDS + name)
        gaps = block.pop(NULL + name, np.zeros(len(ends), bool))
        block[FEATURE + name] = Uneven(flat, ends, gaps, block.pop(SHAPE + name, None)).rows()
    return block


def to_table(block: Mapping[str, Array]) -> pa.Table:
    """A block's rows; ValueError or KeyError when it is not one."""
    rows = len(block["request"])
    if missing := [name for name in REQUIRED if name not in block]:
        raise KeyError(f"{missing} missing")
    if odd := [name for name, values in block.items() if len(values) != rows]:
        raise ValueError(f"{odd} have another length than {rows}")
    kept = {n: v for n, v in block.items() if n in KEPT or n.startswith((FEATURE, CONTEXT, OUTPUT))}
    times, versions = np.asarray(block["time_us"], np.int64), np.asarray(block["version"], np.int32)
    table = arrow_table({"time_us": times, "version": versions, **kept})
    for place, name in enumerate(table.column_names):
        if (mask := _mask(block, name)) is not None:
            column = table[name].combine_chunks()
            nulls = pc.if_else(pa.array(mask), pa.scalar(None, column.type), column)
            table = table.set_column(place, name, nulls)
    return table.add_column(0, "id", prediction_ids(block["request"], block["row"]))


def prediction_ids(requests: Array, rows: Array) -> pa.Array:
    """`<uuid>/<row>`."""
    uuids = pc.cast(pa.array(np.asarray(requests, "S36").tolist(), pa.binary()), pa.string())
    numbers = pc.cast(pa.array(np.asarray(rows, np.int64)), pa.string())
    return pc.binary_join_element_wise(uuids, numbers, "/")


def add_rows(
    history: History, tables: Sequence[pa.Table], note: Note
) -> tuple[tuple[Segment, ...], tuple[str, ...]]:
    """Write new segments, one per layout. Returns the history's segments then, and files they replace."""
    segments, replaced = list(history.index.segments), []
    groups: dict[str, list[pa.Table]] = {}
    for table in tables:
        if table.num_rows:
            groups.setdefault(_layout(table), []).append(table)
    for number, (layout, group) in enumerate(groups.items()):
        parts = group
        while old := _to_fill_up(segments, layout, parts):
            parts = [history.table(old.file), *parts]
            segments.remove(old)
            replaced.append(old.file)
        table = below_each_other(parts)
        described = _describe(table, layout)
        file = history.write("rows", table, number, note(table, described))
        segments.append(replace(described, file=file))
    return tuple(segments), tuple(replaced)


def plain_name(stored: str) -> str:
    """The name that clients use."""
    return stored.removeprefix(FEATURE) if stored.startswith(FEATURE) else stored.removeprefix(CONTEXT)


def ticks_of(table: pa.Table, column: str) -> Array:
    """Epoch us of each row, by the column with the event's time, "" for the prediction's own."""
    predicted = to_numpy(table["time_us"])
    moments = as_times(table[column]) if column else None
    return predicted if moments is None else _or_predicted(moments, predicted)


# ---- helpers


def _mask(block: Mapping[str, Array], name: str) -> Array | None:
    """Which values of a column are missing, as far as the values themselves do not tell."""
    mask = block.get(NULL + plain_name(name))
    return None if mask is None or mask.ndim != 1 else np.asarray(mask, np.bool_)


def _to_fill_up(segments: Sequence[Segment], layout: str, parts: Sequence[pa.Table]) -> Segment | None:
    """The newest segment of the layout, if it is of the same day and not much larger than what would join.

    "Not much larger" keeps the number of files small and writes each row about log(n) times at most.
    """
    newest = next((s for s in reversed(segments) if s.layout == layout), None)
    rows, size_bytes = sum(part.num_rows for part in parts), sum(part.nbytes for part in parts)
    if newest is None or newest.rows > 4 * rows or newest.rows + rows > SEGMENT_ROWS:
        return None
    if newest.size_bytes + size_bytes > SEGMENT_BYTES:
        return None
    first = int(pc.min(parts[0]["time_us"]).as_py())
    return newest if newest.times[""][0] // DAY_US == first // DAY_US else None


def _layout(table: pa.Table) -> str:
    """Names and types of the columns: rows of one layout can share a file."""
    fields = sorted(table.schema, key=lambda item: item.name)
    text = repr([(item.name, str(item.type), *shape_of(item)) for item in fields])
    return blake2b(text.encode(), digest_size=6).hexdigest()


def _describe(table: pa.Table, layout: str) -> Segment:
    low, high = pc.min_max(table["id"]).as_py().values()
    names = tuple(name for name in table.column_names if name.startswith((FEATURE, CONTEXT)))
    predicted = to_numpy(table["time_us"])
    times: dict[str, Range] = {"": (int(predicted.min()), int(predicted.max()))}
    for name in names:
        if (moments := as_times(table[name])) is not None:
            ticks = _or_predicted(moments, predicted)
            times[name] = (int(ticks.min()), int(ticks.max()))
    return Segment("", table.num_rows, (low, high), layout, times, names, table.nbytes)


def _or_predicted(moments: Array, predicted: Array) -> Array:
    """Epoch us of the event, or of the prediction where the event's time is missing."""
    return np.where(np.isnat(moments), predicted, moments.astype(np.int64))
