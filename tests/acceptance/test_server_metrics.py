"""What a server shows of itself: a real Prometheus scrapes it and judges by the shipped rules, its log is read line by
line, a collector takes its spans, and each answer says where its time went."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from mlplatform.domain.bundle import Manifest
from mlplatform.domain.routes import Route, Routes
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.serving.exposition import FAMILIES
from mlplatform.store.documents import FolderDocuments
from mlplatform.testing.bundles import make_log_bundle, make_onnx_bundle
from tests.collector import attributes, running_collector

ROOT = Path(__file__).parents[2]
RULES = ROOT / "docker" / "prometheus"
SECONDS = 20.0
ROW = {"inputs": [[0.1, 0.2, 0.3]]}
SECRET = 41111111.5
"""A value that no log may hold."""


def until(condition: Callable[[], Any], seconds: float = SECONDS) -> Any:
    """Wait for something to become true; what it was."""
    deadline, tick = time.monotonic() + seconds, threading.Event()
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        tick.wait(0.05)
    return found


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Manifest]]:
    """`churn`, which always answers, and `log`, whose answer is no finite number for what is below 0."""
    root = tmp_path_factory.mktemp("bundles")
    return {
        "churn": (root / "churn", make_onnx_bundle(root / "churn")),
        "log": (root / "log", make_log_bundle(root / "log")),
    }


class Endpoint:
    """A folder with a server on it."""

    def __init__(self, root: Path, bundles: dict[str, tuple[Path, Manifest]]) -> None:
        self.documents = FolderDocuments(root)
        self.folder = self.documents.folder("scores")
        self.target = LocalTarget()
        self.url = ""
        self._bundles = bundles
        self._clients: list[httpx.Client] = []

    def route(self, model: str, version: int = 1) -> Route:
        folder, manifest = self._bundles[model]
        return Route(model, version, manifest.digest, str(folder))

    def publish(self, *routes: Route, wait: bool = True) -> int:
        generation = self.documents.publish(Routes("scores", 0, routes)).generation
        if wait:
            self.documents.wait_in_effect("scores", generation, SECONDS)
        return generation

    def start(self, model: str = "churn", workers: int = 1, access_log: bool = False) -> httpx.Client:
        self.publish(self.route(model), wait=False)
        spec = ServerSpec("scores", self.folder, workers=workers, access_log=access_log)
        state = self.target.apply(spec)
        self.pid, self.url = state.pid, state.url
        self._clients.append(httpx.Client(base_url=state.url, timeout=SECONDS))
        return self._clients[-1]

    def stop(self) -> None:
        for client in self._clients:
            client.close()
        self.target.stop(self.folder)

    def lines(self, action: str = "") -> list[dict[str, Any]]:
        """The log; a line that is no JSON is an error here."""
        found = [json.loads(line) for line in (self.folder / "server.log").read_text().splitlines()]
        return [line for line in found if action in ("", line["event.action"])]


@pytest.fixture
def endpoint(tmp_path: Path, bundles: dict[str, tuple[Path, Manifest]]) -> Iterator[Endpoint]:
    endpoint = Endpoint(tmp_path / "servers", bundles)
    yield endpoint
    endpoint.stop()


def program(name: str) -> str:
    """A program that CI installs with apt; one that is missing is a failure."""
    found = shutil.which(name)
    assert found, f"{name} is missing: apt-get install prometheus"
    return found


def promtool(*words: str, given: str | None = None) -> str:
    done = subprocess.run(
        [program("promtool"), *words],
        cwd=RULES,
        input=given,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- metrics ------------------------------------------------------------------------------------------------------


class Prometheus:
    """A real one, with the shipped rules."""

    def __init__(self, folder: Path, target: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        config = yaml.safe_load((RULES / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": "250ms", "evaluation_interval": "500ms"}
        config["rule_files"] = [str(RULES / name) for name in config["rule_files"]]
        config["scrape_configs"][0]["static_configs"] = [
            {"targets": [target], "labels": {"endpoint": "scores"}}
        ]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        command = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{self.port}"]
        self.log = (folder / "prometheus.log").open("wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=SECONDS)

    def query(self, expression: str) -> dict[tuple[str, ...], float]:
        """Values by their labels' values, in the order of the names."""
        try:
            answer = self.client.get("/api/v1/query", params={"query": expression})
        except httpx.TransportError:
            return {}
        if answer.status_code != 200:
            return {}
        found = answer.json()["data"]["result"]
        return {
            tuple(v for k, v in sorted(one["metric"].items()) if k in ("model", "status", "version")): float(
                one["value"][1]
            )
            for one in found
        }

    def close(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(SECONDS)
        self.log.close()


@pytest.fixture
def prometheus(tmp_path: Path) -> Iterator[Callable[[str], Prometheus]]:
    running: list[Prometheus] = []

    def start(url: str) -> Prometheus:
        running.append(Prometheus(tmp_path, url.removeprefix("http://")))
        return running[-1]

    yield start
    for one in running:
        one.close()


def test_a_real_prometheus_scrapes_the_server_and_its_rules_give_sane_values(
    endpoint: Endpoint, prometheus: Callable[[str], Prometheus]
) -> None:
    client = endpoint.start(workers=2)
    seen = prometheus(endpoint.url)
    until(lambda: seen.query('up{job="mlplatform"}') == {(): 1.0})
    assert client.post("/invocations", json={"inputs": "x"}).status_code == 400
    asked = 0

    def asking_gives(expression: str) -> float:
        nonlocal asked
        for _ in range(20):
            assert httpx.post(f"{endpoint.url}/invocations", json=ROW).status_code == 200
            asked += 1
        return seen.query(expression).get(("churn", "1"), 0.0)

    counted = 'mlplatform_requests_total{status="200"}[1m]'
    until(lambda: asked / 2 < asking_gives(f"sum by (model, version) (increase({counted}))") < asked * 2)
    until(lambda: asking_gives("model:mlplatform_requests:rate5m") > 0)
    rate = seen.query(f"sum by (model, version) (rate({counted}))")[("churn", "1")]
    assert asked / 60 / 2 < rate < asked / 60 * 2
    until(lambda: seen.query("sum(mlplatform_requests_total)") == {(): asked + 1.0})
    assert seen.query('mlplatform_requests_total{status="400"}') == {("churn", "400", "1"): 1.0}
    buckets = "sum by (model, version, le) (rate(mlplatform_request_duration_seconds_bucket[20s]))"
    p99 = f"histogram_quantile(0.99, {buckets})"
    assert 0.00005 < until(lambda: seen.query(p99))[("churn", "1")] < 0.25
    until(
        lambda: (
            0.00005
            < seen.query("model:mlplatform_request_duration_seconds:p99_5m").get(("churn", "1"), 0)
            < 0.25
        )
    )
    assert seen.query("mlplatform_workers_running") == {(): 2.0}
    memory_bytes = seen.query("endpoint:process_resident_memory_bytes:sum")[()]
    assert 3 * 10e6 < memory_bytes < 3 * 300e6
    assert 0 <= seen.query("sum(rate(process_cpu_seconds_total[20s]))")[()] < 2.5
    assert seen.query("time() - min(process_start_time_seconds)")[()] < 60
    assert seen.query("ALERTS") == {}
    endpoint.publish(replace(endpoint.route("churn", 2), digest="0" * 64), wait=False)
    until(lambda: seen.query('ALERTS{alertname="MlplatformRoutesRejected", alertstate="pending"}'))


def test_the_exposition_has_every_metric_and_promtool_has_no_complaint(endpoint: Endpoint) -> None:
    client = endpoint.start(workers=2)
    assert client.post("/invocations", json=ROW).status_code == 200
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert promtool("check", "metrics", given=answer.text) == ""
    families = list(text_string_to_metric_families(answer.text))
    named = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert named == set(FAMILIES)
    processes = next(family for family in families if family.name == "process_resident_memory_bytes")
    assert {sample.labels["worker"] for sample in processes.samples} == {"0", "1", "parent"}
    openmetrics = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")


def test_names_that_nobody_serves_make_no_series(endpoint: Endpoint) -> None:
    client = endpoint.start()
    infer = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}
    for i in range(50):
        assert client.post(f"/v2/models/guess-{i}/infer", json=infer).status_code == 404
        assert client.post(f"/v2/models/churn/versions/{i + 7}/infer", json=infer).status_code == 404
    text = client.get("/metrics").text
    assert "guess" not in text
    assert 'mlplatform_requests_total{model="",version="",arm="",protocol="v2",status="404"} 100' in text
    assert set(re.findall(r'model="([^"]*)"', text)) == {"", "churn"}


