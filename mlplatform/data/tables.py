"""ParquetTables: tables of data sets, read from Parquet or CSV into numpy columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from mlplatform.data.arrow import to_arrow, to_columns, to_table
from mlplatform.data.files import write_safely
from mlplatform.data.times import as_times
from mlplatform.domain.bundle import Column
from mlplatform.errors import UnreadableTable, UnwritableTable
from mlplatform.stats import digests
from mlplatform.stats.batch import Array, Columns

CSV_NULLS = ("", "NA", "NaN", "nan", "null")


class ParquetTables:
    """Port `Tables`. Parquet (.parquet, .pq) both ways, CSV with a header line (.csv) to read."""

    def read(self, path: Path) -> dict[str, Array]:
        """All columns; raises UnreadableTable, naming the file."""
        return to_columns(read_arrow(path))

    def write(self, path: Path, columns: Columns) -> None:
        """Write Parquet (zstd); a reader sees the old file or the whole new one. Raises UnwritableTable."""
        try:
            table = to_table(columns)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_safely(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
        except (OSError, ValueError, TypeError) as error:
            raise UnwritableTable(path=path, cause=_one_line(error)) from error

    def row_digests(self, columns: Columns, inputs: Sequence[Column]) -> Array:
        """(n,) uint64; see `mlplatform.stats.digests`."""
        return digests.row_digests(columns, inputs)

    def times(self, values: Array) -> Array | None:
        return as_times(to_arrow(values))


def read_arrow(path: Path) -> pa.Table:
    try:
        if path.suffix == ".csv":
            return _read_csv(path)
        if path.suffix in (".parquet", ".pq"):
            return pq.read_table(path, partitioning=None)
        raise ValueError(f"its name must end in .parquet or .csv, not {path.suffix!r}")
    except FileNotFoundError:
        raise UnreadableTable(path=path, cause="there is no such file") from None
    except (OSError, ValueError) as error:
        raise UnreadableTable(path=path, cause=_one_line(error)) from error


def _read_csv(path: Path) -> pa.Table:
    options = pa.csv.ConvertOptions(null_values=list(CSV_NULLS), strings_can_be_null=True)
    return pa.csv.read_csv(path, convert_options=options)


def _one_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
