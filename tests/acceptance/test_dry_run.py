"""A dry run touches nothing: every row of both databases and every file is the same before and after.

Every command that has --dry-run must stand in the table below, and `check`, which is one. The project has something to
touch for each of them: a version that was never measured, captured rows and labels that were never read, an alias that
was moved in MLflow.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from mlflow import MlflowClient
from sqlalchemy import create_engine, inspect, text

from tests.command_line import commands
from tests.databases import BACKENDS
from tests.small_project import MODEL, UNTIL, Place, SmallProject

REASON = ("--reason", "because")
RUNS: dict[str, tuple[tuple[str, ...], str]] = {
    "check": ((f"{MODEL}@6", "staging"), "churn@6 to staging: would be done"),
    "approve": ((f"{MODEL}@6", "--for", "staging", *REASON), "churn@6 for staging: would be approved"),
    "reject": ((f"{MODEL}@6", *REASON), "REJECTED"),
    "promote": ((f"{MODEL}@6", "staging", *REASON), "churn@6 to staging: would be done"),
    "rollback": ((MODEL, *REASON), "would bring back churn@1"),
    "retire": ((f"{MODEL}@1", *REASON), "version 1: STANDBY -> RETIRED"),
    "register": ((MODEL, "--run", "FRESH"), "it is churn@6 already"),
    "compress": ((f"{MODEL}@4", "--steps", "onnx"), "would be a version of churn: onnx"),
    "deploy": ((MODEL,), "its server would be started"),
    "monitor": ((MODEL, "--until", UNTIL), "ingested 4 rows of 1 blocks"),
    "retrain": ((MODEL,), "a challenger would be trained"),
    "reconcile": ((MODEL,), "MLflow's alias staging names version 4, the ledger says version 3"),
    "gc": ((), ""),
    "token add": (("mallory", "--role", "risk"), "would make a token for mallory"),
    "token revoke": (("TOKEN",), "eve"),
}
"""Command -> its words, and something that its dry run says."""


@pytest.fixture(scope="module", params=BACKENDS)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    project: SmallProject = request.getfixturevalue(f"small_{request.param}")
    with project.copied() as made:
        made.done("register", MODEL, "--run", made.fresh_run)
        made.environment["MLPLATFORM_TOKEN"] = made.told("token", "add", "grace", "--role", "admin")["text"]
        made.environment["TOKEN"] = made.told("token", "add", "eve", "--role", "risk")["token"]["id"]
        _leave_unread(made)
        store = made.environment["MLPLATFORM_TRACKING_URI"]
        MlflowClient(store, registry_uri=store).set_registered_model_alias(MODEL, "staging", "4")
        yield made


def test_every_command_with_a_dry_run_is_tried() -> None:
    dry = {name for name, command in commands() if any("--dry-run" in p.opts for p in command.params)}
    assert RUNS.keys() == dry | {"check"}


@pytest.mark.parametrize("name", RUNS)
def test_a_dry_run_touches_nothing(name: str, place: Place) -> None:
    words, says = RUNS[name]
    flag = () if name == "check" else ("--dry-run",)
    before = everything(place)
    code, output = place.run(*name.split(), *(_filled(word, place) for word in words), *flag)
    assert code in (0, 3, 4), output
    assert says in output
    after = everything(place)
    for part, found in before.items():
        assert after[part] == found, f"{part} was touched"


def test_the_test_would_see_a_touch(place: Place) -> None:
    """An approval is a row of our database and a card in MLflow's; reading blocks in changes files."""
    before = everything(place)
    place.done("approve", f"{MODEL}@6", "--for", "staging", *REASON)
    with place.opened() as platform:
        assert platform.world.observations.ingest(MODEL).rows == 4
    after = everything(place)
    assert [part for part in before if after[part] == before[part]] == []


# --- before and after -----------------------------------------------------------------------------------------------


def everything(place: Place) -> dict[str, Any]:
    """All rows of both databases, and all files with their bytes."""
    return {
        "platform": _rows(place.environment["MLPLATFORM_DATABASE_URL"]),
        "mlflow": _sqlite_rows(place.environment["MLPLATFORM_TRACKING_URI"].removeprefix("sqlite:///")),
        "files": _files(place.folder),
    }


def _rows(url: str) -> dict[str, list[str]]:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    try:
        with engine.connect() as connection:
            names = inspect(connection).get_table_names()
            return {
                n: sorted(map(str, connection.execute(text(f'SELECT * FROM "{n}"')).all())) for n in names
            }
    finally:
        engine.dispose()


def _sqlite_rows(path: str) -> dict[str, list[str]]:
    with closing(sqlite3.connect(path)) as connection:
        names = [n for (n,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {n: sorted(map(str, connection.execute(f'SELECT * FROM "{n}"').fetchall())) for n in names}


def _files(folder: Path) -> dict[str, str]:
    """Every folder, and every file with its digest; but for the databases and what the test itself writes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name in ("output.log", "errors.log") or ".db" in path.suffixes[:1] or "/.ses" in f"/{name}":
            continue
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
    return found


# --- something to touch ---------------------------------------------------------------------------------------------


def _leave_unread(place: Place) -> None:
    """Rows that the server captured and a label that came by HTTP, both not ingested yet."""
    place.done("deploy", MODEL)
    with place.opened() as platform:
        url = platform.endpoint(MODEL).server.url
    rows = {
        "columns": ["c0", "c1", "c2", "at"],
        "data": [[0.1 * n, 0.2, 0.3, "2026-03-02T10:30:00"] for n in range(4)],
    }
    id = _post(f"{url}/invocations", {"dataframe_split": rows})
    _post(f"{url}/labels", {"labels": [{"id": f"{id}/0", "label": 1}]})
    place.done("undeploy", MODEL)
    assert list((place.servers / MODEL / "capture").glob("*.npz")), "nothing waits to be read"
    assert list((place.servers / MODEL / "inbox").glob("*.json"))


def _post(url: str, body: dict[str, Any]) -> str:
    request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=10) as answer:
        return str(answer.headers["Mlplatform-Request-Id"])


def _filled(word: str, place: Place) -> str:
    return {"FRESH": place.fresh_run, "TOKEN": place.environment["TOKEN"]}.get(word, word)
