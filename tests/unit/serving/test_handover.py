"""A port passes from a server to a keeper and from a keeper to a server, and no connection is lost on the way."""

from __future__ import annotations

import errno
import http.client
import os
import select
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlplatform.errors import ServerDidNotStart
from mlplatform.plugins.targets import keeping
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec
from mlplatform.serving.parent.handover import HANDOVER, MOST_ASKING, Door
from mlplatform.serving.parent.joining import Port
from mlplatform.serving.parent.listening import turn_away

pytestmark = pytest.mark.xdist_group("processes")


@pytest.fixture
def spec(tmp_path: Path) -> Iterator[ServerSpec]:
    spec = ServerSpec("churn", tmp_path / "churn")
    yield spec
    LocalTarget().stop(spec.folder)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_connection_waits_for_whoever_takes_over_the_port(spec: ServerSpec, workers: int) -> None:
    spec = replace(spec, workers=workers)
    port = LocalTarget().apply(spec).port
    assert keeping.can_take_over(spec)
    assert keeping.ensure(spec, os.getuid()) == port
    LocalTarget().stop(spec.folder, keep_port=True)
    assert not LocalTarget().status(spec.folder).running
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", "/ping")  # nobody is there to answer
    taken = LocalTarget().apply(replace(spec, workers=3 - workers))
    assert taken.port == port
    assert connection.getresponse().status == 200
    connection.close()
    assert not keeping.keeps(spec)


def test_a_port_that_was_taken_over_may_have_more_workers_than_before(spec: ServerSpec) -> None:
    port = LocalTarget().apply(spec).port
    keeping.ensure(spec, os.getuid())
    sockets = [each for place in range(3) for each in Port(spec.folder, spec.folder, place, 3).ask()]
    assert {each.getsockname()[1] for each in sockets} == {port}
    for each in sockets:
        each.close()


def test_a_server_goes_on_when_whoever_took_over_its_port_lets_go(spec: ServerSpec) -> None:
    port = LocalTarget().apply(spec).port
    keeping.ensure(spec, os.getuid())
    keeping.end(spec.folder)
    for _ in range(5):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/ping")
        assert connection.getresponse().status == 200
        connection.close()


def test_a_server_hands_its_port_to_its_own_user_only(spec: ServerSpec) -> None:
    LocalTarget().apply(spec)
    assert (spec.folder / HANDOVER).stat().st_mode & 0o777 == 0o600
    LocalTarget().stop(spec.folder)
    assert not (spec.folder / HANDOVER).exists()


def test_another_port_or_address_than_the_one_that_runs_is_not_taken_over(spec: ServerSpec) -> None:
    port = LocalTarget().apply(spec).port
    assert not keeping.can_take_over(replace(spec, host="::1"))
    assert not keeping.can_take_over(replace(spec, port=port + 1))


def test_a_keeper_says_when_nobody_hands_over_a_port(spec: ServerSpec) -> None:
    LocalTarget().apply(spec)
    (spec.folder / HANDOVER).unlink()
    with pytest.raises(ServerDidNotStart, match="does not hand over its port"):
        keeping.ensure(spec, os.getuid())


def test_whoever_says_nothing_at_the_door_holds_nobody_up(tmp_path: Path) -> None:
    door, listener = Door(tmp_path), socket.create_server(("127.0.0.1", 0))

    def turn() -> None:
        woken, _, _ = select.select(door.handles, [], [], 20)
        door.answer(woken, [listener])

    def knock() -> socket.socket:
        one = socket.socket(socket.AF_UNIX)
        one.connect(str(tmp_path / HANDOVER))
        return one

    with listener, knock() as silent, knock() as asking:
        turn()
        turn()
        asking.sendall(b'{"place": 0, "of": 1}')
        turn()
        _, [handed], _, _ = socket.recv_fds(asking, 1, 1)
        os.close(handed)
        with pytest.raises(BlockingIOError):
            silent.recv(1, socket.MSG_DONTWAIT)  # it is still listened to
        others = [knock() for _ in range(MOST_ASKING)]
        for _ in others:
            turn()
        assert silent.recv(1) == b""
        for each in others:
            each.close()
    door.close()


def test_who_waits_is_taken_and_who_comes_later_is_refused_once_the_socket_closes() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    with socket.create_connection(listener.getsockname()) as first, socket.socket() as later:
        assert turn_away(listener)
        later.setblocking(False)
        assert later.connect_ex(listener.getsockname()) == errno.EINPROGRESS
        listener.setblocking(False)
        taken, peer = listener.accept()
        assert peer == first.getsockname()
        with pytest.raises(BlockingIOError):
            listener.accept()
        listener.close()
        select.select([], [later], [], 20)
        assert later.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        taken.close()
