"""The same requests to `mlflow models serve` and to our server: the same answers, status codes and error bodies over
all types of columns and forms of bodies; where they differ, it is written down why. MLflow's own client asks too.

Both serve a model whose answer is its row as text, so that a value that was read differently shows.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import requests

from mlplatform.domain.bundle import Column, Manifest, Parameter, Task
from mlplatform.domain.routes import CaptureRule, Route
from mlplatform.serving.app import App
from mlplatform.serving.models.predictor import Arm, LoadedBundle, Table
from mlplatform.stats.batch import Batch, Outputs
from tests import served_models
from tests.unit.serving.over_http import in_thread

SECONDS = 120.0
FAILS = "Atlantis"
"""A town that the model fails on."""
COLUMNS = (
    Column("flag", "boolean"),
    Column("level", "integer"),
    Column("age", "long"),
    Column("rate", "float"),
    Column("amount", "double"),
    Column("city", "string"),
    Column("seen", "datetime", required=False),
    Column("note", "string", required=False),
    Column("bonus", "double", required=False),
)
MODEL = """
import mlflow, numpy as np, pandas as pd

KINDS = {kinds}

def text(kind, value):
    if value is None or pd.isna(value):
        return "-"
    if kind == "datetime":
        return str(np.datetime64(value, "ns"))
    if kind == "float":
        return repr(float(np.float32(value)))
    return repr({{"boolean": bool, "integer": int, "long": int, "double": float, "string": str}}[kind](value))

class Echo(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        if (model_input["city"] == "{fails}").any():
            raise RuntimeError("it does not like this town")
        columns = {{n: model_input[n].tolist() if n in model_input else [None] * len(model_input) for n in KINDS}}
        return ["|".join(text(k, columns[n][i]) for n, k in KINDS.items()) for i in range(len(model_input))]

mlflow.models.set_model(Echo())
"""


# MLflow warns of its own code when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore")


class Echo:
    """The same model as our server runs it."""

    def predict(self, batch: Batch) -> Outputs:
        columns = batch.columns()
        if FAILS in columns["city"]:
            raise RuntimeError("it does not like this town")
        rows = ("|".join(shown(c, columns[c.name][i]) for c in COLUMNS) for i in range(batch.rows))
        return Outputs(np.array(list(rows), object))


def shown(column: Column, value: Any) -> str:
    if value is None or value != value:
        return "-"
    if column.dtype == "datetime":
        return str(value)
    if column.dtype == "float":
        return repr(float(np.float32(value)))
    kinds: dict[str, Callable[[Any], Any]] = {"boolean": bool, "double": float, "string": str}
    return repr(kinds.get(column.dtype, int)(value))


def until(condition: Callable[[], Any]) -> Any:
    deadline, tick = time.monotonic() + SECONDS, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.05)
    return found


def answers_ping(url: str) -> bool:
    try:
        return httpx.get(f"{url}/ping").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("mlflow")
    save_model(root)
    with mlflow_serves(root) as url:
        yield url


@contextmanager
def mlflow_serves(root: Path) -> Iterator[str]:
    """`mlflow models serve` of the folder `model`; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(root / "model")]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    # MLflow starts `uvicorn` by its name.
    path = {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, **path}
        )
    url = f"http://127.0.0.1:{port}"
    until(lambda: server.poll() is not None or answers_ping(url))
    assert server.poll() is None, (root / "log").read_text()
    yield url
    os.killpg(server.pid, signal.SIGTERM)
    server.wait()


