"""A label that cannot be true is told to whoever sent it, and stops nobody: a worse version is still taken back.

One story, in order: a regression model on probation, a server that takes labels, and the real commands.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

import mlplatform
from mlplatform.cli.main import run
from mlplatform.control import Platform
from mlplatform.domain.ledger import Kind
from mlplatform.domain.verdict import Verdict
from mlplatform.flows.evaluate import judge
from tests import documents
from tests.mlflow_stores import fresh_store

POLICY = """
model  = "wine"
ladder = ["staging", "production"]

[data]
target   = "quality"
evaluate = { use = "labelled_window", min_rows = 20 }

[stages.staging]
gates = [{ use = "metric", name = "mae", at_most = 1.0, min_n = 20 }]

[stages.production]
endpoint  = { name = "wine" }
probation = { lasts = "1d", or_labels = 5000, quality_drop = 0.05 }

[watch]
window   = "1h"
min_rows = 10
metrics  = [{ use = "quality", name = "mae", at_most = 1.0, min_labels = 10 }]
"""
ROWS = 200
UNTIL = (datetime.now(UTC) + timedelta(hours=2)).isoformat()
"""When the rows' window is over."""


def wines(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = pd.DataFrame(rng.normal(size=(rows, 2)), columns=["alcohol", "acid"])
    return X, (6 + X["alcohol"] - X["acid"] / 2 + rng.normal(scale=0.2, size=rows)).to_numpy()


@dataclass
class Story:
    platform: Platform
    ids: list[str]
    truth: list[str]
    """Of the rows that version 2 answered, as a CSV file has it."""

    def outcomes(self, path: str, **labels: Any) -> None:
        pd.DataFrame({"id": self.ids, "label": self.truth} | labels).to_csv(path, index=False)

    def post(self, *labels: tuple[str, Any]) -> int:
        body = {"labels": [{"id": name, "label": label} for name, label in labels]}
        return httpx.post(f"{self.platform.endpoint('wine').server.url}/labels", json=body).status_code


@pytest.fixture
def story(tmp_path: Path, empty_mlflow: Path) -> Iterator[Story]:
    """Version 2, which knows nothing, took over from version 1 and has answered."""
    with _project(tmp_path / "wine", empty_mlflow) as platform:
        known, held = wines(400, 0), wines(200, 1)
        for truth in (known[1], np.random.default_rng(5).normal(9, 3, 400)):
            model = LinearRegression().fit(known[0], truth)
            run_id = mlplatform.log_candidate(
                model, reference=(known[0], truth), holdout=held, target="quality"
            )
            ref = platform.register("wine", run_id).ref
            for stage in ("staging", "production"):
                outcome = platform.promote(ref, stage, "new", break_glass=True)
                assert outcome.status == "done", outcome
        X, y = wines(ROWS, 2)
        answers = platform.ask("wine", {name: X[name].to_numpy() for name in X})
        _wait_for_rows(platform, ROWS)
        yield Story(platform, answers["id"].tolist(), [f"{value:.3f}" for value in y])


def test_bad_labels_stop_nobody_and_are_told(story: Story, capsys: pytest.CaptureFixture[str]) -> None:
    # somebody's script sends a word; the version stays on probation, and its watch goes on
    assert story.post((story.ids[0], "six")) == 200
    assert run(["monitor", "wine", "--until", UNTIL]) == 0
    said = capsys.readouterr().out
    assert ", 0 labels pending, 1 refused" in said
    assert f"label refused: {story.ids[0]} 'six': expected a finite number" in said
    assert "1 label was refused: not what the version can answer" in said

    # a file with a question mark, an empty cell and an id without its row
    story.outcomes(
        "outcomes.csv", label=["?", "", *story.truth[2:]], id=[*story.ids[:2], "bare", *story.ids[3:]]
    )
    assert run(["label", "wine", "outcomes.csv"]) == 3
    said = capsys.readouterr().out
    documents.assert_shown("operations.md", "mlplatform label wine outcomes.csv", said)
    assert f"{ROWS - 3} matched, 0 pending, 0 repeated, 0 conflicting, 1 empty, 2 refused\n" in said
    assert f"row 1: {story.ids[0]} '?': expected a finite number" in said
    assert "row 3: bare " in said and ": expected the id of a prediction, <request>/<row>" in said
    assert run(["label", "wine", "outcomes.csv", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["repeated"], told["refused"], told["empty"]) == (ROWS - 3, 2, 1)
    assert told["bad"][0] == {"row": 1, "id": story.ids[0], "label": "'?'", "expected": "a finite number"}

    # gates look at the rows whose labels fit
    world, policy = story.platform.world, story.platform.policy("wine")
    judgement = judge(world, policy, "staging", story.platform.version("wine@1"), None)
    assert [finding.verdict for finding in judgement.findings] == [Verdict.PASS]
    assert judgement.evaluation and judgement.evaluation.rows == ROWS - 3
    assert "1 label was refused" in judgement.evaluation.details["source"]

    # the worse version is taken back all the same
    assert run(["monitor", "wine", "--until", UNTIL]) == 0
    said = capsys.readouterr().out
    assert "mean absolute error on 197 labelled rows: wine@2" in said
    assert story.platform.version("wine@production").number == 1
    run(["doctor"])
    assert "wine: 1 label refused: not what the version can answer" in capsys.readouterr().out

    # what was labelled wrongly is corrected when that is asked for, and the ledger says who did so
    story.outcomes("right.csv", label=[f"{float(value) + 1:.3f}" for value in story.truth])
    assert run(["label", "wine", "right.csv"]) == 5
    said = capsys.readouterr().out
    assert f"3 matched, 0 pending, 0 repeated, {ROWS - 3} conflicting" in said
    assert "mlplatform label ... --replace" in said
    assert run(["label", "wine", "right.csv", "--replace"]) == 0
    assert f"0 conflicting, {ROWS - 3} replaced" in capsys.readouterr().out
    [entry] = story.platform.world.ledger.entries("wine", kinds=(Kind.LABELS_REPLACED,))
    assert (entry.draft.actor.name, entry.draft.version) == ("ada", 2)
    assert run(["history", "wine"]) == 0
    assert f"{ROWS - 3} labels of wine replaced" in capsys.readouterr().out


# --- helpers ---------------------------------------------------------------------------------------------------------


@contextmanager
def _project(folder: Path, template: Path) -> Iterator[Platform]:
    folder.mkdir()
    (folder / "mlplatform.toml").write_text("")
    (folder / "policy.toml").write_text(POLICY)
    fresh_store(template, folder / ".mlplatform")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLPLATFORM_ACTOR", "ada")
        platform = Platform.open(folder)
        try:
            yield platform
        finally:
            platform.undeploy("wine", "production")
            platform._wiring.database.close()


def _wait_for_rows(platform: Platform, rows: int) -> None:
    give_up = time.monotonic() + 60
    while (rows := rows - platform.world.observations.ingest("wine").rows) > 0:
        assert time.monotonic() < give_up, f"{rows} rows were not captured"
        threading.Event().wait(0.05)
