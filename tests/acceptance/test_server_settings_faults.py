"""Other settings of a running server while something goes wrong: it goes on, and nobody is told what is not so."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from mlplatform.domain.limits import RequestLimits
from mlplatform.errors import ServerDidNotStart, SettingsHalfway
from mlplatform.plugins.targets import changing, keeping
from mlplatform.plugins.targets.local import LocalTarget, words
from mlplatform.ports.extensions import ServerSpec, ServerState
from mlplatform.serving.parent.joining import Port
from tests.loading import exchange
from tests.server_place import FAST, Place, until


@pytest.fixture
def place(server_place: Place) -> Place:
    return server_place


def spec(place: Place, **said: Any) -> ServerSpec:
    return ServerSpec("e", place.folder, **said)


def announced(place: Place) -> dict[str, Any]:
    return changing.announced(place.folder)


def children(place: Place) -> list[int]:
    pid = announced(place)["pid"]
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def answers(place: Place, count: int = 40) -> None:
    held = [place.connect() for _ in range(count)]
    assert all(exchange(raw, FAST)[0] == 200 for raw in held)
    for raw in held:
        raw.close()


@pytest.mark.parametrize("runs", [True, False])
def test_whoever_waits_for_a_server_that_is_stopped_meanwhile_is_told_so(
    place: Place, runs: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not after the time in which a server may start: whether it ran before, or was just being started."""
    if runs:
        place.start()

    def stopped(state: ServerState, tls: object) -> bool:
        LocalTarget().stop(place.folder)
        return False

    monkeypatch.setattr("mlplatform.plugins.targets.local.answers", stopped)
    with pytest.raises(ServerDidNotStart, match="it was stopped meanwhile, as by `mlplatform undeploy`"):
        place.target.apply(spec(place))
    assert not place.target.status(place.folder).running


def test_a_server_whose_folder_was_moved_is_told_from_others_and_started_again(
    place: Place, tmp_path: Path
) -> None:
    before = place.start()
    assert before.left_at == ""
    moved = place.folder.parent.with_name("moved")
    place.folder.parent.rename(moved)
    there = moved / "e"
    try:
        assert place.target.status(there).left_at == str(place.folder)
        (tmp_path / "link").symlink_to(moved)
        again = place.target.apply(ServerSpec("e", there))
        assert (again.left_at, again.port, again.pid != before.pid) == ("", before.port, True)
        assert place.target.status(tmp_path / "link" / "e").left_at == "", "another name of the same folder"
    finally:
        place.target.stop(there)


def test_connections_reach_every_worker_after_a_change_that_nobody_waited_for(place: Place) -> None:
    port = place.start(workers=1).port
    four = spec(place, port=port, workers=4)
    changing._write(place.folder, {"id": "x", "words": words(four), "environment": None})
    os.kill(announced(place)["pid"], signal.SIGUSR1)
    until(lambda: announced(place)["workers"] == 4)
    place.state = place.target.apply(spec(place, port=port, workers=4, behind_proxy=True))
    before = {pid: len(os.listdir(f"/proc/{pid}/fd")) for pid in place.workers()}
    held = [place.connect() for _ in range(200)]
    assert all(exchange(raw, FAST)[0] == 200 for raw in held)
    assert len(before) == 4
    assert min(len(os.listdir(f"/proc/{pid}/fd")) - n for pid, n in before.items()) > 20
    for raw in held:
        raw.close()


def test_a_change_while_surplus_sockets_are_given_up_ends_no_server(place: Place) -> None:
    """Of three sockets that were taken over one is wanted, then three again while the first worker is being tried."""
    place.start(workers=3)
    keeping.ensure(spec(place), os.getuid())
    place.target.stop(place.folder, keep_port=True)
    adopting = Thread(target=place.target.apply, args=(spec(place, workers=1),))
    adopting.start()
    until(lambda: announced(place) and len(children(place)) == 3)
    slow, pid = children(place)[2], announced(place)["pid"]
    os.kill(slow, signal.SIGSTOP)
    adopting.join()
    wanted = spec(place, workers=3, limits=RequestLimits(deadline_ms=7777))
    change = Thread(target=place.target.apply, args=(wanted,))
    change.start()
    trial = until(lambda: len(children(place)) == 4 and children(place)[-1])
    os.kill(trial, signal.SIGSTOP)
    os.kill(slow, signal.SIGCONT)
    until(lambda: len(place.workers()) == 3)
    os.kill(trial, signal.SIGCONT)
    change.join()
    place.state = place.target.status(place.folder)
    assert (place.state.running, place.state.pid, place.target.changes(wanted)) == (True, pid, ())
    answers(place)