def save_model(root: Path) -> None:
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    code = root / "echo.py"
    code.write_text(MODEL.format(fails=FAILS, kinds={column.name: column.dtype for column in COLUMNS}))
    inputs = Schema([ColSpec(column.dtype, column.name, required=column.required) for column in COLUMNS])
    signature = ModelSignature(inputs, Schema([ColSpec("string")]))
    mlflow.pyfunc.save_model(
        root / "model", python_model=str(code), signature=signature, pip_requirements=["mlflow"]
    )


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our server with the same model, which no runtime has to load; its URL."""
    app = App(tmp_path_factory.mktemp("ours"))
    manifest = Manifest("echo", "", COLUMNS, Task("classification", "label"), {})
    bundle = LoadedBundle("d", manifest, Echo())
    arm = Arm(Route("echo", 1, "d", "/nowhere"), bundle, CaptureRule(), app.plane.metrics)
    app.plane.router.table = Table(1, [arm])
    with in_thread(app) as url:
        yield url


# --- requests -----------------------------------------------------------------------------------------------

ROW: dict[str, Any] = {
    "flag": True,
    "level": 3,
    "age": 4,
    "rate": 0.1,
    "amount": 1.5,
    "city": "Wien",
    "seen": "2026-01-31T12:00:00",
    "note": "n",
    "bonus": 2.5,
}
OTHER = {**ROW, "flag": False, "level": -7, "city": "Zürich ☃", "amount": -0.25}
NAMES, VALUES = list(ROW), list(ROW.values())
HEAD = "flag,level,age,rate,amount,city,note,bonus\n"
JSON, CSV = "application/json", "text/csv"
ABSENT = object()
OK = (200, "")
BAD = (400, "BAD_REQUEST")
INVALID = (400, "INVALID_PARAMETER_VALUE")
"""That the rows do not fit the signature, as MLflow says it."""
TEXT = "text"
"""In place of a code, where the body is not JSON."""
MEDIA_TYPE = (415, "UNSUPPORTED_MEDIA_TYPE")


def row(**changes: Any) -> Any:
    changed = {**ROW, **changes}
    return {"dataframe_records": [{k: v for k, v in changed.items() if v is not ABSENT}]}


def split(columns: list[str], data: list[Any], **more: Any) -> Any:
    return {"dataframe_split": {"columns": columns, "data": data, **more}}


SAME: dict[str, Any] = {
    "split": split(NAMES, [VALUES, list(OTHER.values())]),
    "split with an index": split(NAMES, [VALUES], index=[5]),
    "split in another order": split(NAMES[::-1], [VALUES[::-1]]),
    "records": {"dataframe_records": [ROW, OTHER]},
    "records in another order": {"dataframe_records": [dict(reversed(ROW.items()))]},
    "instances as records": {"instances": [ROW, OTHER]},
    "inputs as records": {"inputs": [ROW]},
    "inputs as columns": {"inputs": {name: [ROW[name], OTHER[name]] for name in NAMES}},
    "no parameters": {"inputs": [ROW], "params": {}},
    "optional columns absent": row(note=ABSENT, bonus=ABSENT, seen=ABSENT),
    "optional columns null": row(note=None, bonus=None, seen=None),
    "null text": row(city=None),
    "null text in one of two rows": {"dataframe_records": [ROW, {**ROW, "city": None}]},
    "null double": row(amount=None),
    "null float": row(rate=None),
    "null double in one of two rows": {"dataframe_records": [ROW, {**ROW, "amount": None}]},
    "NaN": row(amount=float("nan")),
    "whole number as double": row(amount=2),
    "whole number as float": row(rate=2),
    "3.0 as integer": row(level=3.0),
    "4.0 as long": row(age=4.0),
    "smallest integer": row(level=-(2**31)),
    "largest integer": row(level=2**31 - 1),
    "largest long": row(age=2**63 - 1),
    "smallest long": row(age=-(2**63)),
    "a long that no float is": row(age=2**53 + 1),
    "tiny double": row(amount=5e-324),
    "huge double": row(amount=1.7e308),
    "text of every alphabet": row(city='Zürich ☃ 東京 \U0001f600 "quoted" \n line'),
    "empty text": row(city=""),
    "date": row(seen="2026-01-31"),
    "time with a blank": row(seen="2026-01-31 12:00:00"),
    "time with microseconds": row(seen="2026-01-31T12:00:00.123456"),
    "CSV": (CSV, HEAD + "true,3,4,0.1,1.5,Wien,n,2.5\nfalse,-3,4,2,1e3,Graz,n,7\n"),
    "CSV, True": (CSV, HEAD + "True,3,4,0.1,1.5,Wien,n,2.5\n"),
    "CSV with quotes": (CSV, HEAD + 'true,3,4,0.1,1.5,"Wi,en ""x""",n,2.5\n'),
    "CSV, values missing": (CSV, HEAD + "true,3,4,,,,,\n"),
    "CSV without optional columns": (CSV, "flag,level,age,rate,amount,city\ntrue,3,4,0.1,1.5,Wien\n"),
    "CSV in another order": (CSV, "city,amount,rate,age,level,flag\nWien,1.5,0.1,4,3,false\n"),
    "charset named": (f"{JSON}; charset=utf-8", json.dumps(row())),
    # refused by both
    "column missing": row(city=ABSENT),
    "null integer": row(level=None),
    "null long": row(age=None),
    "a long of 71 bits": row(age=2**70),
    "no time": row(seen="soon"),
    "list for a number": row(amount=[1]),
    "no rows": {"dataframe_records": []},
    "ragged rows": split(NAMES, [VALUES, VALUES[:2]]),
    "column twice": split([*NAMES, "age"], [[*VALUES, 1]]),
    "unknown form": {"rows": [ROW]},
    "two forms": {"inputs": [ROW], "instances": [ROW]},
    "no object": [1],
    "a scalar": 7,
    "no JSON": (JSON, "{"),
    "no body": (JSON, ""),
    "CSV, integer missing": (CSV, HEAD + "true,,4,0.1,1.5,Wien,n,2.5\n"),
    "CSV, text for a number": (CSV, HEAD + "true,3,4,x,1.5,Wien,n,2.5\n"),
}
DIFFERENT: dict[str, tuple[Any, tuple[int, str], tuple[int, str], str]] = {
    "unknown column": (row(more=1), OK, INVALID, "MLflow drops it; a mistyped optional column would be lost"),
    "null boolean": (row(flag=None), OK, BAD, "MLflow makes it False"),
    "3.5 as integer": (row(level=3.5), OK, BAD, "MLflow cuts it to 3"),
    "2**31 as integer": (row(level=2**31), OK, BAD, "MLflow wraps it to -2**31"),
    "2**63 as long": (row(age=2**63), OK, BAD, "MLflow wraps it to -2**63"),
    "1e39 as float": (row(rate=1e39), OK, BAD, "MLflow makes it infinite"),
    "infinity": (row(amount=float("inf")), OK, BAD, "no number of JSON"),
    "text for a number": (row(amount="1.5"), OK, BAD, "MLflow guesses"),
    "text for an integer": (row(level="3"), OK, BAD, "MLflow guesses"),
    "boolean for a number": (row(amount=True), OK, BAD, "MLflow guesses"),
    "boolean for an integer": (row(level=True), OK, BAD, "MLflow guesses"),
    "text for a boolean": (row(flag="false"), OK, BAD, "MLflow makes every text True, and 'false' too"),
    "number for a boolean": (row(flag=2), OK, BAD, "MLflow guesses"),
    "number for text": (row(city=7), OK, BAD, "MLflow guesses"),
    "object for text": (row(city={"a": 1}), OK, BAD, "MLflow guesses"),
    "number for a time": (row(seen=1769860800), OK, BAD, "MLflow reads nanoseconds"),
    "index of another length": (split(NAMES, [VALUES], index=[1, 2]), OK, BAD, "MLflow repeats the row"),
    "parameters nobody has": ({"inputs": [ROW], "params": {"k": 1}}, OK, INVALID, "MLflow drops them"),
    "key twice": (
        (JSON, json.dumps(row())[:-1] + ', "dataframe_records": []}'),
        INVALID,
        BAD,
        "MLflow takes the last",
    ),
    "time with Z": (row(seen="2026-01-31T12:00:00Z"), INVALID, OK, "MLflow takes no time zone"),
    "time with an offset": (row(seen="2026-01-31T12:00:00+02:00"), INVALID, OK, "MLflow takes no time zone"),
    "CSV with a time": (
        (CSV, "flag,level,age,rate,amount,city,seen\ntrue,3,4,1,1,x,2026-01-31\n"),
        BAD,
        OK,
        "pandas",
    ),
    "instances as rows": ({"instances": [VALUES]}, INVALID, OK, "in the signature's order"),
    "inputs as rows": ({"inputs": [VALUES]}, INVALID, OK, "in the signature's order"),
    "another content type": (("text/plain", "x"), (415, TEXT), MEDIA_TYPE, "MLflow's body is text"),
    "another charset": (
        (f"{JSON}; charset=latin-1", json.dumps(row())),
        (415, TEXT),
        MEDIA_TYPE,
        "MLflow's body is text",
    ),
    "no content type": (("", "x"), (500, TEXT), MEDIA_TYPE, "MLflow fails"),
    "a model that fails": (
        row(city=FAILS),
        BAD,
        (500, "INTERNAL_ERROR"),
        "the request is sound: this counts against the version, and is no reason to mend the request",
    ),
}