def test_counters_do_not_fall_from_scrape_to_scrape_whichever_worker_answers(endpoint: Endpoint) -> None:
    endpoint.start(workers=2)
    url, told = endpoint.url, threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url, timeout=SECONDS) as one:
            while not told.is_set():
                one.post("/invocations", json=ROW)

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    seen = []
    for _ in range(30):  # each on a connection of its own
        text = httpx.get(f"{url}/metrics", timeout=SECONDS).text
        seen.append(sum(map(int, re.findall(r"^mlplatform_requests_total\{.*\} (\d+)$", text, re.M))))
    told.set()
    for thread in asking:
        thread.join()
    assert seen == sorted(seen)
    assert seen[-1] > seen[0]


def test_counters_do_not_fall_when_a_worker_dies(endpoint: Endpoint) -> None:
    client = endpoint.start()
    counted = (
        'mlplatform_requests_total{model="churn",version="1",arm="live",protocol="mlflow",status="200"} %d'
    )
    for _ in range(7):
        assert client.post("/invocations", json=ROW).status_code == 200
    (worker,) = endpoint.documents.workers("scores")
    file = endpoint.folder / "workers" / f"{worker.pid}.metrics"
    until(lambda: "[200, 7]" in file.read_text())
    client.close()
    os.kill(worker.pid, signal.SIGKILL)

    def scraped() -> str:
        try:
            return httpx.get(f"{endpoint.url}/metrics", timeout=SECONDS).text
        except httpx.TransportError:
            return ""

    text = until(lambda: "mlplatform_worker_restarts_total 1" in (text := scraped()) and text)
    assert counted % 7 in text
    assert not file.exists()
    assert httpx.post(f"{endpoint.url}/invocations", json=ROW).status_code == 200
    assert counted % 8 in scraped()


