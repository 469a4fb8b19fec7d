"""Rows of a stretch of time, joined with their labels, without reading the rest of the history."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.data.arrow import below_each_other, column_of, to_numpy
from mlplatform.data.capture import CONTEXT, FEATURE, plain_name, ticks_of
from mlplatform.data.index import History, Range, Segment
from mlplatform.data.joining import as_ruled
from mlplatform.data.labels import lookup, refused, truth_of
from mlplatform.domain.counts import SHADOW
from mlplatform.domain.truth import Rules, anything
from mlplatform.errors import UnknownName, UsageError
from mlplatform.ports.data import Observed
from mlplatform.stats.batch import Array

Part = tuple[pa.Table, Array]
"""Rows of one segment, and their epoch us."""
ANSWERS = ("prediction", "scores")


@dataclass(frozen=True)
class Span:
    """Rows with start <= epoch us < end by a stored column, "" for the prediction's time; of one model where one is
    named; a shadow's, or all others."""

    column: str = ""
    start: int | None = None
    end: int | None = None
    model: str = ""
    shadow: bool = False

    def meets(self, given: Range) -> bool:
        return (self.start is None or given[1] >= self.start) and (self.end is None or given[0] < self.end)

    def holds(self, given: Range) -> bool:
        return (self.start is None or given[0] >= self.start) and (self.end is None or given[1] < self.end)


def event_column(history: History, time: str | None) -> str:
    """The stored name of the column with the event's time, "" for the prediction's own.

    Raises UnknownName when no captured row has the column, UsageError when it holds no times.
    """
    segments = history.index.segments
    if not time or not segments:
        return ""
    names = (FEATURE + time, CONTEXT + time)
    for name in names:
        if any(name in segment.times for segment in segments):
            return name
    if any(name in segment.columns for segment in segments for name in names):
        hint = "Name a column with ISO 8601 text, or with seconds since 1970."
        raise UsageError(what=f"the captured column {time!r} does not hold times", hint=hint)
    known = {plain_name(name) for segment in segments for name in segment.columns}
    raise UnknownName("captured column", time, known)


def span(history: History, column: str) -> Range | None:
    """Smallest and largest epoch us; None without rows."""
    ranges = [_range(segment, column) for segment in history.index.segments]
    return (min(low for low, _ in ranges), max(high for _, high in ranges)) if ranges else None


def overlapping(history: History, given: Span) -> list[Segment]:
    return [s for s in history.index.segments if given.meets(_range(s, given.column))]


def read(
    history: History, given: Span, labelled: bool, columns: bool = True, rules: Rules = anything
) -> Observed:
    """Rows of a span, oldest first; without `columns` only what was answered and what came true."""
    parts = [_part(history, segment, given, columns) for segment in overlapping(history, given)]
    parts = [part for part in parts if part[0].num_rows]
    if not parts:
        return nothing()
    ids = pa.chunked_array([chunk for table, _ in parts for chunk in table["id"].chunks])
    models, versions = (_together([table for table, _ in parts], name) for name in ("model", "version"))
    truth, has_truth = truth_of(ids, lookup(history, ids))
    truth, misfit = as_ruled(truth, has_truth, models, versions, rules)
    left_out = _by_version(versions[misfit | _is_among(ids, refused(history))])
    has_truth &= ~misfit
    if labelled:
        parts = _only(parts, has_truth)
        truth, has_truth = truth[has_truth], has_truth[has_truth]
    return replace(_observed(parts, truth, has_truth) if parts else nothing(), refused=left_out)


def nothing() -> Observed:
    text = np.empty(0, object)
    none = np.empty(0, np.bool_)
    return Observed(text, np.empty(0, "M8[us]"), np.empty(0, np.int32), {}, text, None, text, none)


def _together(tables: Sequence[pa.Table], name: str) -> Array:
    """One column of all tables, below each other; empty text where a table lacks it."""
    parts = [
        to_numpy(table[name]) if name in table.column_names else np.full(table.num_rows, "", object)
        for table in tables
    ]
    return np.concatenate(parts)


def _is_among(ids: pa.ChunkedArray, names: Collection[str]) -> Array:
    if not names:
        return np.zeros(len(ids), np.bool_)
    return to_numpy(pc.is_in(ids, value_set=pa.array(list(names), pa.string())))