LEFT_OUT = {"stack_trace", "sqlstate", "error_class"}
"""Of MLflow's error bodies: its traceback, and two that tell errors apart which have one code here too."""


def post(url: str, sent: Any) -> httpx.Response:
    content_type, body = sent if isinstance(sent, tuple) else (JSON, json.dumps(sent))
    headers = {"content-type": content_type} if content_type else {}
    return httpx.post(f"{url}/invocations", content=body.encode(), headers=headers, timeout=SECONDS)


def ask(url: str, sent: Any) -> tuple[int, Any]:
    """The status, with the predictions or the body that tells what is wrong: its keys and its code."""
    answer = post(url, sent)
    if answer.status_code == 200:
        return 200, answer.json()["predictions"]
    body = answer.json()
    return answer.status_code, (sorted(set(body) - LEFT_OUT), body["error_code"])


def outcome(answer: httpx.Response) -> tuple[int, str]:
    """The status, and the code of what is wrong."""
    if answer.status_code == 200:
        return OK
    is_json = answer.headers["content-type"] == JSON
    return answer.status_code, answer.json()["error_code"] if is_json else TEXT


@pytest.mark.parametrize("name", SAME)
def test_both_servers_answer_the_same(theirs: str, ours: str, name: str) -> None:
    assert ask(ours, SAME[name]) == ask(theirs, SAME[name])


