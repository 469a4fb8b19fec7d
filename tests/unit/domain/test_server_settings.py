"""Settings of servers: what differs, what a running server keeps, what is told of secrets."""

from __future__ import annotations

import json
from dataclasses import replace

from mlplatform.domain.limits import RequestLimits
from mlplatform.domain.server_settings import ServerSettings, digests, traces_of

RUNNING = ServerSettings(port=4000, workers=2, auth=True, tls_cert="c", tls_key="k", traces={"OTEL_X": "1"})


def told(wanted: ServerSettings) -> list[str]:
    return [str(change) for change in RUNNING.changes(wanted)]


def test_a_running_server_keeps_its_port_its_guards_and_its_traces_where_nothing_is_said_of_them() -> None:
    assert told(ServerSettings(workers=2)) == []


def test_what_differs_is_told_by_the_names_of_a_policy() -> None:
    wanted = ServerSettings(port=5000, workers=1, limits=RequestLimits(max_waiting=7), log="access")
    assert told(wanted) == [
        "port 4000 -> 5000",
        "workers 2 -> 1",
        "limits.max_waiting 1024 -> 7",
        "log events -> access",
    ]
    stricter = ServerSettings().changes(ServerSettings(auth=True, tls_cert="c", tls_key="k"))
    assert list(map(str, stricter)) == ["auth false -> true", "tls.cert none -> c", "tls.key none -> k"]


def test_of_variables_no_value_is_told() -> None:
    traces = digests({"OTEL_EXPORTER_OTLP_HEADERS": "key=secret"})
    assert "secret" not in json.dumps(replace(RUNNING, traces=traces).to_dict())
    assert told(ServerSettings(workers=2, traces=traces)) == [
        "OTEL_X removed",
        "OTEL_EXPORTER_OTLP_HEADERS added",
    ]


def test_variables_count_where_they_decide_where_traces_go() -> None:
    assert traces_of({"OTEL_SERVICE_NAME": "x", "HOME": "/"}) == {}
    assert set(traces_of({"OTEL_SERVICE_NAME": "x", "OTEL_SDK_DISABLED": "true", "HOME": "/"})) == {
        "OTEL_SERVICE_NAME",
        "OTEL_SDK_DISABLED",
    }


def test_they_are_read_back_as_they_were_written_and_anything_else_is_none() -> None:
    assert ServerSettings.of(json.loads(json.dumps(RUNNING.to_dict()))) == RUNNING
    assert ServerSettings.of(None) is None
    assert ServerSettings.of({"workers": 1}) is None