# --- rules --------------------------------------------------------------------------------------------------------


def rules(name: str) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load((RULES / name).read_text())["groups"] for rule in group["rules"]]


def test_the_shipped_rules_are_valid_and_fire_as_they_should() -> None:
    assert "SUCCESS" in promtool("check", "config", "prometheus.yml")
    assert "SUCCESS" in promtool("check", "rules", "alerts.yml", "recording.yml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yml")


def test_every_alert_is_tested_and_leads_to_a_section_that_is_there() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    anchors = {
        re.sub(r"[^a-z0-9 -]", "", head.lower()).replace(" ", "-")
        for head in re.findall(r"^#+ (.*)$", page, re.M)
    }
    tests = yaml.safe_load((RULES / "alerts_test.yml").read_text())["tests"]
    fires = {t["alertname"] for test in tests for t in test["alert_rule_test"] if t.get("exp_alerts")}
    alerts = rules("alerts.yml")
    assert {rule["alert"] for rule in alerts} == fires
    for rule in alerts:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert path == "docs/operations.md"
        assert anchor in anchors, anchor


def test_rules_ask_for_metrics_that_there_are() -> None:
    recorded = {rule["record"] for rule in rules("recording.yml")}
    asked = [rule["expr"] for rule in (*rules("recording.yml"), *rules("alerts.yml"))]
    names = {name for e in asked for name in re.findall(r"(?<![\w:])(?:mlplatform|process)_\w+", e)}
    known = {*FAMILIES, *(f"{name}{end}" for name in FAMILIES for end in ("_bucket", "_sum", "_count"))}
    assert names <= known
    assert {name for e in asked for name in re.findall(r"\w+:\w+:\w+", e)} <= recorded