@pytest.mark.parametrize("name", DIFFERENT)
def test_where_they_differ_on_purpose(theirs: str, ours: str, name: str) -> None:
    sent, their_outcome, our_outcome, why = DIFFERENT[name]
    assert (outcome(post(theirs, sent)), outcome(post(ours, sent))) == (their_outcome, our_outcome), why


def test_an_error_is_one_line_without_the_traceback_that_mlflow_sends(theirs: str, ours: str) -> None:
    assert "Traceback" in post(theirs, DIFFERENT["a model that fails"][0]).json()["stack_trace"]
    for sent in (*SAME.values(), *(sent for sent, *_ in DIFFERENT.values())):
        if (answer := post(ours, sent)).status_code != 200:
            assert sorted(answer.json()) == ["error_code", "message"]
            assert "Traceback" not in answer.text and "\n" not in answer.json()["message"]


def test_the_table_has_answers_and_refusals_of_every_type(ours: str) -> None:
    outcomes = {name: outcome(post(ours, sent)) for name, sent in SAME.items()}
    assert sum(found == OK for found in outcomes.values()) >= 35
    assert set(outcomes.values()) == {OK, BAD, INVALID}
    assert ask(ours, SAME["records"])[1] == [
        "True|3|4|0.10000000149011612|1.5|'Wien'|2026-01-31T12:00:00.000000000|'n'|2.5",
        "False|-7|4|0.10000000149011612|-0.25|'Zürich ☃'|2026-01-31T12:00:00.000000000|'n'|2.5",
    ]


