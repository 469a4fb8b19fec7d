"""Tokens and TLS of a model server, by real commands and a real server with two workers: what is closed without a token
and with another's, that a revocation is in effect in every worker within a second, what a dead process leaves to
reconcile, and that no token's text is left anywhere.
"""

from __future__ import annotations

import http.client
import json
import re
import shlex
import shutil
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.version import Version
from mlplatform.flows.world import World
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerState, TlsFiles
from mlplatform.serving.access import DETAILED, OPEN
from mlplatform.testing.bundles import make_onnx_bundle
from tests import documents
from tests.bare_project import MODEL, POLICY, bare_project
from tests.certificates import Authority
from tests.forking import Forker
from tests.small_project import Place

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
AUTHORITY = Authority()
STAGE = "[stages.production]\n"
UNGUARDED = 'name = "churn", workers = 2'
GUARDED = f"{UNGUARDED}, auth = true"
TLS = 'tls = { cert = "tls/cert.pem", key = "tls/key.pem" }'
ROW = {"dataframe_split": {"columns": ["c0", "c1", "c2"], "data": [[0.1, 0.2, 0.3]]}}
V2 = {"inputs": [{"name": f"c{i}", "datatype": "FP64", "shape": [1, 1], "data": [0.5]} for i in range(3)]}
LABELS = {"labels": [{"id": "x/0", "label": 1}]}
BODIES = {"/invocations": ROW, "/infer": V2, "/labels": LABELS}
WORKERS = 2
SOON_SECONDS = 1.0
"""A revocation is in effect in every worker."""
PATIENCE_SECONDS = 20.0


def say(place: Place, endpoint: str) -> None:
    """What the policy says of the endpoint."""
    assert POLICY.endswith(STAGE)
    (place.folder / "policy.toml").write_text(f"{POLICY}endpoint = {{ {endpoint} }}\n")


def acting(place: Place, token: str) -> Place:
    return replace(place, environment={**place.environment, "MLPLATFORM_TOKEN": token})


