"""Labels: what came true, by prediction id. They may come late, twice, in conflict, or before their row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.data.arrow import below_each_other
from mlplatform.data.index import History, LabelFile
from mlplatform.ports.data import Labelled
from mlplatform.stats.batch import Array
from mlplatform.stats.spec import is_null

LABEL_ROWS = 262_144
"""A file of labels is filled up to this."""
SCHEMA = pa.schema([("id", pa.string()), ("label", pa.string())])
NOTHING = pa.Table.from_batches([], SCHEMA)  # `empty_table` would load pandas


def to_table(ids: Iterable[Any], truth: Iterable[Any]) -> pa.Table:
    """Labels as JSON text, so that numbers, text and booleans survive; a null is no label and left out."""
    pairs = [(str(i), json.dumps(_plain(t))) for i, t in zip(ids, truth, strict=True) if not is_null(t)]
    return pa.table({"id": [i for i, _ in pairs], "label": [t for _, t in pairs]}, SCHEMA)


def read_document(path: Path) -> pa.Table:
    """Labels that came by HTTP; ValueError or KeyError when it is not such a document."""
    items = json.loads(path.read_bytes())["labels"]
    if not all(isinstance(item, dict) for item in items):
        raise ValueError("labels must be objects with id and label")
    return to_table((item["id"] for item in items), (item["label"] for item in items))


def add(
    history: History, labels: pa.Table
) -> tuple[Labelled, tuple[LabelFile, ...], LabelFile | None, tuple[str, ...]]:
    """Write new labels. Returns the counts; then the history's label files, pending file, replaced files."""
    labels, repeated, conflicting = _first_of_each(labels)
    waiting = pending(history)
    for known in (lookup(history, labels["id"]), waiting):
        again, differing, labels = _compare(labels, known)
        repeated, conflicting = repeated + again, conflicting + differing
    there = _rows_there(history, labels["id"])
    matched, unmatched = labels.filter(there), labels.filter(pc.invert(there))
    files, replaced = add_matched(history, matched)
    waits, gone = history.index.pending, tuple[str, ...]()
    if unmatched.num_rows:
        waits, gone = rewrite_pending(history, pa.concat_tables([waiting, unmatched]))
    counts = Labelled(matched.num_rows, unmatched.num_rows, repeated, conflicting)
    return counts, files, waits, (*replaced, *gone)


def add_matched(history: History, labels: pa.Table) -> tuple[tuple[LabelFile, ...], tuple[str, ...]]:
    """Write labels whose rows are there; files of few labels are merged into larger ones."""
    files, replaced = list(history.index.labels), []
    if not labels.num_rows:
        return tuple(files), ()
    while files and files[-1].rows <= 4 * labels.num_rows and files[-1].rows + labels.num_rows <= LABEL_ROWS:
        old = files.pop()
        replaced.append(old.file)
        labels = pa.concat_tables([history.table(old.file), labels])
    files.append(_write(history, "labels", labels))
    return tuple(files), tuple(replaced)


def rewrite_pending(history: History, labels: pa.Table) -> tuple[LabelFile | None, tuple[str, ...]]:
    """All labels that wait now; the file that they replace."""
    old = (history.index.pending.file,) if history.index.pending else ()
    return (_write(history, "pending", labels) if labels.num_rows else None), old


def pending(history: History) -> pa.Table:
    return history.table(history.index.pending.file) if history.index.pending else NOTHING


def lookup(history: History, ids: pa.ChunkedArray) -> pa.Table:
    """Known labels with ids between the smallest and the largest of these; others may be among them."""
    if not len(ids):
        return NOTHING
    low, high = pc.min_max(ids).as_py().values()
    between = [("id", ">=", low), ("id", "<=", high)]
    files = [f for f in history.index.labels if f.ids[0] <= high and f.ids[1] >= low]
    return below_each_other([NOTHING, *(history.table(f.file, filters=between) for f in files)])


def truth_of(ids: pa.ChunkedArray, known: pa.Table) -> tuple[Array, Array]:
    """(n,) object labels with None, and (n,) bool: where there is one."""
    place = pc.index_in(ids, value_set=known["id"].combine_chunks())
    labelled = np.asarray(pc.is_valid(place).to_numpy())
    encoded = known["label"].combine_chunks().dictionary_encode()
    values = np.empty(len(encoded.dictionary) + 1, object)
    values[:-1] = [json.loads(text) for text in encoded.dictionary.to_pylist()]
    codes = pc.take(encoded.indices, place).fill_null(len(values) - 1)
    return values[np.asarray(codes.to_numpy())], labelled


# ---- helpers


def _write(history: History, kind: str, labels: pa.Table) -> LabelFile:
    ordered = labels.sort_by("id")
    low, high = ordered["id"][0].as_py(), ordered["id"][-1].as_py()
    return LabelFile(history.write(kind, ordered), ordered.num_rows, (low, high))


def _first_of_each(labels: pa.Table) -> tuple[pa.Table, int, int]:
    """The first label of every id; how many others said the same, and how many something else."""
    seen: dict[str, str] = {}
    keep: list[bool] = []
    repeated = conflicting = 0
    for name, label in zip(labels["id"].to_pylist(), labels["label"].to_pylist(), strict=True):
        keep.append(name not in seen)
        if keep[-1]:
            seen[name] = label
        elif _same(seen[name], label):
            repeated += 1
        else:
            conflicting += 1
    if not repeated + conflicting:
        return labels, 0, 0
    return labels.filter(pa.array(keep, pa.bool_())), repeated, conflicting


def _compare(labels: pa.Table, known: pa.Table) -> tuple[int, int, pa.Table]:
    """How many of the labels are known alike, how many otherwise; and those that are not known."""
    place = pc.index_in(labels["id"], value_set=known["id"].combine_chunks())
    is_known = pc.is_valid(place)
    old = pc.take(known["label"], pc.drop_null(place)).to_pylist()
    new = labels["label"].filter(is_known).to_pylist()
    same = sum(map(_same, old, new))
    return same, len(old) - same, labels.filter(pc.invert(is_known))


def _rows_there(history: History, ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """Which of the ids were captured."""
    found: list[pa.Array] = [pa.array([], pa.string())]
    if len(ids):
        low, high = pc.min_max(ids).as_py().values()
        wanted = ids.combine_chunks()
        for segment in history.index.segments:
            if segment.ids[0] <= high and segment.ids[1] >= low:
                there = history.table(segment.file, ["id"])["id"]
                found.extend(there.filter(pc.is_in(there, value_set=wanted)).chunks)
    return pc.is_in(ids, value_set=pa.chunked_array(found).combine_chunks())


def _same(a: str, b: str) -> bool:
    """1, 1.0, true and "1" are the same label: a CSV file and a JSON document may write it differently."""
    return a == b or _key(json.loads(a)) == _key(json.loads(b))


def _key(label: Any) -> str:
    if isinstance(label, bool):
        return str(int(label))
    return str(int(label)) if isinstance(label, float) and label.is_integer() else str(label)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, str | int | float | bool):
        return value
    raise ValueError(f"a label is a number, text or true/false, not {type(value).__name__}")


def in_any(ids: pa.ChunkedArray, tables: Sequence[pa.Table]) -> pa.ChunkedArray:
    """Which of the ids occur among the rows of the tables."""
    there = pa.chunked_array([chunk for table in tables for chunk in table["id"].chunks], pa.string())
    return pc.is_in(ids, value_set=there.combine_chunks())
