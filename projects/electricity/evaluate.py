"""Ask a logged model about a stretch of the stream; its accuracy is logged and printed."""

from __future__ import annotations

import argparse

import mlflow
from data import own_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-id", required=True, help="run that logged the candidate")
    parser.add_argument("--data-from", default="1996-11-19")
    parser.add_argument("--data-until", default="1998-12-06")
    options = parser.parse_args()
    features, classes = own_rows(options.data_from, options.data_until)
    with mlflow.start_run():
        model_id = mlflow.get_run(options.run_id).data.tags["mlplatform.model_id"]
        answers = mlflow.pyfunc.load_model(f"models:/{model_id}").predict(features)
        accuracy = float((answers == classes).mean())
        mlflow.log_metric("accuracy", accuracy)
    print(f"accuracy {accuracy:.4f} on {len(classes)} rows")


if __name__ == "__main__":
    main()