def test_the_page_lists_every_metric_as_it_is() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    shown = re.findall(r"^\| `((?:mlplatform|process)_\w+)` \| (\w+) \| ([^|]*) \| (.*) \|$", page, re.M)
    labels = {name: ", ".join(family.labels) for name, family in FAMILIES.items()}
    assert shown == [(name, f.kind, labels[name], f.help) for name, f in FAMILIES.items()]


def test_the_page_lists_every_kind_of_line() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    listed = re.search(r"`event\.action` is one of: (.*?)\. Those", page, re.S)
    assert listed
    code = "".join(path.read_text() for path in (ROOT / "mlplatform" / "serving").rglob("*.py"))
    written = re.findall(r"""logs?\.(?:event|limited|buffer)\(\s*"([a-z-]+)\"""", code)
    assert set(re.findall(r"`([a-z-]+)`", listed[1])) == set(written)


# --- logs ---------------------------------------------------------------------------------------------------------


def test_the_log_tells_what_happened_and_nothing_of_what_was_sent(endpoint: Endpoint) -> None:
    client = endpoint.start("log")
    assert client.post("/invocations", json={"inputs": [[SECRET]]}).status_code == 200
    headers = {"authorization": f"Bearer {SECRET}", "traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    failed = client.post(f"/invocations?card={SECRET}", json={"inputs": [[-SECRET]]}, headers=headers)
    assert failed.status_code == 500
    assert client.post("/invocations", json={"inputs": [[str(SECRET)]]}).status_code == 400
    assert client.get(f"/{SECRET}", headers=headers).status_code == 404
    broken = replace(endpoint.route("churn", 2), digest="0" * 64)
    endpoint.publish(broken, wait=False)
    (worker,) = endpoint.documents.workers("scores")
    until(lambda: client.get("/health").json().get("error"))
    os.kill(worker.pid, signal.SIGKILL)
    until(lambda: endpoint.lines("worker-died"))
    until(lambda: endpoint.documents.workers("scores"))
    endpoint.stop()

    lines = endpoint.lines()
    actions = [line["event.action"] for line in lines]
    assert {"started", "routes-in-effect", "request-failed", "worker-died", "stopped"} <= set(actions)
    assert any(
        "reject" in action and line["log.level"] == "error"
        for action, line in zip(actions, lines, strict=True)
    )
    assert actions[-1] == "stopped"
    assert all(
        line["service.name"] == "scores" and line["ecs.version"] and line["@timestamp"] for line in lines
    )
    assert {"parent", "worker 0"} == {line["service.node.name"] for line in lines}
    (died,) = endpoint.lines("worker-died")
    assert died["process.exit_code"] == -9
    assert f"worker {worker.pid} ended with -9" in died["message"]
    (told,) = endpoint.lines("request-failed")
    assert told["http.request.id"] == failed.headers["mlplatform-request-id"]
    assert told["error.type"] == "ModelFailed"
    assert (told["labels.model"], told["labels.version"], told["labels.arm"]) == ("log", "1", "live")
    assert told["trace.id"] == "a" * 32
    assert told["http.response.status_code"] == 500
    text = (endpoint.folder / "server.log").read_text()
    assert "41111111" not in text
    assert "Bearer" not in text
    assert "request" not in actions  # no access lines unless asked for


def test_access_lines_are_written_where_they_are_asked_for(endpoint: Endpoint) -> None:
    client = endpoint.start(access_log=True)
    answer = client.post("/invocations", json=ROW)
    client.get("/health")
    predicted, health = until(
        lambda: (
            len(
                found := [
                    line
                    for line in endpoint.lines("request")
                    if line["url.path"] in ("/invocations", "/health")
                ]
            )
            == 2
            and found
        )
    )
    assert predicted["http.request.id"] == answer.headers["mlplatform-request-id"]
    assert predicted["client.address"] == "127.0.0.1"
    assert predicted["http.request.body.bytes"] == len(answer.request.content)
    assert predicted["http.response.body.bytes"] == len(answer.content)
    assert predicted["event.duration"] > 0
    assert health["url.path"] == "/health"


def test_what_keeps_a_server_from_starting_is_shown_without_json(endpoint: Endpoint, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Exception, match=rf"it ended with 6: Port {port} on 127\.0\.0\.1 is in use"):
            endpoint.target.apply(ServerSpec("scores", endpoint.folder, port=port))
    (line,) = endpoint.lines("not-started")
    assert line["error.type"] == "PortInUse"


# --- traces and the timing header -----------------------------------------------------------------------------------


def test_spans_reach_a_collector_and_go_on_with_the_clients_trace(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_collector() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
        client = endpoint.start()
        sampled = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01", "tracestate": "vendor=1"}
        answer = client.post("/invocations", json=ROW, headers=sampled)
        assert client.post("/invocations", json=ROW).status_code == 200  # nobody samples it
        (span,) = until(collector.of_kind_server)
        until(lambda: 'mlplatform_traces_total{outcome="exported"} 1' in client.get("/metrics").text)
        endpoint.stop()
        assert len(collector.of_kind_server()) == 1
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == ("a" * 32, "b" * 16)
    assert span.trace_state == "vendor=1"
    known = attributes(span)
    assert known["mlplatform.model"] == "churn"
    assert known["mlplatform.version"] == "1"
    assert known["mlplatform.arm"] == "live"
    assert known["mlplatform.request_id"] == answer.headers["mlplatform-request-id"]
    assert known["http.response.status_code"] == 200
    steps = [step.name for step in collector.children(span)]
    assert [step for step in steps if step != "queue"] == ["decode", "predict", "encode"]
    assert collector.resources[0]["service.name"] == "scores"
    assert "0.1" not in str(span)


def test_a_collector_that_is_gone_costs_no_request(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    client = endpoint.start()
    assert all(client.post("/invocations", json=ROW).status_code == 200 for _ in range(200))
    endpoint.stop()
    assert not endpoint.lines("request-failed")


def test_without_a_collector_nothing_of_opentelemetry_is_loaded(endpoint: Endpoint) -> None:
    endpoint.start()
    (worker,) = endpoint.documents.workers("scores")
    loaded = Path(f"/proc/{worker.pid}/maps").read_text()
    assert "onnxruntime" in loaded
    assert "protobuf" not in loaded


@pytest.mark.parametrize("path", ["/invocations", "/v2/models/churn/infer"])
def test_each_answer_says_where_its_time_went(endpoint: Endpoint, path: str) -> None:
    client = endpoint.start()
    infer = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}
    start = time.perf_counter()
    answer = client.post(path, json=ROW if path == "/invocations" else infer)
    took_ms = (time.perf_counter() - start) * 1000
    assert answer.status_code == 200
    steps = dict(re.findall(r"(\w+);dur=([\d.]+)", answer.headers["server-timing"]))
    assert list(steps) == ["queue", "decode", "predict", "encode"]
    assert 0 < sum(map(float, steps.values())) < took_ms
    assert float(steps["predict"]) > 0
    refused = client.post(path, json={"nothing": 1})
    assert refused.status_code == 400
    assert "predict;dur=0.000" in refused.headers["server-timing"]
