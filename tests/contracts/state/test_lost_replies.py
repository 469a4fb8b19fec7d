"""The connection breaks at COMMIT, before the server has it or after: nothing is lost, nothing done twice."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from dataclasses import replace
from urllib.parse import parse_qs, urlsplit

import pytest

from mlplatform.domain.ladder import CANDIDATE, REJECTED, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.rollout import Phase, Rollout
from mlplatform.domain.token import Token
from mlplatform.errors import LeaseHeld
from mlplatform.ports.state import Schedule
from mlplatform.state.deployments import SqlDeployments
from mlplatform.state.leases import SqlLeases
from mlplatform.state.ledger import SqlLedger
from mlplatform.state.schedules import SqlSchedules
from mlplatform.state.schema import open_database
from mlplatform.state.tokens import SqlTokens
from mlplatform.testing.clock import START

ADA = Actor("os:ada")


class Wire:
    """A proxy before PostgreSQL that cuts one connection at its next COMMIT."""

    def __init__(self, url):
        parts = urlsplit(url)
        self._server = f"{parse_qs(parts.query)['host'][0]}/.s.PGSQL.5432"
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = (
            f"postgresql://postgres@127.0.0.1:{self._listener.getsockname()[1]}{parts.path}?sslmode=disable"
        )
        self.cut_at_commit = ""
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._server)
                cut = threading.Event()
                threading.Thread(target=self._forth, args=(client, server, cut), daemon=True).start()
                threading.Thread(target=self._back, args=(server, client, cut), daemon=True).start()

    def _forth(self, client, server, cut):
        with suppress(OSError):
            while data := client.recv(65536):
                if b"COMMIT\0" in data and self.cut_at_commit:
                    before, self.cut_at_commit = self.cut_at_commit == "before", ""
                    self.cuts += 1
                    if before:
                        break
                    cut.set()
                server.sendall(data)
        _shut(server, client)

    def _back(self, server, client, cut):
        with suppress(OSError):
            while data := server.recv(65536):
                if cut.is_set():
                    break
                client.sendall(data)
        _shut(server, client)


def _shut(*ends):
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
        end.close()


@pytest.fixture
def wire(postgres_url):
    wire = Wire(postgres_url)
    yield wire
    wire.close()


@pytest.fixture
def database(wire):
    opened = open_database(wire.url)
    yield opened
    assert wire.cuts == 1
    opened.close()


@pytest.fixture(params=["before", "after"])
def cut(request, wire):
    """Arms the wire: the next COMMIT is cut off before or after the server has it."""

    def arm():
        wire.cut_at_commit = request.param

    return arm


@pytest.mark.parametrize("key", [None, "once"])
def test_entry_is_written_once(database, clock, cut, key):
    ledger = SqlLedger(database, clock)
    cut()
    entry = ledger.append(Draft("churn", Kind.APPROVED, 1, ADA, "yes", key=key))
    assert ledger.entries("churn") == [entry]
    assert ledger.verify("churn").holds


def test_move_that_arrived_is_not_its_own_conflict(database, clock, cut, make):
    ledger = SqlLedger(database, clock)
    make.register(ledger, 1)
    cut()
    ledger.append(Draft("churn", Kind.REJECTED, 1, ADA, "bad", (Change(1, CANDIDATE, REJECTED),)))
    assert ledger.standings("churn").places == {1: REJECTED}
    assert len(ledger.entries("churn")) == 2


def test_version_is_registered_once(database, clock, cut, make):
    ledger = SqlLedger(database, clock)
    cut()
    ledger.register(make.version(1), make.registered(1))
    assert (len(ledger.versions("churn")), len(ledger.entries("churn"))) == (1, 1)


def test_runner_that_claimed_a_firing_knows_it(database, clock, cut):
    schedules = SqlSchedules(database, clock)
    cut()
    assert schedules.claim("nightly", START, "one") is True
    assert schedules.claim("nightly", START, "one") is False


def test_removed_schedule_is_not_unknown(database, clock, cut):
    schedules = SqlSchedules(database, clock)
    schedules.save(Schedule("nightly", "retrain", "churn", "0 3 * * *", "UTC", START))
    cut()
    schedules.remove("nightly")
    assert schedules.all() == []


@pytest.mark.parametrize("held_before", [False, True])
def test_lease_is_ours_with_the_fence_that_is_stored(database, clock, cut, held_before):
    leases = SqlLeases(database, clock)
    if held_before:
        leases.release(leases.acquire("a", "one", 60))
    cut()
    lease = leases.acquire("a", "one", 60)
    assert lease.fence == (2 if held_before else 1)
    assert leases.renew(lease, 60).fence == lease.fence
    with pytest.raises(LeaseHeld):
        leases.acquire("a", "one", 60)


def test_seized_lease_is_ours_once(database, clock, cut):
    leases = SqlLeases(database, clock)
    leases.acquire("a", "dead", 60)
    cut()
    assert leases.seize("a", "one", "dead", 60).fence == 2
    assert leases.renew(leases.seize("a", "two", "one", 60), 60).fence == 3


def test_step_of_a_rollout_is_stored_once(database, cut):
    deployments = SqlDeployments(database)
    opened = deployments.open(
        Rollout("r1", "churn", 2, "production", "churn", 1, Phase.OPENED, START, "os:ada", "")
    )
    cut()
    shifted = deployments.save(opened.now_in(Phase.SHIFTED))
    assert shifted == replace(opened, phase=Phase.SHIFTED, fence=opened.fence + 1)
    assert deployments.history("churn") == [shifted]


def test_rollout_is_opened_once(database, cut):
    deployments = SqlDeployments(database)
    cut()
    opened = deployments.open(
        Rollout("r1", "churn", 2, "production", "churn", 1, Phase.OPENED, START, "os:ada", "")
    )
    assert deployments.history("churn") == [opened]


def test_first_token_that_arrived_is_not_its_own_conflict(database, cut):
    tokens = SqlTokens(database)
    token = Token("0123abcd", "ada", ("admin",), START, "os:ada")
    cut()
    tokens.add(token, "hash", first=True)
    assert tokens.all() == [token]
