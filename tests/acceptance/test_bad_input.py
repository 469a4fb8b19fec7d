"""Whatever is mistyped, missing or out of reach: a line that says what, a line that says what next, the documented
exit code, and nothing half-done.
"""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from mlplatform.cli.main import run
from mlplatform.data.tables import ParquetTables
from mlplatform.state.schema import VERSION_TABLE
from tests.small_project import MODEL, POLICY, Place

WHY = ("--reason", "because")
Told = list[str]


@pytest.fixture
def project(sqlite_place: Place) -> Place:
    """The prepared project, with the tables that the commands name."""
    rows = np.zeros(2)
    columns = {"c0": rows, "c1": rows, "c2": rows}
    ParquetTables().write(sqlite_place.folder / "rows.parquet", columns)
    (sqlite_place.folder / "labels.csv").write_text("id,label\na/0,1\n")
    (sqlite_place.folder / "torn.parquet").write_bytes(b"PAR1 and no more")
    (sqlite_place.folder / "rows.csv").write_text("c0,c1,c2\n0,0,0\n")
    (sqlite_place.folder / "extra.csv").write_text("c0,c1,c2,colour\n0,0,0,1\n")
    (sqlite_place.folder / "few.csv").write_text("c0,c1\n0,0\n")
    (sqlite_place.folder / "text.csv").write_text("c0,c1,c2\n0,0,red\n")
    return sqlite_place


CASES = {
    "a command": (2, "promot churn@4", "There is no command 'promot'. Did you mean 'promote'?", "--help"),
    "a model": (2, "show chrn@1", "There is no model named 'chrn'", "Did you mean 'churn'?"),
    "a version": (
        2,
        "check churn@99 staging",
        "There is no version of churn named '99'",
        "Known: 1, 2, 3, 4, 5.",
    ),
    "no version at all": (2, "diff churn churn@1", "'churn' does not name a version", "for example churn@7"),
    "a stage": (2, "check churn@4 stagin", "There is no stage named 'stagin'", "Did you mean 'staging'?"),
    "an empty stage": (
        2,
        "show churn@nowhere",
        "There is no stage named 'nowhere'",
        "Known: production, staging.",
    ),
    "a stage to approve": (2, "approve churn@4 --for prod --reason x", "no stage named 'prod'", "Known: "),
    "a stage in history": (2, "history --stage stagin", "no stage named 'stagin'", "Did you mean 'staging'?"),
    "a stage without endpoint": (
        2,
        "deploy churn --stage staging",
        "staging has no endpoint",
        "Add endpoint = {",
    ),
    "an endpoint": (2, "predict chrn rows.csv", "There is no endpoint named 'chrn'", "Did you mean 'churn'?"),
    "an endpoint to label": (2, "label chrn labels.csv", "no endpoint named 'chrn'", "Did you mean 'churn'?"),
    "a column of labels": (
        2,
        "label churn labels.csv --column labl",
        "named 'labl'",
        "Did you mean 'label'?",
    ),
    "a column of ids": (2, "label churn labels.csv --id idd", "named 'idd'", "Did you mean 'id'?"),
    "no run": (
        2,
        "register churn --run ../../etc",
        "'../../etc' cannot be the id of a run",
        "its first 8 char",
    ),
    "a run": (2, "register churn --run 0000", "There is no run named '0000'", "Is it in the store sqlite"),
    "a technique": (2, "compress churn@4 --steps onxx", "no technique named 'onxx'", "Did you mean 'onnx'?"),
    "no technique": (2, "compress churn@4", "no technique was named", "--steps onnx"),
    "a time": (2, "history --at yesterday", "'yesterday' is not a time", "--help"),
    "a parameter": (2, "train churn -P depth", "-P depth is not KEY=VALUE", "-P max_depth=6"),
    "a reason": (2, "promote churn@4 staging", "Missing option '--reason'", "--help"),
    "a blank reason": (2, "rollback churn --reason ,", "say why in a few words", "--help"),
    "a flag": (2, "promote churn@4 staging --reason x --forse", "No such option '--forse'", "--help"),
    "a number": (2, "serve churn@4 --port many", "'many' is not a valid integer", "--help"),
    "a schedule's cron": (
        2,
        "schedule add monitor churn --cron *,*",
        "is not a schedule",
        "every Monday at 3:00",
    ),
    "a schedule's model": (
        2,
        "schedule add monitor chrn --cron @hourly",
        "is not a schedule",
        "every Monday",
    ),
    "a schedule's name": (2, "schedule remove nightly", "There is no schedule named 'nightly'", ""),
    "a kind of extension": (2, "plugins gates", "no kind of extension named 'gates'", "Did you mean 'gate'?"),
    "a policy file": (2, "policy check nope.toml", "nope.toml has 1 mistake(s)", "policy check"),
    "a move": (
        3,
        "promote churn@1 production --reason x",
        "churn@1 cannot go from STANDBY to production",
        "",
    ),
    "a skipped stage": (3, "promote churn@4 production --reason x", "cannot go from CANDIDATE", ""),
    "a return": (3, "rollback churn --to 4 --reason x", "only a version that once held production can", ""),
    "a technique too early": (
        3,
        "compress churn@4 --steps dynamic_int8",
        "reads onnx, not sklearn",
        "--steps onnx",
    ),
    "a missing table": (
        6,
        "predict churn@4 nope.csv",
        "nope.csv cannot be read as a table: there is no",
        "Parquet",
    ),
    "a torn table": (6, "predict churn@4 torn.parquet", "torn.parquet cannot be read as a table", "Parquet"),
    "no table": (6, "label churn train.py", "must end in .parquet or .csv", "Parquet"),
    "a stopped server": (
        6,
        "predict churn rows.csv",
        "the server of endpoint churn does not run",
        "deploy churn",
    ),
    "a missing column offline": (2, "predict churn@4 few.csv", "c2", ""),
}
"""Exit code, command (`,` stands for a blank), what the first line says, what is said to do next."""


