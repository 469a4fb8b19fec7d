"""The elec2 stream: 45,312 half-hours of the electricity market of New South Wales, 1996-05-07 to 1998-12-05."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ["day", "period", "nswprice", "nswdemand", "vicprice", "vicdemand", "transfer"]
TARGET = "class"
"""Whether the price goes UP or DOWN against the mean of the last day."""
TIME = "timestamp"
FIRST = "1996-05-07"


def stream() -> pd.DataFrame:
    """All rows, oldest first: from `MLPLATFORM_DATA/elec2/elec2.parquet`, else from OpenML, kept in a cache."""
    if folder := os.environ.get("MLPLATFORM_DATA"):
        table = pd.read_parquet(Path(folder) / "elec2" / "elec2.parquet")
    else:
        from sklearn.datasets import fetch_openml

        table = fetch_openml("electricity", version=1, as_frame=True).frame
        table[TIME] = pd.date_range(FIRST, periods=len(table), freq="30min")
    columns = {name: table[name].astype("float64") for name in COLUMNS}
    return pd.DataFrame({TIME: table[TIME], **columns, TARGET: table[TARGET].astype(str).astype(object)})


def own_rows(data_from: str, data_until: str) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows with data_from <= timestamp < data_until."""
    table = stream()
    rows = table[(table[TIME] >= pd.Timestamp(data_from)) & (table[TIME] < pd.Timestamp(data_until))]
    return rows[COLUMNS].reset_index(drop=True), rows[TARGET].to_numpy(dtype=object)


def with_extra(
    features: pd.DataFrame, classes: np.ndarray, extra_data: str
) -> tuple[pd.DataFrame, np.ndarray]:
    """Own rows, then the captured and labelled ones of a Parquet file; an empty path means none."""
    if not extra_data:
        return features, classes
    extra = pd.read_parquet(Path(extra_data))
    joined = pd.concat([features, extra[COLUMNS].astype("float64")], ignore_index=True)
    return joined, np.concatenate([classes, extra[TARGET].astype(str).to_numpy(dtype=object)])


def split(features: pd.DataFrame, classes: np.ndarray, share: float = 0.05):
    """(older, newest) of the own rows: the newest are what the model will not see in training.

    Captured rows are all trained on: the platform keeps back those that it will judge by.
    """
    cut = max(1, round(len(classes) * (1 - share)))
    return (features[:cut], classes[:cut]), (features[cut:].reset_index(drop=True), classes[cut:])