def test_mlflows_own_client_gets_the_same_from_both(theirs: str, ours: str) -> None:
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient

    frame = pd.DataFrame([ROW, OTHER])
    answers = []
    for url in (theirs, ours):
        host, port = url.removeprefix("http://").split(":")
        client = ScoringServerClient(host, int(port))
        client.ping()  # raises where the server does not answer
        answers.append(client.invoke(frame).get_predictions())
    assert answers[0].equals(answers[1])


def test_requests_as_mlflows_documentation_writes_them(theirs: str, ours: str) -> None:
    frame = pd.DataFrame([ROW])
    for url in (theirs, ours):
        body = json.dumps({"dataframe_split": frame.to_dict(orient="split")})
        answer = requests.post(f"{url}/invocations", data=body, headers={"Content-Type": JSON}, timeout=60)
        assert (answer.status_code, len(answer.json()["predictions"])) == (200, 1)
        assert requests.get(f"{url}/health", timeout=60).status_code == 200
        assert requests.get(f"{url}/version", timeout=60).status_code == 200


# --- parameters: one model by `mlflow models serve` and by our own runtime for models of MLflow --------------------

PARAMS = (
    Parameter("flag", "boolean", True),
    Parameter("level", "integer", 3),
    Parameter("size", "long", 5),
    Parameter("rate", "float", 0.5),
    Parameter("amount", "double", 1.5),
    Parameter("word", "string", "a"),
    Parameter("since", "datetime", "2026-01-01T00:00:00"),
    Parameter("sizes", "long", (1, 2), (-1,)),
    Parameter("words", "string", ("a",), (-1,)),
    Parameter("limit", "double", None),
)
PARAMS_CODE = """
class M(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [repr(sorted(params.items()))] * len(model_input)
"""
ONE = (Column("a", "double"),)


def set_to(**params: Any) -> Any:
    return {"inputs": [{"a": 1.0}], "params": params}


