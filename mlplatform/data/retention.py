"""What is too old or too much of an endpoint's history goes, whole segments at a time, the oldest first.

The rows that were written last stay, however large their segment is.
"""

from __future__ import annotations

from dataclasses import replace

import pyarrow.compute as pc

from mlplatform.data import labels
from mlplatform.data.index import History, LabelFile, Segment
from mlplatform.data.times import epoch_us
from mlplatform.ports.data import Retention

_UUID7 = "^[0-9a-f]{8}-[0-9a-f]{4}-7"


def expire(history: History, keep: Retention) -> int:
    """Take out what need not be kept; how many rows that were."""
    by_age = sorted(history.index.segments, key=lambda segment: segment.times[""][1])
    aged = _too_old(by_age, keep)
    gone = aged + _too_much(history, by_age[len(aged) :], keep)
    waits, old_waits = _pending(history, keep)
    if not gone and not old_waits:
        return 0
    files = {segment.file for segment in gone}
    segments = tuple(s for s in history.index.segments if s.file not in files)
    now = history.index
    old = [f for f in (*now.labels, *now.earlier, now.refused) if f and not _may_have_rows(f, segments)]
    index = replace(
        now,
        segments=segments,
        labels=tuple(f for f in now.labels if f not in old),
        earlier=tuple(f for f in now.earlier if f not in old),
        refused=None if now.refused in old else now.refused,
        pending=waits,
    )
    replaced = (*files, *(f.file for f in old), *old_waits)
    history.commit(replace(index, consumed=(), replaced=replaced))
    return sum(segment.rows for segment in gone)


def _too_old(by_age: list[Segment], keep: Retention) -> list[Segment]:
    if keep.since is None:
        return []
    since = epoch_us(keep.since)
    return [segment for segment in by_age if segment.times[""][1] < since]


def _too_much(history: History, by_age: list[Segment], keep: Retention) -> list[Segment]:
    if keep.size_bytes is None:
        return []
    sizes = {s.file: (history.folder / s.file).stat().st_size for s in by_age}
    left, gone = sum(sizes.values()), []
    for segment in by_age[:-1]:
        if left <= keep.size_bytes:
            break
        gone.append(segment)
        left -= sizes[segment.file]
    return gone


def _may_have_rows(file: LabelFile, segments: tuple[Segment, ...]) -> bool:
    """Ids sort by time: labels that end before the oldest row that is left have none."""
    return any(file.ids[1] >= segment.ids[0] for segment in segments)


def _pending(history: History, keep: Retention) -> tuple[LabelFile | None, tuple[str, ...]]:
    """Labels that wait for a row, but for those whose row would be too old by now; the file that they replace."""
    waiting = history.index.pending
    if waiting is None or keep.since is None:
        return waiting, ()
    begin = f"{epoch_us(keep.since) // 1000:012x}"
    since = f"{begin[:8]}-{begin[8:]}"
    if waiting.ids[0] >= since:
        return waiting, ()
    table = labels.pending(history)
    late = pc.and_(pc.less(table["id"], since), pc.match_substring_regex(table["id"], _UUID7))
    if not pc.any(late).as_py():
        return waiting, ()
    return labels.rewrite_pending(history, table.filter(pc.invert(late)))
