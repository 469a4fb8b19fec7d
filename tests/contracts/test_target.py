"""Port Target: the fake, a real process and a real container keep the same promises."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlplatform.domain.limits import RequestLimits
from mlplatform.errors import ServerDidNotStart
from mlplatform.plugins.targets.docker import DockerTarget
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.ports.extensions import ServerSpec, Target
from mlplatform.testing.fakes.serving import FakeTarget

pytestmark = pytest.mark.xdist_group("processes")


KINDS = {"fake": FakeTarget, "local": LocalTarget, "docker": DockerTarget}


@pytest.fixture(params=["fake", "local", pytest.param("docker", marks=pytest.mark.docker)])
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    target: Target = KINDS[request.param]()
    yield target
    target.stop(tmp_path / "churn")


@pytest.fixture
def spec(tmp_path: Path) -> ServerSpec:
    return ServerSpec("churn", tmp_path / "churn")


def test_nothing_runs_before_apply(target: Target, spec: ServerSpec) -> None:
    state = target.status(spec.folder)
    assert (state.endpoint, state.running) == ("churn", False)


def test_apply_starts_what_status_then_shows(target: Target, spec: ServerSpec) -> None:
    state = target.apply(spec)
    assert state.running
    assert state.host == "127.0.0.1"
    assert state.port > 0
    assert target.status(spec.folder) == state


def test_apply_again_leaves_a_running_server_alone(target: Target, spec: ServerSpec) -> None:
    assert target.apply(spec) == target.apply(spec)


def test_stop_ends_it_and_stopping_twice_is_harmless(target: Target, spec: ServerSpec) -> None:
    target.apply(spec)
    target.stop(spec.folder)
    assert not target.status(spec.folder).running
    target.stop(spec.folder)


def test_a_stopped_server_can_be_started_again(target: Target, spec: ServerSpec) -> None:
    target.apply(spec)
    target.stop(spec.folder)
    assert target.apply(spec).running


def test_a_server_that_is_started_again_keeps_its_port(target: Target, spec: ServerSpec) -> None:
    port = target.apply(spec).port
    target.stop(spec.folder)
    assert target.apply(spec).port == port


def test_other_settings_are_told_and_brought_into_effect(target: Target, spec: ServerSpec) -> None:
    assert target.changes(spec) == ()
    before = target.apply(spec)
    other = replace(spec, workers=2, limits=RequestLimits(deadline_ms=2000), access_log=True)
    told = ["workers 1 -> 2", "limits.deadline_ms 30000 -> 2000", "log events -> access"]
    assert list(map(str, target.changes(other))) == told
    after = target.apply(other)
    assert after.port == before.port
    assert target.changes(other) == ()
    assert after.settings
    assert after.settings.limits.deadline_ms == 2000
    assert target.apply(other) == after


def test_another_address_is_told_and_taken(target: Target, spec: ServerSpec) -> None:
    before = target.apply(spec)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    assert list(map(str, target.changes(replace(spec, port=port)))) == [f"port {before.port} -> {port}"]
    assert target.apply(replace(spec, port=port)).port == port
    assert target.status(spec.folder).port == port


def test_a_server_that_is_laxer_than_desired_is_closed_and_a_stricter_one_is_left(
    target: Target, spec: ServerSpec
) -> None:
    lax = target.apply(spec)
    strict = target.apply(replace(spec, auth=True))
    assert (lax.auth, strict.auth, strict.port) == (False, True, lax.port)
    assert target.status(spec.folder) == strict == target.apply(spec)


def test_a_server_that_cannot_start_is_an_error_that_says_why(target: Target, tmp_path: Path) -> None:
    spec = ServerSpec("churn", tmp_path / "churn", host="0.0.0.0")
    if isinstance(target, FakeTarget):
        target.fails = "0.0.0.0 is reachable from other machines"
    with pytest.raises(ServerDidNotStart, match="reachable from other machines"):
        target.apply(spec)
    assert not target.status(spec.folder).running