SAME_PARAMS: dict[str, Any] = {
    "none": {"inputs": [{"a": 1.0}]},
    "no object of them": {"inputs": [{"a": 1.0}], "params": None},
    "an empty object": set_to(),
    "one": set_to(size=7),
    "several": set_to(word="b", flag=False, level=-1, rate=0.1, amount=1e300, size=2**40),
    "those by default": set_to(size=5, sizes=[1, 2], flag=True),
    "for a frame": {**split(["a"], [[1.0], [2.0]]), "params": {"size": 7}},
    "for records": {"dataframe_records": [{"a": 1.0}], "params": {"size": 7}},
    "for instances": {"instances": [{"a": 1.0}], "params": {"size": 7}},
    "whole numbers as floats": set_to(rate=2, amount=3, limit=4),
    "beyond the type": set_to(level=2**40, size=2**70, rate=1e39),
    "null": set_to(flag=None, level=None, rate=None, word=None, since=None, limit=None),
    "a list": set_to(sizes=[3, 4, 5], words=["x", "y"]),
    "an empty list": set_to(sizes=[], words=[]),
    "null in a list": set_to(sizes=[1, None]),
    "a date": set_to(since="2026-02-28"),
    "a time": set_to(since="2026-02-28T12:30:00"),
    "a time with microseconds": set_to(since="2026-02-28 12:30:00.123456"),
    "text of every alphabet": set_to(word="Zürich ☃"),
    "a table in CSV has the defaults": (CSV, "a\n1.0\n"),
    # refused by both
    "text for a number": set_to(size="7"),
    "text for a float": set_to(rate="0.5"),
    "a fraction for an integer": set_to(level=1.5),
    "3.0 for a long": set_to(size=3.0),
    "a boolean for a number": set_to(size=True),
    "a boolean for a float": set_to(amount=False),
    "a number for text": set_to(word=3),
    "a number for a boolean": set_to(flag=1),
    "text for a boolean": set_to(flag="true"),
    "a list for one value": set_to(size=[7]),
    "an object for one value": set_to(word={"a": 1}),
    "one value for a list": set_to(sizes=7),
    "null for a list": set_to(sizes=None),
    "a list of lists": set_to(sizes=[[1]]),
    "text in a list of numbers": set_to(sizes=[1, "2"]),
    "an object for a list": set_to(words={"a": 1}),
    "no time": set_to(since="soon"),
    "a number for a time": set_to(since=1769860800),
    "no object": {"inputs": [{"a": 1.0}], "params": [["size", 7]]},
    "text": {"inputs": [{"a": 1.0}], "params": "size=7"},
    "two wrong ones": set_to(size="7", word=3),
    "a right one beside a wrong one": set_to(size=7, word=3),
}
DIFFERENT_PARAMS: dict[str, tuple[Any, tuple[int, str], tuple[int, str], str]] = {
    "unknown": (set_to(sise=7), OK, INVALID, "MLflow drops it; the caller would get the default's answer"),
    "unknown beside a known one": (set_to(size=7, more=1), OK, INVALID, "MLflow drops it"),
    "infinity": (set_to(amount=float("inf")), OK, BAD, "no number of JSON"),
    "a year for a time": (set_to(since="2026"), OK, INVALID, "a time as in a column"),
    "empty text for a time": (set_to(since=""), OK, INVALID, "MLflow makes it None"),
    "nanoseconds": (set_to(since="2026-02-28T12:30:00.123456789"), INVALID, OK, "cut to microseconds"),
}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """URLs of MLflow's server and ours, of one saved model."""
    from mlflow.types import ParamSchema, ParamSpec

    root = tmp_path_factory.mktemp("params")
    folder = root / "bundle"
    schema = ParamSchema([ParamSpec(p.name, p.dtype, default_of(p), p.shape or None) for p in PARAMS])
    served_models.save_code_model(folder / "model", PARAMS_CODE, ONE, params=schema)
    task = Task("classification", "label")
    manifest = served_models.freeze(
        folder, Manifest("pyfunc", "model", ONE, task, {}, params=PARAMS), {"a": [1.0, 2.0]}
    )
    shutil.copytree(folder / "model", root / "model")  # MLflow writes into what it loads
    with (
        mlflow_serves(root) as theirs,
        served_models.served(root / "server", folder, manifest, runs_code=True) as ours,
    ):
        yield theirs, ours.url


def default_of(param: Parameter) -> Any:
    return list(param.default) if param.shape else param.default


@pytest.mark.parametrize("name", SAME_PARAMS)
def test_both_servers_take_parameters_alike(both: tuple[str, str], name: str) -> None:
    theirs, ours = both
    answer = ask(ours, SAME_PARAMS[name])
    assert answer == ask(theirs, SAME_PARAMS[name])


@pytest.mark.parametrize("name", DIFFERENT_PARAMS)
def test_where_they_take_parameters_otherwise_on_purpose(both: tuple[str, str], name: str) -> None:
    theirs, ours = both
    sent, their_outcome, our_outcome, why = DIFFERENT_PARAMS[name]
    assert (outcome(post(theirs, sent)), outcome(post(ours, sent))) == (their_outcome, our_outcome), why


