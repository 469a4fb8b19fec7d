"""A column as moments, however its clients wrote them."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mlplatform.data.arrow import to_numpy
from mlplatform.stats.batch import Array

EARLIEST = 1e8
"""Smaller numbers are no epoch seconds (1973): a column of prices is not a clock."""
UNITS_US = ((1e11, 1e6), (1e14, 1e3), (1e17, 1.0), (np.inf, 1e-3))
"""Below the limit a number counts seconds, ms, us, ns: the years 1973 to 5138 of each lie apart."""


def as_times(column: pa.ChunkedArray | pa.Array) -> Array | None:
    """datetime64[us] in UTC with NaT where there is none; None when the column does not hold times.

    Times, ISO 8601 text with or without an offset (without: UTC), epoch seconds, ms, us or ns.
    """
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return to_numpy(column)
    if pa.types.is_string(kind):
        return _from_text(column)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _from_numbers(to_numpy(column))
    return None


def epoch_us(moment: datetime) -> int:
    """Microseconds since 1970; a time without a zone is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(np.datetime64(aware.astimezone(UTC).replace(tzinfo=None), "us").astype(np.int64))


def from_epoch_us(value: int) -> datetime:
    naive: datetime = np.datetime64(value, "us").item()
    return naive.replace(tzinfo=UTC)


def _from_text(column: pa.ChunkedArray | pa.Array) -> Array | None:
    first = next((value.as_py() for value in column.drop_null()[:1]), None)
    if first is None or _moment(first) is None:
        return None
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return to_numpy(pc.cast(column, kind))
        except pa.ArrowInvalid:
            continue
    moments = [_moment(text) for text in column.to_pylist()]
    return np.array(moments, "datetime64[us]")


def _moment(text: str | None) -> datetime | None:
    """The moment in UTC, without its zone, as numpy wants it."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def _from_numbers(values: Array) -> Array | None:
    known = values[np.isfinite(values)]
    if len(known) == 0 or known.min() < EARLIEST:
        return None
    factor = next(factor for limit, factor in UNITS_US if known.max() < limit)
    missing = ~np.isfinite(values)
    ticks = np.where(missing, 0, values)
    if ticks.dtype.kind in "iu" and factor >= 1:
        out = (ticks.astype(np.int64) * int(factor)).astype("datetime64[us]")
    else:
        out = np.rint(ticks * factor).astype(np.int64).astype("datetime64[us]")
    return np.asarray(np.where(missing, np.datetime64("NaT"), out))
