"""Lines of the log: fields of the Elastic Common Schema, none of what clients sent, never too many."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from mlplatform.serving import logs

NAMES = re.compile(
    r"@timestamp|message|(log|ecs|service|process|event|error|http|url|trace|labels|client)\.[a-z_.]+"
)


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> logs.Log:
    """A log of our own, in JSON."""
    log = logs.Log()
    log.service, log.node, log.style = "churn", "worker 1", "json"
    monkeypatch.setattr(logs, "_log", log)
    return log


@pytest.fixture
def dropped(log: logs.Log) -> list[None]:
    found: list[None] = []
    log.on_drop = lambda: found.append(None)
    return found


def lines(capfd: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capfd.readouterr().out.splitlines()]


def test_a_line_has_the_fields_that_ecs_logging_asks_for(capfd: pytest.CaptureFixture[str]) -> None:
    logs.event("worker-died", 'worker 12 "ended"\nwith -9', "error", process__exit_code=-9)
    (line,) = lines(capfd)
    assert list(line)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["@timestamp"])
    assert line["log.level"] == "error"
    assert line["message"] == 'worker 12 "ended"\nwith -9'
    assert line["service.name"] == "churn"
    assert line["service.node.name"] == "worker 1"
    assert line["process.pid"] == os.getpid()
    assert line["event.action"] == "worker-died"
    assert line["process.exit_code"] == -9
    assert all(NAMES.fullmatch(name) for name in line)


def test_plain_text_is_for_those_who_look_on(log: logs.Log, capfd: pytest.CaptureFixture[str]) -> None:
    log.style = "text"
    logs.event("started", "serving churn")
    logs.event("worker-died", "worker 12 ended", "error")
    first, second = capfd.readouterr().out.splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d serving churn", first)
    assert re.fullmatch(r"\d\d:\d\d:\d\d error: worker 12 ended", second)


def failed() -> Exception:
    try:
        try:
            float("4111 1111 1111 1111")
        except ValueError as cause:
            raise RuntimeError("the model failed") from cause
    except RuntimeError as error:
        return error


def test_an_exception_is_told_without_its_words(capfd: pytest.CaptureFixture[str]) -> None:
    error = failed()
    assert "4111" in "".join(traceback.format_exception(error))
    logs.limited("request-failed", "POST /invocations 500", "error", logs.failure(error))
    (line,) = lines(capfd)
    assert line["error.type"] == "ValueError"
    assert re.search(r"test_logs\.py:\d+ in failed", line["error.stack_trace"])
    assert "4111" not in json.dumps(line)


def test_a_flood_of_one_kind_is_cut_and_counted(
    capfd: pytest.CaptureFixture[str], dropped: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs.time, "monotonic", lambda: 100.0)
    for _ in range(500):
        logs.limited("request-failed", "POST /invocations 500", "error", {})
    logs.limited("slow-request", "POST /invocations 200", "warning", {})
    found = lines(capfd)
    assert [line["event.action"] for line in found] == ["request-failed"] * logs.LINES_A_SECOND + [
        "slow-request"
    ]
    assert len(dropped) == 500 - logs.LINES_A_SECOND
    monkeypatch.setattr(logs.time, "monotonic", lambda: 101.0)
    logs.limited("request-failed", "POST /invocations 500", "error", {})
    assert len(lines(capfd)) == 1


def test_access_lines_wait_for_the_flush_and_not_without_bound(
    capfd: pytest.CaptureFixture[str], dropped: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "BUFFER_BYTES", 10_000)
    for i in range(100):
        logs.access("POST /invocations 200", {"http.response.status_code": 200, "labels.i": i})
    assert lines(capfd) == []
    logs.flush()
    found = lines(capfd)
    assert [line["labels.i"] for line in found] == list(range(len(found)))
    assert 10 < len(found) == 100 - len(dropped)
    logs.flush()
    assert lines(capfd) == []


def test_a_log_that_cannot_be_written_fails_nothing(
    dropped: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open("/dev/full", "wb") as full:
        monkeypatch.setattr(logs, "STDOUT", full.fileno())
        logs.event("started", "serving")
    assert len(dropped) == 1


@pytest.fixture
def followed() -> Iterator[None]:
    before = list(logging.getLogger().handlers)
    logs.follow_logging()
    yield
    logging.getLogger().handlers = before


@pytest.mark.usefixtures("followed")
def test_what_libraries_warn_of_is_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("library").warning("low on %s", "fuel")
    logging.getLogger("library").info("fine")
    (line,) = lines(capfd)
    assert (line["log.logger"], line["log.level"], line["message"]) == ("library", "warning", "low on fuel")


def test_the_loop_does_not_quote_what_callbacks_were_given(capfd: pytest.CaptureFixture[str]) -> None:
    said = "Exception in callback data_received(b'4111 1111')"
    logs.loop_failed(None, {"message": said, "exception": failed()})
    (line,) = lines(capfd)
    assert line["error.type"] == "ValueError"
    assert "4111" not in json.dumps(line)


@pytest.mark.parametrize(
    "where", ["raise OSError('no space')", "threading.Thread(target=int, args=('x',)).start()"]
)
def test_an_exception_that_nobody_caught_is_a_line(where: str) -> None:
    given = (
        "import threading\nfrom mlplatform.serving import logs\nlogs.configure('churn', 'parent', 'json')\n"
    )
    script = given + where
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    line = json.loads(done.stdout)
    assert line["event.action"] == "died"
    assert line["error.type"] in ("OSError", "ValueError")
    assert "Traceback" not in done.stderr
