"""Files of labels: what came true, by prediction id. They may come late, twice, in conflict, or before their row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.data.arrow import below_each_other
from mlplatform.data.index import History, Index, LabelFile
from mlplatform.data.times import epoch_us
from mlplatform.domain.joining import Place
from mlplatform.domain.truth import Label
from mlplatform.ports.data import Correction
from mlplatform.stats.batch import Array

LABEL_ROWS = 262_144
"""A file of labels is filled up to this."""
SCHEMA = pa.schema([("id", pa.string()), ("label", pa.string())])
"""A label is JSON text, so that numbers, text and booleans survive."""
NOTHING = pa.Table.from_batches([], SCHEMA)  # `empty_table` would load pandas
REFUSED = pa.schema([*SCHEMA, ("model", pa.string()), ("version", pa.int32())])
EARLIER = pa.schema([*SCHEMA, ("by", pa.string()), ("at_us", pa.int64()), ("actor", pa.string())])
"""`label` was replaced by the label `by`."""

Files = tuple[LabelFile, ...]
Gone = tuple[str, ...]
"""Files that others replace."""


def to_table(labels: Mapping[str, Label]) -> pa.Table:
    return pa.table({"id": list(labels), "label": [json.dumps(label) for label in labels.values()]}, SCHEMA)


def to_labels(table: pa.Table) -> dict[str, Label]:
    return {
        name: json.loads(label)
        for name, label in zip(table["id"].to_pylist(), table["label"].to_pylist(), strict=True)
    }


# ---- joined labels


def add_matched(history: History, files: Files, labels: pa.Table) -> tuple[Files, Gone]:
    """Write labels whose rows are there; files of few labels are merged into larger ones."""
    return _append(history, "labels", files, labels)


def without(history: History, files: Files, ids: Sequence[str]) -> tuple[Files, Gone]:
    """The same labels but for those of some rows; only files that hold one are written anew."""
    if not ids:
        return files, ()
    wanted, kept, gone = pa.array(ids, pa.string()), list[LabelFile](), list[str]()
    for file in files:
        table = history.table(file.file)
        among = pc.is_in(table["id"], value_set=wanted)
        if not pc.any(among).as_py():
            kept.append(file)
            continue
        gone.append(file.file)
        left = table.filter(pc.invert(among))
        if left.num_rows:
            kept.append(_write(history, "labels", left, 1 + len(gone)))
    return tuple(kept), tuple(gone)


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


# ---- labels that are not joined


def pending(history: History) -> pa.Table:
    return history.table(history.index.pending.file) if history.index.pending else NOTHING


def rewrite_pending(history: History, labels: pa.Table) -> tuple[LabelFile | None, Gone]:
    """All labels that wait now; the file that they replace."""
    return _rewrite(history, "pending", history.index.pending, labels)


def refused(history: History) -> dict[str, tuple[Label, Place]]:
    """Labels that do not fit their rows, which have no other."""
    if history.index.refused is None:
        return {}
    columns = (history.table(history.index.refused.file)[name].to_pylist() for name in REFUSED.names)
    return {
        name: (json.loads(label), (model, version))
        for name, label, model, version in zip(*columns, strict=True)
    }


def rewrite_refused(
    history: History, aside: Mapping[str, tuple[Label, Place]]
) -> tuple[LabelFile | None, Gone]:
    rows = [(name, json.dumps(label), *place) for name, (label, place) in aside.items()]
    return _rewrite(history, "refused", history.index.refused, _of_rows(rows, REFUSED))


def add_earlier(
    history: History, earlier: Mapping[str, Label], now: Mapping[str, Label], by: Correction
) -> tuple[Files, Gone]:
    """Remember labels that are replaced."""
    at = epoch_us(by.at)
    rows = [(name, json.dumps(old), json.dumps(now[name]), at, by.actor) for name, old in earlier.items()]
    return _append(history, "earlier", history.index.earlier, _of_rows(rows, EARLIER))


def with_labels(index: Index, **parts: tuple[Any, Gone]) -> Index:
    """The next index: the files of each part, and all that they replace."""
    gone = tuple(name for _, names in parts.values() for name in names)
    return replace(index, replaced=gone, consumed=(), **{name: files for name, (files, _) in parts.items()})


# ---- helpers


def _append(history: History, kind: str, files: Files, table: pa.Table) -> tuple[Files, Gone]:
    kept, gone = list(files), list[str]()
    if not table.num_rows:
        return files, ()
    while kept and kept[-1].rows <= 4 * table.num_rows and kept[-1].rows + table.num_rows <= LABEL_ROWS:
        old = kept.pop()
        gone.append(old.file)
        table = pa.concat_tables([history.table(old.file), table])
    return (*kept, _write(history, kind, table)), tuple(gone)


def _rewrite(
    history: History, kind: str, old: LabelFile | None, table: pa.Table
) -> tuple[LabelFile | None, Gone]:
    return (_write(history, kind, table) if table.num_rows else None), (old.file,) if old else ()


def _write(history: History, kind: str, table: pa.Table, number: int = 0) -> LabelFile:
    ordered = table.sort_by("id")
    low, high = ordered["id"][0].as_py(), ordered["id"][-1].as_py()
    return LabelFile(history.write(kind, ordered, number), ordered.num_rows, (low, high))


def _of_rows(rows: Iterable[tuple[Any, ...]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
