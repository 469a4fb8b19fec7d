"""What an endpoint's history consists of: one document that names its files, and the one way to change it.

::

    <endpoint>/segments/index.json       the commit point: what it does not name is not part of the history
    <endpoint>/segments/rows-*.parquet   captured rows
    <endpoint>/segments/labels-*.parquet labels of rows that are there
    <endpoint>/segments/pending-*.parquet labels whose row has not come yet
    <endpoint>/segments/refused-*.parquet labels that do not fit their row, which has no other
    <endpoint>/segments/earlier-*.parquet labels that others replaced, with who did so and when
    <endpoint>/segments/lock

A change writes new files, then the index with the next number, then deletes what the index calls done: blocks
it has taken in (`consumed`) and files it has merged into larger ones (`replaced`). Died before the index: the
new files carry a number the index has not reached, and are deleted. After it: the deletions are repeated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mlplatform.data.files import TEMPORARY, locked, sync, write_safely
from mlplatform.errors import HistoryUnusable

ROW_GROUP = 16_384
Range = tuple[int, int]


@dataclass(frozen=True)
class Segment:
    """A file of rows.

    `times`: smallest and largest epoch us, of the prediction ("") and of each column that holds times.
    """

    file: str
    rows: int
    ids: tuple[str, str]
    layout: str
    times: Mapping[str, Range]
    columns: tuple[str, ...]
    size_bytes: int = 0
    """In memory, not as a file; 0 in histories from before there were tensors."""

    @classmethod
    def of(cls, d: Mapping[str, Any]) -> Segment:
        times = {name: (int(low), int(high)) for name, (low, high) in d["times"].items()}
        ids, columns = (d["ids"][0], d["ids"][1]), tuple(d["columns"])
        return cls(d["file"], d["rows"], ids, d["layout"], times, columns, d.get("size_bytes", 0))


@dataclass(frozen=True)
class LabelFile:
    file: str
    rows: int
    ids: tuple[str, str]

    @classmethod
    def of(cls, d: Mapping[str, Any]) -> LabelFile:
        return cls(d["file"], d["rows"], (d["ids"][0], d["ids"][1]))


@dataclass(frozen=True)
class Index:
    seq: int = 0
    segments: tuple[Segment, ...] = ()
    labels: tuple[LabelFile, ...] = ()
    pending: LabelFile | None = None
    consumed: tuple[str, ...] = ()
    """Blocks and label documents of the last change, relative to the endpoint's folder."""
    replaced: tuple[str, ...] = ()
    refused: LabelFile | None = None
    earlier: tuple[LabelFile, ...] = ()

    def encode(self) -> bytes:
        return json.dumps({"format": 1, **asdict(self)}).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Index:
        d = json.loads(raw)
        return cls(
            seq=d["seq"],
            segments=tuple(Segment.of(s) for s in d["segments"]),
            labels=tuple(LabelFile.of(s) for s in d["labels"]),
            pending=LabelFile.of(d["pending"]) if d["pending"] else None,
            consumed=tuple(d["consumed"]),
            replaced=tuple(d["replaced"]),
            refused=LabelFile.of(d["refused"]) if d.get("refused") else None,
            earlier=tuple(LabelFile.of(s) for s in d.get("earlier", ())),
        )


@dataclass
class History:
    """One endpoint's history while its lock is held."""

    endpoint: Path
    index: Index = field(default_factory=Index)

    @property
    def folder(self) -> Path:
        return self.endpoint / "segments"

    def table(self, file: str, columns: Collection[str] | None = None, filters: Any = None) -> pa.Table:
        """One file's rows, of the columns those that it has; raises HistoryUnusable, naming it."""
        names = () if columns is None else self.footer(file).schema.to_arrow_schema().names
        wanted = None if columns is None else [name for name in names if name in columns]
        with self._naming(file):
            return pq.read_table(self.folder / file, columns=wanted, filters=filters, partitioning=None)

    def footer(self, file: str) -> pq.FileMetaData:
        """The columns of a file, and what `write` was given beside them; raises HistoryUnusable."""
        with self._naming(file):
            return pq.read_metadata(self.folder / file)

    def write(
        self, kind: str, table: pa.Table, number: int = 0, metadata: Mapping[bytes, bytes] | None = None
    ) -> str:
        """A new file that belongs to the next change; its name."""
        name = f"{kind}-{self.index.seq + 1:09d}-{number:03d}.parquet"
        write_safely(self.folder / name, lambda path: _write(path, table, metadata or {}))
        return name

    def commit(self, index: Index) -> None:
        """Put a change into effect, then clear away what it made superfluous."""
        self.index = replace(index, seq=self.index.seq + 1)
        raw = self.index.encode()
        write_safely(self.folder / "index.json", lambda path: path.write_bytes(raw))
        self._clear()

    def recover(self) -> None:
        """Finish or undo the change in which an earlier process died."""
        for path in list(self.folder.iterdir()):
            if path.suffix == TEMPORARY or _number(path) > self.index.seq:
                path.unlink(missing_ok=True)
        self._clear()

    @contextmanager
    def _naming(self, file: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, KeyError) as error:
            raise HistoryUnusable(folder=self.folder, cause=f"{file}: {error}") from error

    def _clear(self) -> None:
        for name in (*self.index.consumed, *(f"segments/{name}" for name in self.index.replaced)):
            (self.endpoint / name).unlink(missing_ok=True)


@contextmanager
def writing(endpoint: Path) -> Iterator[History]:
    """The history, for this process alone. A full disk or the like is HistoryUnusable and changes nothing."""
    folder = endpoint / "segments"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / "lock"):
            history = History(endpoint, _load(folder))
            history.recover()
            sync(endpoint)
            yield history
    except OSError as error:
        raise HistoryUnusable(folder=folder, cause=error) from error


@contextmanager
def reading(endpoint: Path) -> Iterator[History]:
    """The history as it is now; writers wait until it has been read."""
    folder = endpoint / "segments"
    if not (folder / "lock").exists():
        yield History(endpoint)
        return
    with locked(folder / "lock", shared=True):
        yield History(endpoint, _load(folder))


def _write(path: Path, table: pa.Table, metadata: Mapping[bytes, bytes]) -> None:
    """Without what the files that the rows come from had for metadata."""
    bare = table.replace_schema_metadata(None)
    with pq.ParquetWriter(path, bare.schema, compression="zstd") as writer:
        writer.write_table(bare, row_group_size=ROW_GROUP)
        writer.add_key_value_metadata(metadata)


def _load(folder: Path) -> Index:
    try:
        return Index.decode((folder / "index.json").read_bytes())
    except FileNotFoundError:
        if any(_number(path) > 1 for path in folder.glob("*.parquet")):
            raise HistoryUnusable(folder=folder, cause="index.json is missing") from None
        return Index()
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise HistoryUnusable(folder=folder, cause=f"index.json: {error!r}") from error


def _number(path: Path) -> int:
    """The change that a file belongs to; 0 for a file that is not ours."""
    match = re.fullmatch(r"(?:rows|labels|pending|refused|earlier)-(\d+)-\d+\.parquet", path.name)
    return int(match[1]) if match else 0