@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_told_and_changes_nothing(project: Place, name: str) -> None:
    code, command, what, next_step = CASES[name]
    words = [word.replace(",", " ") for word in command.split()]
    with unchanged(project):
        told = refused(project, code, *words)
    assert what in told[0]
    assert next_step in "\n".join(told)


def test_a_run_without_its_parts_is_no_candidate(project: Place) -> None:
    for path in (project.folder / ".mlplatform" / "mlartifacts").rglob("sample.parquet"):
        if project.fresh_run in path.parts:
            path.unlink()
    with unchanged(project):
        told = refused(project, 3, "register", MODEL, "--run", project.fresh_run)
    assert told[0] == f"Run {project.fresh_run} cannot become a version: sample.parquet missing"
    assert "log_candidate" in told[-1]


def test_a_run_of_plain_mlflow_is_no_candidate_and_all_that_it_lacks_is_named(project: Place) -> None:
    with project.opened() as platform:
        mlflow = platform.world.runs._mlflow  # type: ignore[attr-defined]
        run_id = mlflow.call("create_run", mlflow.experiment("mine")).info.run_id
    with unchanged(project):
        told = refused(project, 3, "register", MODEL, "--run", run_id, "--dry-run")
        told = refused(project, 3, "register", MODEL, "--run", run_id)
    for part in ("sample.parquet", "holdout.parquet", "reference.parquet", "model missing"):
        assert part in told[0]


def test_a_failing_training_says_its_last_words_and_where_the_rest_is(project: Place) -> None:
    (project.folder / "train.py").write_text("raise SystemExit('no rows in the shop')\n")
    with unchanged(project):
        told = refused(project, 6, "train", MODEL)
    assert "ended with exit code" in told[0] and "no rows in the shop" in told[0]
    log = re.search(r"Its output is in (.*)\.$", told[-1])
    assert log and "no rows in the shop" in Path(log[1]).read_text()


def test_every_mistake_of_a_policy_is_told_with_line_and_nearest_name(
    project: Place,
) -> None:
    text = POLICY.replace("min_rows = 10", "min_row = 10").replace('use = "metric"', 'use = "metrik"')
    text = text.replace("[stages.production]", "[stages.prodution]").replace('"1h"', '"an hour"')
    (project.folder / "policy.toml").write_text(text)
    told = refused(project, 2, "list")
    assert told[0].endswith("policy.toml has 4 mistake(s):")
    lines = text.splitlines()

    def line(part: str) -> int:
        return next(n for n, found in enumerate(lines, 1) if part in found)

    assert told[1:5] == [
        f"line {line('metrik')}: stages.staging.gates[0].use: unknown gate, did you mean 'metric'?",
        f"line {line('prodution')}: stages.prodution: unknown stage, did you mean 'production'?",
        f"line {line('an hour')}: watch.window: 'an hour' is not a duration; write for example 30s, 10m, 24h, 14d",
        f"line {line('min_row')}: watch.min_row: unknown key, did you mean 'min_rows'?",
    ]
    assert told[5] == "Correct them and run `mlplatform policy check`."


