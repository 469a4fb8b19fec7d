"""MLflow goes on working as its users know it: between our commands, with its own client, on the same models."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression

from tests.small_project import MODEL, PLACES, Place, assert_whole

REASON = ("--reason", "because")
ROWS = np.array([[0.1, 0.2, 0.3], [1.0, -1.0, 0.5]])


@contextmanager
def somebody(place: Place) -> Iterator[MlflowClient]:
    """Who knows nothing of mlplatform; MLflow finds its store in the environment."""
    uri = place.environment["MLPLATFORM_TRACKING_URI"]
    with pytest.MonkeyPatch.context() as patched, warnings.catch_warnings():
        patched.setenv("MLFLOW_TRACKING_URI", uri)
        warnings.simplefilter("ignore")
        yield MlflowClient(uri, uri)


def holder(client: MlflowClient, alias: str, model: str = MODEL) -> int:
    return int(client.get_model_version_by_alias(model, alias).version)


def answers(uri: str) -> list[Any]:
    columns = {f"c{i}": ROWS[:, i] for i in range(3)}
    return list(np.ravel(mlflow.pyfunc.load_model(uri).predict(pd.DataFrame(columns))))


def test_mlflows_own_client_works_between_our_commands(sqlite_place: Place) -> None:
    place = sqlite_place
    with somebody(place) as client:
        assert holder(client, "production") == 2
        assert len(answers(f"models:/{MODEL}@production")) == 2
        client.set_registered_model_alias(MODEL, "favourite", "4")
        client.set_model_version_tag(MODEL, "3", "team", "growth")
        client.set_registered_model_tag(MODEL, "owner", "ada")
        client.update_registered_model(MODEL, "who leaves us")

    place.done("promote", f"{MODEL}@3", "production", *REASON)
    place.done("register", MODEL, "--run", place.fresh_run)

    with somebody(place) as client:
        assert holder(client, "production") == 3
        assert holder(client, "favourite") == 4
        assert client.get_model_version(MODEL, "3").tags["team"] == "growth"
        known = client.get_registered_model(MODEL)
        assert (known.tags["owner"], known.description) == ("ada", "who leaves us")
        assert {int(v.version) for v in client.search_model_versions(f"name='{MODEL}'")} == {*PLACES, 6}
        assert len(answers(f"models:/{MODEL}@production")) == 2
        by_tag = client.search_model_versions("tags.`mlplatform.place`='production'")
        assert [int(v.version) for v in by_tag] == [3]
        _work_of_their_own(place, client)

    assert place.told("doctor")["differences"] == []
    place.done("rollback", MODEL, *REASON)
    with somebody(place) as client:
        assert holder(client, "production") == 2
        assert holder(client, "favourite") == 4
        assert holder(client, "champion", "theirs") == 1
        client.delete_registered_model_alias(MODEL, "favourite")
    assert place.told("doctor")["differences"] == []
    rolled_back = {**PLACES, 2: "production", 3: "ROLLED_BACK", 1: "RETIRED", 6: "CANDIDATE"}
    assert_whole(place, rolled_back, run_left=True)


def _work_of_their_own(place: Place, client: MlflowClient) -> None:
    """A run, a model, and a version of ours that they copy."""
    location = str(place.folder / "theirs")
    experiment = client.create_experiment("their work", artifact_location=location)
    model = LogisticRegression().fit(ROWS, [0, 1])
    with mlflow.start_run(experiment_id=experiment):
        mlflow.log_metric("auc", 0.9)
        mlflow.sklearn.log_model(model, name="model", registered_model_name="theirs")
    client.set_registered_model_alias("theirs", "champion", "1")
    client.copy_model_version(f"models:/{MODEL}/4", "copies")
    assert mlflow.pyfunc.load_model("models:/theirs@champion").predict(ROWS).shape == (2,)