class Shop:
    """The project with its endpoint, an admin, and tokens that the admin makes."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.texts: dict[str, str] = {}
        self.boss = acting(place, self._kept("boss", place, "--role", "admin"))

    def add(self, name: str, *scopes: str, expires: str = "") -> str:
        words = [word for scope in scopes for word in ("--scope", scope)]
        return self._kept(name, self.boss, *words, *(["--expires", expires] if expires else []))

    def _kept(self, name: str, by: Place, *words: str) -> str:
        self.texts[name] = by.told("token", "add", name, *words)["text"]
        return self.texts[name]

    def id_of(self, name: str) -> str:
        return self.texts[name].split("_")[1]

    def deploy(self, endpoint: str = f"{GUARDED}, {TLS}") -> Server:
        say(self.place, endpoint)
        self.boss.done("deploy", MODEL)
        return self.server

    @property
    def server(self) -> Server:
        state = self.place.told("endpoints")[0]["server"]
        return Server(ServerState(**state), self.place.folder / "tls")


class Server:
    """The running server, asked over connections of our own."""

    def __init__(self, state: ServerState, tls: Path) -> None:
        self.state, self._tls = state, TlsFiles(tls / "cert.pem", tls / "key.pem")

    def connect(self) -> http.client.HTTPConnection:
        host, port = self.state.host, self.state.port
        if not self.state.tls:
            return http.client.HTTPConnection(host, port, timeout=10)
        return http.client.HTTPSConnection(host, port, timeout=10, context=self._tls.client_context())

    def ask(
        self, method: str, path: str, token: str = "", body: Any = None
    ) -> tuple[int, Any, dict[str, str]]:
        """Status, body and headers (names in lower case), on a connection of its own."""
        connection = self.connect()
        try:
            return ask_on(connection, method, path, token, body)
        finally:
            connection.close()

    def predicts(self, token: str = "") -> int:
        return self.ask("POST", "/invocations", token, ROW)[0]


def ask_on(
    connection: http.client.HTTPConnection, method: str, path: str, token: str = "", body: Any = None
) -> tuple[int, Any, dict[str, str]]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    content = None if body is None else json.dumps(body).encode()
    if content is not None:
        headers["Content-Type"] = "application/json"
    connection.request(method, path, content, headers)
    answer = connection.getresponse()
    said, lower = answer.read(), {name.lower(): value for name, value in answer.getheaders()}
    told = json.loads(said) if lower.get("content-type") == "application/json" and said else said.decode()
    return answer.status, told, lower


def until_status(server: Server, token: str, wanted: int) -> None:
    """Wait until every one of several connections is answered so."""
    give_up = time.monotonic() + PATIENCE_SECONDS
    while {server.predicts(token) for _ in range(4 * WORKERS)} != {wanted}:
        assert time.monotonic() < give_up, wanted


@pytest.fixture
def place(tmp_path: Path, empty_mlflow: Path, sqlite_template: Path, forking: Forker) -> Iterator[Place]:
    """One version in production, a certificate and some rows; no server runs yet, and there are no tokens."""
    folder, database = tmp_path / "churn", tmp_path / "platform.db"
    shutil.copyfile(sqlite_template, database)
    with bare_project(folder, empty_mlflow, f"sqlite:///{database}", forking, 0) as place:
        with place.opened() as platform:
            go_live(platform.world, place.fresh_run)
        place.done("reconcile")
        AUTHORITY.sign().write(folder / "tls")
        (folder / "rows.csv").write_text("c0,c1,c2\n0.1,0.2,0.3\n-0.5,0.1,0.9\n")
        try:
            yield place
        finally:
            LocalTarget().stop(place.servers / MODEL)


@pytest.fixture
def shop(place: Place) -> Shop:
    return Shop(place)


def go_live(world: World, run: str) -> None:
    with world.bundles.stage() as staged:
        digest = world.bundles.freeze(staged, make_onnx_bundle(staged, ("c0", "c1", "c2"))).digest
    number, ada = world.registry.create(MODEL, run, "live"), Actor("ada")
    version = Version(MODEL, number, digest, "onnx", run, world.clock.now(), "ada", 5)
    entered = (Change(number, None, CANDIDATE),)
    world.ledger.register(version, Draft(MODEL, Kind.REGISTERED, number, ada, "made", entered))
    moved = (Change(number, CANDIDATE, "production"),)
    world.ledger.append(Draft(MODEL, Kind.PROMOTED, number, ada, "live", moved, stage="production"))


def test_every_route_is_closed_without_a_token_and_with_one_of_another_scope(shop: Shop) -> None:
    everything = shop.add("all", "predict:churn", "labels:churn", "metrics")
    others = {
        "/labels": shop.add("asker", "predict:*", "metrics"),
        "/metrics": shop.add("writer", "predict:*", "labels:*"),
        "": shop.add("watcher", "labels:*", "metrics"),
    }
    server = shop.deploy()
    status, described, _ = server.ask("GET", "/openapi.json", everything)
    assert status == 200
    routes = [(m.upper(), path) for path, operations in described["paths"].items() for m in operations]
    assert {"/v2/models/churn/infer", "/metrics", "/labels", "/invocations", *OPEN} <= {p for _, p in routes}
    for method, path in routes:
        body = next((body for end, body in BODIES.items() if path.endswith(end)), None)
        without = server.ask(method, path, "", body)
        wrong = server.ask(method, path, others.get(path, others[""]), body)
        right = server.ask(method, path, everything, body)
        assert right[0] == 200, (path, right)
        operation = described["paths"][path][method.lower()]
        if path in DETAILED:
            brief = {"status": "ok"} if path == "/health" else {"ready": True}
            labels_only = server.ask(method, path, others["/metrics"], body)
            assert (without[:2], labels_only[0], operation["security"]) == (
                (200, brief),
                200,
                [{}, {"token": []}],
            )
            assert {"models", "failures", "access"} <= set(right[1])
            continue
        if path in OPEN:
            assert (without[0], "security" in operation) == (200, False), path
            continue
        assert (without[0], wrong[0]) == (401, 403), path
        assert without[2]["www-authenticate"] == "Bearer"
        needed = {"/labels": "labels:churn", "/metrics": "metrics"}.get(path, "predict:churn")
        message = wrong[1]["error" if path.startswith("/v2") else "message"]
        assert message == f"The token lacks the scope {needed}"
        assert wrong[2]["www-authenticate"] == f'Bearer error="insufficient_scope", scope="{needed}"'
        assert operation["security"] == [{"token": []}]
        assert {"401", "403"} <= set(operation["responses"])
    for method, path in (("GET", "/nowhere"), ("POST", "/metrics"), ("PUT", "/v2/models/churn/infer")):
        assert server.ask(method, path)[0] == 401, "who has no token is not told what is here"
        assert server.ask(method, path, everything)[0] in (404, 405)


def test_commands_show_the_token_and_check_the_certificate(shop: Shop) -> None:
    asker, watcher = (
        acting(shop.place, shop.add(n, s)) for n, s in (("a", "predict:churn"), ("w", "metrics"))
    )
    server = shop.deploy()
    assert server.state.url.startswith("https://127.0.0.1:")
    predict = ("predict", MODEL, "rows.csv")
    assert len(asker.told(*predict)["prediction"]) == 2
    assert "send a token" in shop.place.done(*predict, code=3)
    assert "lacks the scope predict:churn" in watcher.done(*predict, code=3)
    (shop.place.folder / "ca.pem").write_bytes(AUTHORITY.pem)
    say(shop.place, f'{GUARDED}, {TLS[:-2]}, ca = "ca.pem" }}')
    assert len(asker.told(*predict)["prediction"]) == 2
    (shop.place.folder / "ca.pem").write_bytes(Authority().pem)
    said = asker.done(*predict, code=6)
    assert "CERTIFICATE_VERIFY_FAILED" in said
    assert shop.texts["a"] not in said


def test_a_token_for_servers_is_nobody_at_the_command_line_and_scopes_are_checked(shop: Shop) -> None:
    machine = acting(shop.place, shop.add("shop", "predict:churn", "metrics", expires="90d"))
    assert "it is for model servers (predict:churn, metrics)" in machine.done("token", "add", "eve", code=3)
    said = shop.boss.done("token", "add", "x", "--scope", "predct:churn", "--scope", "metric", code=2)
    assert "Did you mean 'predict:churn'?" in said
    assert "Did you mean 'metrics'?" in said
    assert "Did you mean 'churn'?" in shop.boss.done("token", "add", "x", "--scope", "predict:chrun", code=2)
    listed = shop.place.told("token", "list")
    assert [t["token"]["scopes"] for t in listed] == [[], ["predict:churn", "metrics"]]
    assert "predict:churn, metrics" in shop.place.done("token", "list")


def test_a_revocation_is_in_effect_in_every_worker_within_a_second(shop: Shop) -> None:
    texts = {f"shop{n}": shop.add(f"shop{n}", "predict:churn") for n in range(4)}
    kept = shop.add("other", "predict:churn")
    server = shop.deploy()
    took_ms = []
    for name, text in texts.items():
        connections = [server.connect() for _ in range(16)]
        assert {ask_on(c, "POST", "/invocations", text, ROW)[0] for c in connections} == {200}
        shop.boss.done("token", "revoke", shop.id_of(name))
        took_ms.append(still_honoured_ms(connections, text))
        assert {ask_on(c, "POST", "/invocations", kept, ROW)[0] for c in connections} == {200}
        for connection in connections:
            connection.close()
    print(f"after the command: median {np.median(took_ms):.0f} ms, max {max(took_ms):.0f} ms")
    assert max(took_ms) < SOON_SECONDS * 1000
    until_status(server, shop.add("late", "predict:*"), 200)


def still_honoured_ms(connections: list[http.client.HTTPConnection], text: str) -> float:
    """How long after now the last request was sent that was still answered, over connections to all workers."""
    began = last = time.monotonic()
    refused = 0
    while refused < len(connections):
        refused = 0
        for connection in connections:
            sent = time.monotonic()
            if ask_on(connection, "POST", "/invocations", text, ROW)[0] == 401:
                refused += 1
            else:
                last = sent
        assert time.monotonic() < began + PATIENCE_SECONDS
    return (last - began) * 1000


@pytest.mark.parametrize("failpoint", ["token:added", "token:revoked"])
def test_what_a_dead_command_did_not_tell_the_server_is_told_by_reconcile(shop: Shop, failpoint: str) -> None:
    text = shop.add("shop", "predict:churn")
    server = shop.deploy(GUARDED)
    assert server.predicts(text) == 200
    if failpoint == "token:revoked":
        killed, before, after = ("token", "revoke", shop.id_of("shop")), 200, 401
        assert shop.boss.run(*killed, failpoint=failpoint)[0] == -9
    else:
        file, before, after = shop.place.folder / "new.token", 401, 200
        killed = ("token", "add", "new", "--scope", "predict:churn", "--into", str(file))
        assert shop.boss.run(*killed, failpoint=failpoint)[0] == -9
        text = file.read_text().strip()
    assert server.predicts(text) == before
    assert "was not told which tokens hold" in shop.place.done("doctor", code=3)
    shop.place.done("reconcile")
    until_status(server, text, after)
    shop.place.done("doctor")
    assert not list(shop.place.servers.rglob("*.tmp"))


def test_a_damaged_list_keeps_the_last_good_one_and_a_lost_one_leaves_nobody(shop: Shop) -> None:
    text = shop.add("shop", "predict:churn")
    server = shop.deploy(GUARDED)
    file = shop.place.servers / MODEL / "access.json"
    whole = file.read_text()

    def health(error: str) -> None:
        give_up = time.monotonic() + PATIENCE_SECONDS
        while error not in (told := _told(server, text)) or (told and not error):
            assert time.monotonic() < give_up, told

    file.write_text(whole[: len(whole) // 2])
    health("the one before holds")
    assert server.predicts(text) == 200
    file.unlink()
    health("not told")
    until_status(server, text, 401)
    assert (
        "access.json is gone: nobody's token holds" in (shop.place.servers / MODEL / "server.log").read_text()
    )
    shop.place.done("reconcile")
    until_status(server, text, 200)
    health("")


def _told(server: Server, token: str) -> str:
    """What is wrong with the list, as far as a token's holder is told."""
    return str(server.ask("GET", "/health", token)[1].get("access", {"error": "not told"})["error"])