def test_a_request_says_which_feature_is_missing_unknown_or_of_the_wrong_type(project: Place) -> None:
    project.done("deploy", MODEL)
    with project.opened() as platform:
        url = platform.endpoint(MODEL).server.url
    for record, what in (
        ({"c0": 1, "c1": 1}, "row 0: missing column 'c2'; the model takes c0, c1, c2"),
        ({"c0": 1, "c1": 1, "c2": 1, "colour": 1}, "row 0: unknown column 'colour'. Known: at, c0, c1, c2."),
        ({"c0": 1, "c1": 1, "c2": "red"}, "column 'c2', row 0: expected a number, got the text 'red'"),
        ({"c0": 1, "c1": 1, "c2": True}, "column 'c2', row 0: expected a number, got the boolean true"),
    ):
        answer = httpx.post(f"{url}/invocations", json={"dataframe_records": [record]}, timeout=30)
        assert (answer.status_code, answer.json()["message"]) == (400, what)
    good = {"c0": 1, "c1": 1, "c2": 1, "at": "2026-03-02T09:00:00"}
    assert httpx.post(f"{url}/invocations", json={"dataframe_records": [good]}, timeout=30).status_code == 200
    for table, what in (("few.csv", "missing column 'c2'"), ("extra.csv", "unknown column 'colour'")):
        told = refused(project, 2, "predict", MODEL, table)
        assert what in told[0] and "signature" in told[-1]
    assert "expected a number" in refused(project, 2, "predict", MODEL, "text.csv")[0]


def test_a_port_in_use_is_told_with_the_option_that_changes_it(project: Place) -> None:
    with taken_port() as port, unchanged(project):
        told = refused(project, 6, "serve", f"{MODEL}@4", "--port", str(port))
        assert told == [
            f"Port {port} on 127.0.0.1 is in use by another program",
            "Choose another with --port, or 0 for any free one.",
        ]
        told = refused(project, 6, "up", "--mlflow-port", str(port))
        assert told[0] == f"Port {port} on 127.0.0.1 is in use by another program"
        assert "--mlflow-port" in told[1]
        assert not list(project.servers.rglob("server.json"))


def test_a_port_that_a_policy_names_and_another_program_has_is_told_with_the_policys_key(
    project: Place,
) -> None:
    policy = project.folder / "policy.toml"
    with taken_port() as port:
        policy.write_text(re.sub(r"(endpoint *= *\{)", rf"\1 port = {port},", policy.read_text()))
        told = " ".join(refused(project, 6, "deploy", MODEL))
    assert f"Port {port} on 127.0.0.1 is in use" in told
    assert "`port` of the endpoint in its policy" in told and "--port" not in told


def test_a_database_from_a_newer_release_is_left_alone(project: Place) -> None:
    database = project.environment["MLPLATFORM_DATABASE_URL"].removeprefix("sqlite:///")
    before = _with_revision(database, "9999")
    for words in (("list",), ("promote", f"{MODEL}@4", "staging", *WHY), ("db", "upgrade")):
        told = refused(project, 6, *words)
        assert "newer release" in told[0] and "9999" in told[0]
        assert told[-1].startswith("Upgrade mlplatform")
    assert _with_revision(database, before) == "9999"
    shown = project.done("doctor")
    assert "agree" in shown


def test_doctor_shows_the_settings_also_when_nothing_else_can_be_read(project: Place) -> None:
    (project.folder / "policy.toml").write_text("model = 7\n")
    code, shown = project.run("doctor")
    assert code == 2
    assert "database_url" in shown and "environment MLPLATFORM_DATABASE_URL" in shown
    assert "line 1: model: should be text in quotes, not 7" in shown


