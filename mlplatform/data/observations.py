"""FolderObservations: captured rows and labels in the folders that servers and control plane share."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.data import labels, profiles, windows
from mlplatform.data.capture import Block, Note, add_rows, batches
from mlplatform.data.files import link_or_copy
from mlplatform.data.index import History, reading, writing
from mlplatform.data.retention import expire
from mlplatform.data.times import epoch_us, from_epoch_us
from mlplatform.data.windows import Span
from mlplatform.errors import UsageError
from mlplatform.ports.data import EVERYTHING, Ingested, Labelled, Observed, Profiling, Retention
from mlplatform.stats.batch import Array
from mlplatform.stats.profile import Profile
from mlplatform.stats.spec import ReferenceSpec

PARTS = ("capture", "inbox", "segments")


class FolderObservations:
    """Port `Observations`. Any number of processes may use it at once; no row is lost or doubled."""

    def __init__(self, folder: Callable[[str], Path]) -> None:
        """`folder`: from an endpoint's name to its folder (port `Documents`)."""
        self._folder = folder

    def ingest(
        self, endpoint: str, keep: Retention = EVERYTHING, profiling: Profiling | None = None
    ) -> Ingested:
        """Blocks into segments, then labels that came by HTTP. Damaged files go to `damaged/`."""
        folder = self._folder(endpoint)
        blocks = rows = aside = expired = 0
        if not any((folder / name).is_dir() for name in PARTS):
            return Ingested(0, 0, 0)
        with writing(folder) as history:
            for good, damaged in batches(folder):
                _take_in(history, good, profiles.keeper(profiling))
                blocks, rows = blocks + len(good), rows + sum(table.num_rows for _, table in good)
                aside += _set_aside(folder, damaged)
            aside += _take_inbox(history)
            if keep != EVERYTHING:
                expired = expire(history, keep)
        return Ingested(blocks, rows, aside, expired)

    def label(self, endpoint: str, ids: Array, truth: Array) -> Labelled:
        """Keep labels by prediction id; nulls are left out. Raises UsageError for what is no label."""
        if len(ids) != len(truth):
            raise UsageError(what=f"{len(ids)} ids but {len(truth)} labels")
        try:
            table = labels.to_table(ids, truth)
        except (TypeError, ValueError) as error:
            raise UsageError(what=str(error)) from error
        with writing(self._folder(endpoint)) as history:
            return _add_labels(history, table, ())

    def span(self, endpoint: str, time: str | None) -> tuple[datetime, datetime] | None:
        with reading(self._folder(endpoint)) as history:
            ends = windows.span(history, windows.event_column(history, time))
        return (from_epoch_us(ends[0]), from_epoch_us(ends[1])) if ends else None

    def read(
        self,
        endpoint: str,
        start: datetime | None = None,
        end: datetime | None = None,
        time: str | None = None,
        labelled: bool = False,
        model: str = "",
        shadow: bool = False,
        columns: bool = True,
    ) -> Observed:
        """Rows with start <= time < end, joined with their labels.

        A row whose event time is missing counts by its prediction's.
        """
        with reading(self._folder(endpoint)) as history:
            span = replace(_span(history, start, end, time, model), shadow=shadow)
            return windows.read(history, span, labelled, columns)

    def profile(
        self,
        endpoint: str,
        spec: ReferenceSpec,
        version: int,
        start: datetime | None = None,
        end: datetime | None = None,
        time: str | None = None,
        model: str = "",
    ) -> Profile:
        """Merged from what the segments keep; rows are read only of those that the span cuts or that keep nothing."""
        with reading(self._folder(endpoint)) as history:
            return profiles.window(history, spec, version, _span(history, start, end, time, model))

    def pending(self, endpoint: str) -> int:
        with reading(self._folder(endpoint)) as history:
            return history.index.pending.rows if history.index.pending else 0

    def copied(self, endpoint: str, into: Path) -> FolderObservations:
        """By hard links where the disk has them: files are replaced here, never written into."""
        source, copy = self._folder(endpoint), into / endpoint
        with reading(source):
            for path in (p for name in PARTS for p in sorted((source / name).glob("*"))):
                if path.suffix in (".npz", ".json", ".parquet"):
                    (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
                    with suppress(FileNotFoundError):  # a server's own temporary name
                        link_or_copy(path, copy / path.parent.name / path.name)
        return FolderObservations(lambda name: copy if name == endpoint else self._folder(name))


def _span(
    history: History, start: datetime | None, end: datetime | None, time: str | None, model: str
) -> Span:
    first, last = (None if moment is None else epoch_us(moment) for moment in (start, end))
    return Span(windows.event_column(history, time), first, last, model)


def _take_in(history: History, blocks: list[Block], note: Note) -> None:
    """One change: rows become segments, labels that waited for them are matched, the blocks are done."""
    if not blocks:
        return
    tables = [table for _, table in blocks]
    segments, replaced = add_rows(history, tables, note)
    waiting = labels.pending(history)
    files, waits, gone = history.index.labels, history.index.pending, replaced
    if waiting.num_rows:
        came = labels.in_any(waiting["id"], tables)
        if pc.any(came).as_py():
            files, merged = labels.add_matched(history, waiting.filter(came))
            waits, old = labels.rewrite_pending(history, waiting.filter(pc.invert(came)))
            gone = (*replaced, *merged, *old)
    consumed = tuple(name for name, _ in blocks)
    index = replace(history.index, segments=segments, labels=files, pending=waits)
    history.commit(replace(index, consumed=consumed, replaced=gone))


def _add_labels(history: History, table: pa.Table, consumed: tuple[str, ...]) -> Labelled:
    counts, files, waits, gone = labels.add(history, table)
    if consumed or counts.matched or counts.pending:
        index = replace(history.index, labels=files, pending=waits)
        history.commit(replace(index, consumed=consumed, replaced=gone))
    return counts


def _take_inbox(history: History) -> int:
    """Labels that came by HTTP, all in one change; the number of documents that were set aside."""
    tables, names, damaged = [], [], []
    for path in sorted((history.endpoint / "inbox").glob("*.json")):
        try:
            tables.append(labels.read_document(path))
            names.append(f"inbox/{path.name}")
        except (OSError, ValueError, KeyError, TypeError):
            damaged.append(path)
    if tables:
        _add_labels(history, pa.concat_tables(tables), tuple(names))
    return _set_aside(history.endpoint, damaged)


def _set_aside(folder: Path, paths: list[Path]) -> int:
    for path in paths:
        (folder / "damaged").mkdir(exist_ok=True)
        os.replace(path, folder / "damaged" / path.name)
    return len(paths)
