"""Train gradient boosting on the electricity stream and log it as a candidate."""

from __future__ import annotations

import argparse

import mlflow
from data import TARGET, own_rows, split, with_extra
from sklearn.ensemble import HistGradientBoostingClassifier

import mlplatform


def main() -> None:
    options = parse()
    older, newest = split(*own_rows(options.data_from, options.data_until))
    older = with_extra(*older, options.extra_data)
    with mlflow.start_run():
        model = HistGradientBoostingClassifier(max_iter=50, random_state=int(options.seed)).fit(*older)
        run_id = mlplatform.log_candidate(model, holdout=newest, reference=older, target=TARGET)
    print(f"run {run_id}: trained on {len(older[1])} rows, {len(newest[1])} newer ones kept back")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-from", default="1996-05-07", help="first day")
    parser.add_argument("--data-until", default="1996-11-19", help="day after the last one")
    parser.add_argument("--extra-data", default="", help="Parquet file of captured, labelled rows")
    parser.add_argument("--cause", default="manual", help="why this training was started")
    parser.add_argument("--seed", type=float, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