def test_mlflow_out_of_reach_is_told_and_nothing_is_half_done(project: Place) -> None:
    with taken_port() as port:
        closed = port
    uri = f"http://127.0.0.1:{closed}"
    with unchanged(project):
        code, shown = pointed_at(project, uri).run("register", MODEL, "--run", project.fresh_run)
    told = lines_of(shown)
    assert code == 6
    assert told[0] == f"MLflow at {uri} does not answer: connection refused"
    assert "tracking_uri" in told[1] and "doctor" in told[1]


def test_what_mlflow_cannot_be_told_now_is_done_all_the_same_and_told_later(project: Place) -> None:
    with taken_port() as port:
        closed = port
    promote = ("promote", f"{MODEL}@4", "staging", *WHY)
    code, shown = pointed_at(project, f"http://127.0.0.1:{closed}").run(*promote)
    assert code == 0, shown
    assert "churn@4 to staging: done" in shown
    assert "lags behind until the next command" in shown
    project.done("reconcile")
    with project.opened() as platform:
        assert platform.world.registry.outside(MODEL).aliases["staging"] == 4


def test_outside_a_project_the_way_into_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["list"]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert seen.err.splitlines() == [
        f"No mlplatform.toml in {tmp_path} or any folder above it",
        "Run `mlplatform init` to make a project here, or `cd` into one.",
    ]
    assert list(tmp_path.iterdir()) == []


def test_init_leaves_a_folder_with_a_project_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["init", "shop"]) == 0
    (tmp_path / "shop" / "train.py").write_text("mine")
    assert run(["init", "shop"]) == 2
    assert "shop already has mlplatform.toml, " in capsys.readouterr().err
    assert (tmp_path / "shop" / "train.py").read_text() == "mine"
    assert 'model  = "shop"' in (tmp_path / "shop" / "policy.toml").read_text()


def test_programs_get_the_same_as_one_object_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words, error in (
        (["list", "--json"], "no_project"),
        (["history", "--at", "x", "--json"], "usage_error"),
    ):
        assert run(words) == 2
        seen = capsys.readouterr()
        assert seen.out == ""
        told = json.loads(seen.err)
        assert (told["error"], bool(told["message"]), bool(told["hint"])) == (error, True, True)


# --- helpers --------------------------------------------------------------------------------------------------------


def refused(project: Place, code: int, *words: str) -> Told:
    """What a command that must fail says, without the lines of its progress."""
    found, shown = project.run(*words)
    assert found == code, f"mlplatform {' '.join(words)} ended with {found}:\n{shown}"
    assert "Traceback" not in shown
    assert "mlplatform failed" not in shown
    told = lines_of(shown)
    assert 1 <= len(told) <= 8, shown
    assert all(len(line) < 400 for line in told)
    return told


def lines_of(shown: str) -> Told:
    """Lines, without those of the progress, which come first and are indented."""
    told = shown.splitlines()
    while told and told[0].startswith("  "):
        told.pop(0)
    return [line.strip() for line in told]


def pointed_at(project: Place, uri: str) -> Place:
    """The project with another MLflow."""
    return replace(project, environment={**project.environment, "MLPLATFORM_TRACKING_URI": uri})


@contextmanager
def unchanged(project: Place) -> Iterator[None]:
    before = _state(project)
    yield
    assert _state(project) == before


def _state(project: Place) -> object:
    with project.opened() as platform:
        world = platform.world
        view = world.registry.outside(MODEL)
        return (
            [entry.draft for entry in world.ledger.entries(MODEL)],
            dict(world.ledger.standings(MODEL).places),
            (dict(view.aliases), view.versions),
            world.intents.left(),
            world.deployments.active(MODEL),
            platform.schedules.all(),
            sorted(path.name for path in (project.folder / ".mlplatform" / "bundles").rglob("*.json")),
            list((project.folder / ".mlplatform" / "staging").glob("*")),
        )


@contextmanager
def taken_port() -> Iterator[int]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


def _with_revision(database: str, revision: str) -> str:
    """Write a schema revision; the one before."""
    with sqlite3.connect(database) as connection:
        [before] = connection.execute(f"SELECT version_num FROM {VERSION_TABLE}").fetchone()
        connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = ?", [revision])
    connection.close()
    return str(before)
