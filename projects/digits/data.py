"""scikit-learn's 1,797 hand-written digits in the order of the file: later rows come from other writers."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.datasets import load_digits

COLUMNS = [f"p{i:02d}" for i in range(64)]
"""Pixels row by row, 0 (white) to 16 (black), float32."""
TARGET = "digit"


def own_rows(data_from: int, data_until: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows data_from <= row < data_until of the file, oldest first."""
    images, digits = load_digits(return_X_y=True)
    rows = slice(data_from, data_until)
    return pd.DataFrame(images[rows].astype("float32"), columns=COLUMNS), digits[rows].astype("int64")


def damaged(digits: np.ndarray, seed: int) -> np.ndarray:
    """Labels of other rows, as a join on the wrong key makes them: for rehearsing an accident."""
    return np.random.default_rng(seed).permutation(digits)


def with_extra(
    features: pd.DataFrame, digits: np.ndarray, extra_data: str
) -> tuple[pd.DataFrame, np.ndarray]:
    """Own rows, then the captured and labelled ones of a Parquet file; an empty path means none."""
    if not extra_data:
        return features, digits
    extra = pd.read_parquet(Path(extra_data))
    joined = pd.concat([features, extra[COLUMNS].astype("float32")], ignore_index=True)
    return joined, np.concatenate([digits, extra[TARGET].astype("int64").to_numpy()])


def split(features: pd.DataFrame, digits: np.ndarray, share: float = 0.2):
    """(older, newest) of the own rows: the newest are what the model will not see in training.

    Captured rows are all trained on: the platform keeps back those that it will judge by.
    """
    cut = max(1, round(len(digits) * (1 - share)))
    return (features[:cut], digits[:cut]), (features[cut:].reset_index(drop=True), digits[cut:])


def main() -> None:
    """Write rows of the file to Parquet: `python data.py rows.parquet --data-from 600`."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("path")
    parser.add_argument("--data-from", type=float, default=0)
    parser.add_argument("--data-until", type=float, default=1797)
    options = parser.parse_args()
    features, digits = own_rows(int(options.data_from), int(options.data_until))
    features.assign(**{TARGET: digits}).to_parquet(options.path)


if __name__ == "__main__":
    main()