def _by_version(versions: Array) -> dict[int, int]:
    numbers, counts = np.unique(versions, return_counts=True)
    return dict(zip(numbers.tolist(), counts.tolist(), strict=True))


# ---- one segment


def _range(segment: Segment, column: str) -> Range:
    return segment.times.get(column, segment.times[""])


def part(history: History, segment: Segment, given: Span, columns: Collection[str] | None = None) -> Part:
    """A segment's rows in a span; of some columns only, with those that tell whether a row is in it."""
    column = given.column if given.column in segment.times else ""
    wanted = None if columns is None else {*columns, "time_us", "arm", "model", column}
    table = history.table(segment.file, wanted, _pushdown(given))
    ticks = ticks_of(table, column)
    keep = np.ones(len(ticks), np.bool_)
    if given.start is not None:
        keep &= ticks >= given.start
    if given.end is not None:
        keep &= ticks < given.end
    if "arm" in table.column_names:
        keep &= (to_numpy(table["arm"]) == SHADOW) == given.shadow
    elif given.shadow:
        keep[:] = False
    if given.model:
        keep &= to_numpy(pc.equal(table["model"], given.model))
    return (table, ticks) if keep.all() else (table.filter(pa.array(keep)), ticks[keep])


def _part(history: History, segment: Segment, given: Span, columns: bool) -> Part:
    if columns:
        return part(history, segment, given)
    table, ticks = part(history, segment, given, {"id", "version", *ANSWERS})
    return table.drop_columns(
        [name for name in table.column_names if name.startswith((FEATURE, CONTEXT))]
    ), ticks


def _only(parts: Sequence[Part], keep: Array) -> list[Part]:
    """The rows to keep, of all parts below each other; parts without any are left out."""
    masks = np.split(keep, np.cumsum([table.num_rows for table, _ in parts])[:-1])
    pairs = zip(parts, masks, strict=True)
    return [(table.filter(pa.array(mask)), ticks[mask]) for (table, ticks), mask in pairs if mask.any()]


def _pushdown(given: Span) -> list[tuple[str, str, int]] | None:
    """Row groups outside the window are not even decompressed, where Parquet knows the time."""
    if given.column:
        return None
    low = [("time_us", ">=", given.start)] if given.start is not None else []
    high = [("time_us", "<", given.end)] if given.end is not None else []
    return [*low, *high] or None


# ---- several segments


def _observed(parts: Sequence[Part], truth: Array, labelled: Array) -> Observed:
    tables = [table for table, _ in parts]
    ticks = np.concatenate([ticks for _, ticks in parts])
    order = np.argsort(ticks, kind="stable")
    table = below_each_other([t.drop_columns([a for a in ANSWERS if a in t.column_names]) for t in tables])
    if (order[1:] < order[:-1]).any():
        table = table.take(pa.array(order))
    predictions, scores = (_stacked(tables, name) for name in ANSWERS)
    return Observed(
        ids=to_numpy(table["id"]),
        times=ticks[order].astype("datetime64[us]"),
        versions=to_numpy(table["version"]),
        columns=_columns(table),
        predictions=np.empty(0) if predictions is None else predictions[order],
        scores=None if scores is None else scores[order],
        truth=truth[order],
        labelled=labelled[order],
    )


def _columns(table: pa.Table) -> dict[str, Array]:
    """By the names that clients used; a feature wins over a context column of the same name."""
    stored = [name for name in table.column_names if name.startswith((FEATURE, CONTEXT))]
    by_kind = sorted(stored, key=lambda name: name.startswith(FEATURE))
    return {plain_name(name): column_of(table, name) for name in by_kind}


def _stacked(tables: Sequence[pa.Table], name: str) -> Array | None:
    """One array where all versions answered in one shape, else an object a row; None when nobody did."""
    parts = [to_numpy(table[name]) if name in table.column_names else None for table in tables]
    given = [part for part in parts if part is not None]
    if not given:
        return None
    if len(given) == len(parts) and len({part.shape[1:] for part in given}) == 1:
        return np.concatenate(given)
    out = np.empty(sum(table.num_rows for table in tables), object)
    first = 0
    for table, part in zip(tables, parts, strict=True):
        for row in range(table.num_rows if part is not None else 0):
            out[first + row] = part[row]  # type: ignore[index]
        first += table.num_rows
    return out
