"""Labels meet the rows that they are true of: each change of an endpoint's labels as the history's next index."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mlplatform.data import labels
from mlplatform.data.index import History, Index
from mlplatform.domain.counts import SHADOW
from mlplatform.domain.joining import SHOWN_MISTAKES, Numbered, Place, Sorted, sort_labels
from mlplatform.domain.truth import BadLabel, Label, Misfit, Rules
from mlplatform.ports.data import Corrected, Correction, KeptAside, Labelled
from mlplatform.stats.batch import Array
from mlplatform.stats.given import Given, read_given

EXAMPLES = 5


def read_document(path: Path) -> Given:
    """Labels that came by HTTP; ValueError, TypeError or KeyError when it is not such a document."""
    items = json.loads(path.read_bytes())["labels"]
    if not all(isinstance(item, dict) for item in items):
        raise ValueError("labels must be objects with id and label")
    given = read_given([item["id"] for item in items], [item["label"] for item in items])
    if any(isinstance(item["label"], list | dict) for item in items):
        raise ValueError("a label is a number, text or true/false")
    return given


def add(
    history: History, given: Sequence[Given], rules: Rules, by: Correction | None = None
) -> tuple[Labelled, Index | None]:
    """Write new labels. Returns what became of them, and the index that makes it true; None where nothing changes."""
    numbered = [label for some in given for label in some.labels]
    ids = pa.chunked_array([pa.array([name for _, name, _ in numbered], pa.string())])
    waiting = labels.pending(history)
    known = labels.to_labels(_among(waiting, ids)) | labels.to_labels(
        _among(labels.lookup(history, ids), ids)
    )
    found = sort_labels(numbered, places_of(history, ids), known, rules, by is not None)
    index = _index(history, found, waiting, by) if found.changes else None
    return _counted(given, found), index


def arrived(history: History, tables: Sequence[pa.Table], rules: Rules) -> Index:
    """Labels that waited for these rows, as the history's next index."""
    waiting = labels.pending(history)
    if not waiting.num_rows:
        return labels.with_labels(history.index)
    came = _among(waiting, pa.chunked_array([c for table in tables for c in table["id"].chunks], pa.string()))
    if not came.num_rows:
        return labels.with_labels(history.index)
    found = sort_labels(_numbered(labels.to_labels(came)), _places(tables), {}, rules)
    left = waiting.filter(pc.invert(pc.is_in(waiting["id"], value_set=came["id"].combine_chunks())))
    return labels.with_labels(
        history.index,
        labels=labels.add_matched(history, history.index.labels, labels.to_table(found.matched)),
        pending=labels.rewrite_pending(history, left),
        refused=_aside(history, found),
    )


def reconsidered(history: History, rules: Rules) -> Index | None:
    """Labels that were kept aside and fit now, because the rules say otherwise; None where there are none."""
    aside = labels.refused(history)
    given = {name: label for name, (label, _) in aside.items()}
    found = sort_labels(_numbered(given), {name: place for name, (_, place) in aside.items()}, {}, rules)
    if not found.matched:
        return None
    return labels.with_labels(
        history.index,
        labels=labels.add_matched(history, history.index.labels, labels.to_table(found.matched)),
        refused=_aside(history, found),
    )


def kept_aside(history: History, rules: Rules) -> KeptAside:
    aside = labels.refused(history)
    examples = []
    for name, (label, place) in list(aside.items())[:EXAMPLES]:
        rule = rules(*place)
        read = rule.read(label) if rule else label
        examples.append(
            BadLabel.of(0, name, label, read.expected if isinstance(read, Misfit) else "nothing else")
        )
    return KeptAside(len(aside), tuple(examples))