def test_whoever_has_no_token_is_refused_before_a_large_body_is_read(shop: Shop) -> None:
    text = shop.add("shop", "predict:churn")
    server = shop.deploy(GUARDED)
    until_status(server, text, 200)
    head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 15000000\r\n"
    for authorization, expects, answered in (
        ("", "", b"HTTP/1.1 401 "),
        ("", "Expect: 100-continue\r\n", b"HTTP/1.1 401 "),
        (f"Authorization: Bearer {text}\r\n", "Expect: 100-continue\r\n", b"HTTP/1.1 100 "),
    ):
        with socket.create_connection((server.state.host, server.state.port), timeout=5) as raw:
            raw.sendall(f"{head}{authorization}{expects}\r\n".encode())
            assert raw.recv(100).startswith(answered), (authorization[:10], expects)


def test_a_token_ends_by_the_servers_clock(shop: Shop) -> None:
    server = shop.deploy(GUARDED)
    text = shop.add("short", "predict:churn", expires="4s")
    until_status(server, text, 200)
    give_up = time.monotonic() + PATIENCE_SECONDS
    while server.predicts(text) == 200:
        assert time.monotonic() < give_up
    status, told, _ = server.ask("POST", "/invocations", text, ROW)
    assert (status, told["message"]) == (401, f"token {shop.id_of('short')} has expired")