def test_the_table_of_parameters_has_answers_and_refusals(both: tuple[str, str]) -> None:
    _, ours = both
    outcomes = [outcome(post(ours, sent)) for sent in SAME_PARAMS.values()]
    assert (outcomes.count(OK), outcomes.count(INVALID)) == (20, len(SAME_PARAMS) - 20)
    defaults = ask(ours, SAME_PARAMS["none"])[1][0]
    assert "('size', 5)" in defaults and "('sizes', [1, 2])" in defaults and "('limit', None)" in defaults
    assert ask(ours, SAME_PARAMS["those by default"])[1] == [defaults]


def test_a_parameter_that_is_refused_is_named(both: tuple[str, str]) -> None:
    _, ours = both
    said = {
        "field 'params': unknown parameter 'sise'. Did you mean 'size'?": set_to(sise=7),
        "parameter 'size': expected a whole number, got the text '7'": set_to(size="7"),
        "parameter 'sizes': expected a list, got 7": set_to(sizes=7),
        "parameter 'sizes', entry 1: expected a whole number, got the text '2'": set_to(sizes=[1, "2"]),
        "parameter 'since': expected a time such as 2026-01-31T12:00:00Z, got the text 'soon'": set_to(
            since="soon"
        ),
    }
    assert {post(ours, sent).json()["message"] for sent in said.values()} == set(said)


def test_a_version_without_parameters_says_that_it_has_none(ours: str) -> None:
    answer = post(ours, {"inputs": [ROW], "params": {"k": 1}})
    assert answer.json() == {
        "error_code": "INVALID_PARAMETER_VALUE",
        "message": "field 'params': this version was registered without parameters",
    }


def test_parameters_come_by_the_other_protocol_too_beside_those_of_clients(both: tuple[str, str]) -> None:
    _, ours = both
    tensors = [{"name": "a", "shape": [1], "datatype": "FP64", "data": [1.0]}]

    def infer(parameters: Any) -> httpx.Response:
        body = {"inputs": tensors, "parameters": parameters}
        return httpx.post(f"{ours}/v2/models/m/infer", json=body, timeout=SECONDS)

    said = infer({"size": 7, "words": ["x"], "priority": 3, "binary_data_output": False})
    assert said.json()["outputs"][0]["data"] == ask(ours, set_to(size=7, words=["x"]))[1]
    assert infer({"priority": 3}).json()["outputs"][0]["data"] == ask(ours, set_to())[1]
    wrong = infer({"size": "7"})
    assert (wrong.status_code, wrong.json()) == (
        400,
        {"error": "parameter 'size': expected a whole number, got the text '7'"},
    )


def test_requests_of_other_parameters_at_a_time_get_their_own_answers(both: tuple[str, str]) -> None:
    _, ours = both
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda i: ask(ours, set_to(size=i % 5) if i % 6 else set_to()), range(60)))
    for i, (status, said) in enumerate(answers):
        assert status == 200
        assert f"('size', {i % 5 if i % 6 else 5})" in said[0]


def test_the_document_says_which_parameters_there_are(both: tuple[str, str]) -> None:
    from jsonschema_rs import Draft202012Validator

    _, ours = both
    document = httpx.get(f"{ours}/openapi.json").json()
    body = document["paths"]["/invocations"]["post"]["requestBody"]["content"][JSON]["schema"]
    known = body["anyOf"][0]["properties"]["params"]["properties"]
    assert list(known) == [param.name for param in PARAMS]
    assert known["size"] == {"type": ["integer", "null"], "default": 5}
    infer = document["paths"]["/v2/models/m/infer"]["post"]["requestBody"]["content"][JSON]["schema"]
    assert known.items() <= infer["anyOf"][0]["properties"]["parameters"]["properties"].items()
    valid = Draft202012Validator(body).is_valid
    beyond = {"3.0 for a long", "a time with microseconds"}  # JSON's integers, and the blank of a time
    for name, sent in SAME_PARAMS.items():
        if name not in beyond and not isinstance(sent, tuple):
            assert valid(sent) == (outcome(post(ours, sent)) == OK), name
    assert not valid(set_to(sise=7))
