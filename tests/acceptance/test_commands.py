"""Every command: an example in its help, and one JSON document with --json."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command_line import commands
from tests.small_project import MODEL, Place, SmallProject

WITHOUT_JSON = {"demo", "up", "serve", "schedule run", "policy schema"}
"""They stay, or print JSON in any case."""
HEAVY = {"mlflow", "torch", "sklearn", "scipy", "pandas", "onnxruntime", "matplotlib"}

ANSWERS = {
    "list": {"list"},
    "show churn@2": {"version", "place", "findings", "entries"},
    "diff churn@1 churn@production": {"first", "second", "sections", "same"},
    "trend churn": {"model", "metric", "points", "rows"},
    "check churn@4 staging": {"status", "findings", "changes"},
    "history churn": {"seq", "draft", "at"},
    "history churn --at 2030-01-01 --stage production": {"at", "standings", "entries"},
    "endpoints": {"name", "server", "serving"},
    "doctor": {"settings", "differences", "failed"},
    "policy check": {"model", "ladder", "stages"},
    "db status": {"database", "schema", "breaks"},
    "verify": {"entries", "breaks", "heads"},
    "plugins gate": {"kind", "name", "from"},
    "schedule list": set(),
    "token list": set(),
    "report churn": {"path"},
    "monitor churn --dry-run": {"watched", "rollouts"},
    "reconcile": set(),
    "gc --dry-run": {"garbage", "kept", "size_bytes"},
}


@pytest.fixture(scope="module")
def place(small_sqlite: SmallProject) -> Iterator[Place]:
    with small_sqlite.copied() as made:
        yield made


def test_the_help_of_every_command_shows_an_example() -> None:
    without = [
        name
        for name, command in commands()
        if not re.search(rf"^\s*mlplatform {name}\b", command.help or "", re.M)
    ]
    assert without == []


def test_every_command_that_ends_has_json() -> None:
    without = {name for name, c in commands() if not any("--json" in p.opts for p in c.params)}
    assert without == WITHOUT_JSON


@pytest.mark.parametrize("command", ANSWERS)
def test_json_is_one_document_and_nothing_else(place: Place, command: str) -> None:
    told = place.told(*command.split())
    item = told[0] if isinstance(told, list) and told else told
    wanted = {"model", "stages", "places", "versions"} if command == "list" else ANSWERS[command]
    assert wanted <= set(item)


def test_dry_runs_speak_json_too(place: Place) -> None:
    assert place.told("deploy", MODEL, "--dry-run") == {
        "endpoint": MODEL,
        "version": "churn@2",
        "running": False,
        "target": "local",
        "moves_from": "",
        "changes": [],
    }
    planned = place.told("compress", f"{MODEL}@4", "--steps", "onnx", "--dry-run")
    assert (planned["runtime"], planned["exists_as"]) == ("onnx", None)
    assert planned["size_bytes"] > 100


def test_a_target_is_planned_by_a_dry_run_and_a_mistyped_one_is_told(place: Place) -> None:
    chosen = ("deploy", MODEL, "--target", "docker", "--option", "memory_mb=1500")
    planned = place.told(*chosen, "--dry-run")
    assert (planned["running"], planned["target"]) == (False, "docker")
    assert place.told("endpoints")[0]["target"] == "local"
    with place.opened() as platform:
        placed = platform.world.placements.placement(MODEL)
    assert placed is None or placed.target.use == "local"
    code, output = place.run("deploy", MODEL, "--target", "dokcer", "--dry-run")
    assert (code, "Did you mean 'docker'?" in output) == (2, True), output


def test_context_that_the_policy_names_is_sent_and_said(place: Place) -> None:
    place.done("deploy", MODEL)
    (place.folder / "rows.csv").write_text("c0,c1,c2,at\n0.1,0.2,0.3,2026-03-02T09:00:00\n")
    assert "context beside the features, captured and never shown to the model: at" in place.done(
        "predict", MODEL, "rows.csv"
    )
    (place.folder / "rows.csv").write_text("c0,c1,c2\n0.1,0.2,0.3\n")
    assert "rows.csv has no column at, which the policy names as context" in place.done(
        "predict", MODEL, "rows.csv"
    )
    (place.folder / "rows.csv").write_text(",c0,c1,c2,y\n0,0.1,0.2,0.3,1\n1,0.4,0.5,0.6,0\n")
    for target in (MODEL, f"{MODEL}@2"):  # a test set as people have it, online and offline
        said = place.done("predict", target, "rows.csv", "--out", "answers.csv")
        assert "left out, as no feature but the target or an index of pandas: '', 'y'" in said
        assert len((place.folder / "answers.csv").read_text().splitlines()) == 3
    place.done("undeploy", MODEL)


def test_looking_loads_nothing_heavy(place: Place) -> None:
    environment = {**os.environ, **place.environment, "PYTHONPATH": str(Path(__file__).parents[2])}
    for words in ("list", "history", "show churn@2", "endpoints", "schedule list", "verify"):
        command = [sys.executable, "-X", "importtime", "-m", "mlplatform", *words.split()]
        seen = subprocess.run(
            command, cwd=place.folder, env=environment, capture_output=True, text=True, check=True
        )
        loaded = set(re.findall(r"\| +(\w+)$", seen.stderr, re.MULTILINE))
        assert "sqlalchemy" in loaded
        assert loaded & HEAVY == set(), words