def test_an_address_is_widened_on_the_port_that_the_server_has(place: Place) -> None:
    before = place.start()
    place.state = place.target.apply(spec(place, host="0.0.0.0", auth=True, behind_proxy=True))
    assert (place.state.host, place.state.port, place.state.pid) == ("0.0.0.0", before.port, before.pid)


def test_a_worker_that_cannot_be_started_ends_no_server(place: Place) -> None:
    place.start(workers=2)
    pid = announced(place)["pid"]
    limits = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    few = len(os.listdir(f"/proc/{pid}/fd")) - 1
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (few, limits[1]))
    os.kill(place.workers()[0], signal.SIGKILL)
    until(lambda: "worker-not-started" in (place.folder / "server.log").read_text())
    resource.prlimit(pid, resource.RLIMIT_NOFILE, limits)
    until(lambda: len(place.workers()) == 2)
    assert place.target.status(place.folder).pid == pid
    answers(place)


def test_a_change_that_is_half_done_is_told_as_that_until_it_is_done(place: Place) -> None:
    place.start(workers=2)
    hasty = LocalTarget(start_seconds=0.5, stop_seconds=0.5)
    told: list[BaseException] = []

    def apply(wanted: ServerSpec) -> None:
        try:
            hasty.apply(wanted)
        except SettingsHalfway as error:
            told.append(error)

    for deadline_ms in range(6000, 6010):
        before = set(children(place))
        wanted = spec(place, workers=2, limits=RequestLimits(deadline_ms=deadline_ms))
        changing_it = Thread(target=apply, args=(wanted,))
        changing_it.start()
        until(lambda: announced(place)["settings"]["limits"]["deadline_ms"] == deadline_ms)  # noqa: B023
        starting = until(lambda: [p for p in children(place) if p not in {*before, *place.workers()}])  # noqa: B023
        os.kill(starting[0], signal.SIGSTOP)
        changing_it.join()
        if starting[0] not in place.workers():
            break
        os.kill(starting[0], signal.SIGCONT)  # it was through when it was stopped
        place.target.apply(wanted)
        told.clear()
    apply(wanted)
    assert [type(error) for error in told] == [SettingsHalfway] * 2
    os.kill(starting[0], signal.SIGCONT)
    place.target.apply(wanted)
    assert not set(children(place)) & before
    answers(place)


def test_a_server_that_is_killed_comes_back_on_its_port(place: Place) -> None:
    before = place.start(workers=2)
    os.kill(before.pid, signal.SIGKILL)
    until(lambda: not place.target.status(place.folder).running)
    assert place.start(workers=2).port == before.port


def test_a_wish_is_gone_once_it_was_read(place: Place) -> None:
    """It may hold a collector's headers."""
    place.start()
    changing._write(place.folder, {"id": "x", "words": [], "environment": ["none"]})
    os.kill(announced(place)["pid"], signal.SIGUSR1)
    until(lambda: not (place.folder / "settings.json").exists())
    answers(place, 2)
    (place.folder / "settings.json").write_text("{}")
    place.target.stop(place.folder)
    assert not (place.folder / "settings.json").exists()


def test_sockets_of_a_server_that_is_gone_get_no_connections(place: Place) -> None:
    """A container with more workers joined, and was removed."""
    place.start(workers=1)
    keeping.ensure(spec(place), os.getuid())
    joined = Port(place.folder, place.folder, 2, 3).ask()
    until(lambda: keeping.sockets(place.folder) == 3)
    for each in joined:
        each.close()
    keeping.keep_only(place.folder, 1)
    assert keeping.sockets(place.folder) == 1
    answers(place)
    assert json.loads((place.folder / "keeper.json").read_bytes())["port"] == place.state.port