def test_what_the_policy_demands_later_restarts_a_server_that_demands_less(shop: Shop) -> None:
    text = shop.add("shop", "predict:churn")
    lax = shop.deploy('name = "churn"')
    assert lax.predicts() == 200
    say(shop.place, f"{GUARDED}, {TLS}")
    assert "runs without tokens or TLS that its policy demands" in shop.place.done("doctor", code=3)
    shop.place.done("reconcile")
    strict = shop.server
    assert (strict.state.port, strict.state.auth, strict.state.tls) == (lax.state.port, True, True)
    assert (strict.predicts(), strict.predicts(text)) == (401, 200)
    with pytest.raises((OSError, http.client.HTTPException)):
        lax.predicts(text)  # in plain text


def test_a_server_keeps_its_guards_when_the_policy_does_not_want_them_any_more(shop: Shop) -> None:
    text = shop.add("shop", "predict:churn")
    strict = shop.deploy()
    say(shop.place, UNGUARDED)
    kept = "demands more than its policy (tokens and tls) and goes on so"
    assert kept in shop.place.done("doctor", code=3)
    shop.place.done("deploy", MODEL)
    assert shop.server.state.settings == strict.state.settings
    asking = acting(shop.place, text)
    asking.done("predict", MODEL, str(shop.place.folder / "rows.csv"))
    certificate = shop.place.folder / "tls" / "cert.pem"
    certificate.rename(certificate.with_suffix(".old"))
    assert f"runs with a certificate that is gone: {certificate}" in shop.place.done("deploy", MODEL, code=2)
    shop.place.done("undeploy", MODEL, "--stage", "production")
    open_again = shop.deploy(UNGUARDED)
    assert open_again.predicts() == 200
    shop.place.done("doctor")


