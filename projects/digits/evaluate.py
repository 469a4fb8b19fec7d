"""Ask a logged model about rows of the file; its accuracy is logged and printed."""

from __future__ import annotations

import argparse

import mlflow
from data import own_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-id", required=True, help="run that logged the candidate")
    parser.add_argument("--data-from", type=float, default=250)
    parser.add_argument("--data-until", type=float, default=1797)
    options = parser.parse_args()
    features, digits = own_rows(int(options.data_from), int(options.data_until))
    with mlflow.start_run():
        model_id = mlflow.get_run(options.run_id).data.tags["mlplatform.model_id"]
        logits = mlflow.pyfunc.load_model(f"models:/{model_id}").predict(features)
        accuracy = float((logits.to_numpy().argmax(axis=1) == digits).mean())
        mlflow.log_metric("accuracy", accuracy)
    print(f"accuracy {accuracy:.4f} on {len(digits)} rows")


if __name__ == "__main__":
    main()