def as_ruled(
    truth: Array, labelled: Array, models: Array, versions: Array, rules: Rules
) -> tuple[Array, Array]:
    """Labels as the versions would say them, None where they do not fit; and (n,) bool: where they do not."""
    truth, misfit = truth.copy(), np.zeros(len(truth), np.bool_)
    for row in np.flatnonzero(labelled):
        if (rule := rules(str(models[row]), int(versions[row]))) is None:
            continue
        read = rule.read(truth[row])
        misfit[row] = isinstance(read, Misfit)
        truth[row] = None if isinstance(read, Misfit) else read
    return truth, misfit


# ---- rows


def places_of(history: History, ids: pa.ChunkedArray) -> dict[str, Place]:
    """Models and versions of those of the rows that were captured."""
    if not len(ids):
        return {}
    low, high = pc.min_max(ids).as_py().values()
    found: list[pa.Table] = []
    for segment in history.index.segments:
        if segment.ids[0] <= high and segment.ids[1] >= low:
            names = pq.read_schema(history.folder / segment.file).names
            table = history.table(segment.file, [n for n in ("id", "model", "version", "arm") if n in names])
            found.append(_among(table, ids))
    return _places(found)


def _places(tables: Iterable[pa.Table]) -> dict[str, Place]:
    """Of a row that a shadow answered too the place of the answer that was given."""
    out: dict[str, Place] = {}
    for table in tables:
        names, versions = table["id"].to_pylist(), table["version"].to_pylist()
        models = table["model"].to_pylist() if "model" in table.column_names else [""] * len(names)
        arms = table["arm"].to_pylist() if "arm" in table.column_names else [""] * len(names)
        for name, model, version, arm in zip(names, models, versions, arms, strict=True):
            if arm != SHADOW or name not in out:
                out[name] = (model or "", version)
    return out


# ---- helpers


def _index(history: History, found: Sorted, waiting: pa.Table, by: Correction | None) -> Index:
    now = history.index
    outdated = list(found.outdated)
    files, gone = labels.without(history, now.labels, outdated)
    files, merged = labels.add_matched(history, files, labels.to_table(found.matched))
    parts: dict[str, tuple[Any, labels.Gone]] = {"labels": (files, (*gone, *merged))}
    if found.waiting:
        left = waiting.filter(pc.invert(pc.is_in(waiting["id"], value_set=pa.array(outdated, pa.string()))))
        together = pa.concat_tables([left, labels.to_table(found.waiting)])
        parts["pending"] = labels.rewrite_pending(history, together)
    if by is not None and found.outdated:
        parts["earlier"] = labels.add_earlier(history, found.outdated, found.joined, by)
    parts["refused"] = _aside(history, found)
    return labels.with_labels(now, **parts)


def _aside(history: History, found: Sorted) -> tuple[Any, labels.Gone]:
    """What is kept aside from now on: a row that got its label is no longer among it."""
    old = labels.refused(history)
    new = {name: kept for name, kept in (old | found.aside).items() if name not in found.matched}
    return (history.index.refused, ()) if new == old else labels.rewrite_refused(history, new)


def _counted(given: Sequence[Given], found: Sorted) -> Labelled:
    counts = found.counts
    bad = sorted([*(bad for some in given for bad in some.bad), *found.bad], key=lambda one: one.row)
    return Labelled(
        matched=counts["matched"],
        pending=counts["pending"],
        repeated=counts["repeated"],
        conflicting=counts["conflicting"],
        empty=sum(some.empty for some in given),
        refused=counts["refused"] + sum(some.refused for some in given),
        unknown_class=counts["unknown_class"],
        replaced=counts["replaced"],
        bad=tuple(bad[:SHOWN_MISTAKES]),
        corrected=tuple(Corrected(*place, count) for place, count in sorted(found.corrected.items())),
    )


def _numbered(some: Mapping[str, Label]) -> list[Numbered]:
    return [(0, name, label) for name, label in some.items()]


def _among(table: pa.Table, ids: pa.ChunkedArray) -> pa.Table:
    return table.filter(pc.is_in(table["id"], value_set=ids.combine_chunks()))