def test_a_new_certificate_is_shown_without_a_restart(shop: Shop) -> None:
    server = shop.deploy(f'name = "churn", {TLS}')
    pid, address = server.state.pid, (server.state.host, server.state.port)
    before = ssl.get_server_certificate(address)
    AUTHORITY.sign("new.example.org").write(shop.place.folder / "tls")
    give_up = time.monotonic() + PATIENCE_SECONDS
    while ssl.get_server_certificate(address) == before:
        assert time.monotonic() < give_up
    assert server.predicts() == 200
    assert shop.server.state.pid == pid


@pytest.mark.parametrize(
    ("endpoint", "told"),
    [
        ('name = "churn", host = "0.0.0.0"', "lacks tls"),
        ('name = "churn", host = "0.0.0.0", auth = false', "lacks tokens and tls"),
        (f'name = "churn", host = "10.1.2.3", auth = false, {TLS}', "lacks tokens"),
        ('name = "churn", host = "here"', "'here' is not an address"),
    ],
)
def test_a_wide_address_without_both_is_refused_by_the_policy_check(
    shop: Shop, endpoint: str, told: str
) -> None:
    say(shop.place, endpoint)
    assert told in shop.place.done("policy", "check", code=2)


def test_serve_answers_this_machine_only(place: Place) -> None:
    said = place.done("serve", f"{MODEL}@1", "--host", "0.0.0.0", code=2)
    assert "0.0.0.0 is reachable from others" in said
    assert "is not an address" in place.done("serve", f"{MODEL}@1", "--host", "here", code=2)


def test_a_key_that_others_can_read_starts_no_server(shop: Shop) -> None:
    (shop.place.folder / "tls" / "key.pem").chmod(0o644)
    say(shop.place, f"{GUARDED}, {TLS}")
    said = shop.boss.done("deploy", MODEL, code=6)
    assert "can be read by others (mode 0644)" in said
    assert "chmod 600" in said


def test_no_token_is_left_anywhere(shop: Shop) -> None:
    asker, watcher = shop.add("asker", "predict:*", "labels:*"), shop.add("watcher", "metrics")
    server = shop.deploy()
    for text in (asker, watcher, asker[:-1]):
        for method, path, body in (
            ("POST", "/invocations", ROW),
            ("POST", "/v2/models/churn/infer", V2),
            ("POST", "/labels", LABELS),
            ("POST", "/invocations", {"nonsense": 1}),
            ("GET", "/metrics", None),
            ("GET", "/nowhere", None),
        ):
            _, told, headers = server.ask(method, path, text, body)
            assert secret_of(text) not in f"{told}{headers}"
    metrics = server.ask("GET", "/metrics", watcher)[1]
    shop.place.done("undeploy", MODEL)
    secrets = [secret_of(text).encode() for text in shop.texts.values()]
    assert not any(secret.decode() in metrics for secret in secrets)
    for path in shop.place.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret in content for secret in secrets), path


def test_the_page_works_and_prints_what_it_shows(place: Place) -> None:
    """Every command of its section. If it prints something else now and this is right: copy it from the failure."""
    section = PAGE.read_text().split("## Tokens and TLS for servers\n")[1].split("\n## ")[0]
    [endpoint] = re.findall(r"^endpoint = \{ (.*) \}$", section, re.MULTILINE)
    say(place, endpoint)
    wrong, codes = [], []
    for step in documents.steps(section):
        if exported := re.fullmatch(r"export (\w+)=(\S+)", step.command):
            place = replace(place, environment={**place.environment, exported[1]: exported[2]})
            continue
        words = shlex.split(step.command)[1:]
        if words[:2] == ["token", "revoke"]:
            words[2] = (place.folder / "shop.token").read_text().split("_")[1]
        code, said = place.run(*words)
        codes.append(code)
        if not documents.same("\n".join(step.shown), said, place.folder):
            wrong.append(f"$ {step.command}\n{said}")
    assert not wrong, "\n".join(wrong)
    assert (codes.count(3), set(codes)) == (2, {0, 3}), (
        "one of another scope, one revoked, and all the rest done"
    )


def secret_of(text: str) -> str:
    return text.split("_")[2]
