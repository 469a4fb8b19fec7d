"""FolderObservations: captured rows and labels in the folders that servers and control plane share."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from mlplatform.data import joining, labels, profiles, windows
from mlplatform.data.capture import Block, Note, add_rows, batches
from mlplatform.data.files import link_or_copy
from mlplatform.data.index import History, reading, writing
from mlplatform.data.retention import expire
from mlplatform.data.times import epoch_us, from_epoch_us
from mlplatform.data.windows import Span
from mlplatform.domain.truth import Rules, anything
from mlplatform.errors import UsageError
from mlplatform.ports.data import (
    EVERYTHING,
    Correction,
    Ingested,
    KeptAside,
    Labelled,
    Observed,
    Profiling,
    Retention,
)
from mlplatform.stats.batch import Array
from mlplatform.stats.given import Given, read_given
from mlplatform.stats.profile import Profile
from mlplatform.stats.spec import ReferenceSpec

PARTS = ("capture", "inbox", "segments")


class FolderObservations:
    """Port `Observations`. Any number of processes may use it at once; no row is lost or doubled."""

    def __init__(self, folder: Callable[[str], Path], rules: Rules = anything) -> None:
        """`folder`: from an endpoint's name to its folder (port `Documents`). `rules`: what may be true of a row."""
        self._folder, self._rules = folder, rules

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
                _take_in(history, good, profiles.keeper(profiling), self._rules)
                blocks, rows = blocks + len(good), rows + sum(table.num_rows for _, table in good)
                aside += _set_aside(folder, damaged)
            aside += _take_inbox(history, self._rules)
            if (index := joining.reconsidered(history, self._rules)) is not None:
                history.commit(index)
            if keep != EVERYTHING:
                expired = expire(history, keep)
        return Ingested(blocks, rows, aside, expired)

    def label(self, endpoint: str, ids: Array, truth: Array, replacing: Correction | None = None) -> Labelled:
        """Keep labels by prediction id; those that do not fit are counted, told and kept aside."""
        if len(ids) != len(truth):
            raise UsageError(what=f"{len(ids)} ids but {len(truth)} labels")
        given = read_given(ids, truth)
        with writing(self._folder(endpoint)) as history:
            return _add_labels(history, [given], self._rules, by=replacing)

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
            return windows.read(history, span, labelled, columns, self._rules)

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

    def aside(self, endpoint: str) -> KeptAside:
        with reading(self._folder(endpoint)) as history:
            return joining.kept_aside(history, self._rules)

    def copied(self, endpoint: str, into: Path) -> FolderObservations:
        """By hard links where the disk has them: files are replaced here, never written into."""
        source, copy = self._folder(endpoint), into / endpoint
        with reading(source):
            for path in (p for name in PARTS for p in sorted((source / name).glob("*"))):
                if path.suffix in (".npz", ".json", ".parquet"):
                    (copy / path.parent.name).mkdir(parents=True, exist_ok=True)
                    with suppress(FileNotFoundError):  # a server's own temporary name
                        link_or_copy(path, copy / path.parent.name / path.name)
        return FolderObservations(lambda name: copy if name == endpoint else self._folder(name), self._rules)


def _span(
    history: History, start: datetime | None, end: datetime | None, time: str | None, model: str
) -> Span:
    first, last = (None if moment is None else epoch_us(moment) for moment in (start, end))
    return Span(windows.event_column(history, time), first, last, model)


def _take_in(history: History, blocks: list[Block], note: Note, rules: Rules) -> None:
    """One change: rows become segments, labels that waited for them are matched, the blocks are done."""
    if not blocks:
        return
    tables = [table for _, table in blocks]
    segments, replaced = add_rows(history, tables, note)
    index = joining.arrived(history, tables, rules)
    consumed = tuple(name for name, _ in blocks)
    history.commit(
        replace(index, segments=segments, consumed=consumed, replaced=(*replaced, *index.replaced))
    )


def _add_labels(
    history: History,
    given: list[Given],
    rules: Rules,
    consumed: tuple[str, ...] = (),
    by: Correction | None = None,
) -> Labelled:
    counts, index = joining.add(history, given, rules, by)
    if consumed or index is not None:
        index = index or labels.with_labels(history.index)
        history.commit(replace(index, consumed=consumed))
    return counts


def _take_inbox(history: History, rules: Rules) -> int:
    """Labels that came by HTTP, all in one change; the number of documents that were set aside."""
    given, names, damaged = [], [], []
    for path in sorted((history.endpoint / "inbox").glob("*.json")):
        try:
            given.append(joining.read_document(path))
            names.append(f"inbox/{path.name}")
        except (OSError, ValueError, KeyError, TypeError):
            damaged.append(path)
    if given:
        _add_labels(history, given, rules, tuple(names))
    return _set_aside(history.endpoint, damaged)


def _set_aside(folder: Path, paths: list[Path]) -> int:
    for path in paths:
        (folder / "damaged").mkdir(exist_ok=True)
        os.replace(path, folder / "damaged" / path.name)
    return len(paths)
