"""Swap: versions change under 500 requests a second without a failed request and without an answer that mixes two, and
a rollback is in effect in every worker within 200 ms.

A real project, a real server with two workers, a client of its own on raw sockets; each version answers its number.
Some rounds are promotions and rollbacks by the command, some by the platform in this process, and the others only what
these two tell the server: measuring and recording forty moves takes minutes and changes nothing for the traffic. `make
soak` records all of them.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import httpx
import numpy as np
import pytest

from mlplatform.control import Platform
from mlplatform.data.tables import ParquetTables
from mlplatform.domain.bundle import Manifest
from mlplatform.domain.ladder import CANDIDATE, Change
from mlplatform.domain.ledger import Actor, Draft, Kind
from mlplatform.domain.version import Version
from mlplatform.flows.deploy import publish
from mlplatform.plugins.targets.local import LocalTarget
from mlplatform.testing.bundles import make_layer_bundle
from tests.bare_project import MODEL, bare_project
from tests.forking import Forker
from tests.small_project import Place
from tests.steady_load import Seen, steady_load

RATE, ROUNDS, WORKERS = 500, 20, 2
BY_COMMAND, BY_PLATFORM = 1, 4
"""Rounds."""
LIMIT_MS = 200.0
POLICY = f"""
model  = "churn"
ladder = ["production"]

[data]
target = "y"

[stages.production]
approvals = {{ count = 0, unverified = true, author_may_approve = true }}
endpoint  = {{ name = "churn", workers = {WORKERS} }}
"""


class Swap(NamedTuple):
    """One change of the live version, in milliseconds from the moment its document was there."""

    acknowledged_ms: float
    """Until the last worker had said that it is in effect."""
    old_asked_ms: float
    """Until a client asked for the last time and got the version before; negative where that was earlier."""
    old_answer_ms: float
    """Until it had that answer: a client that the system keeps waiting on a busy machine sees it later."""
    is_rollback: bool


@pytest.fixture
def project(tmp_path: Path, empty_mlflow: Path, sqlite_url: str, forking: Forker) -> Iterator[Place]:
    """Versions 1 to 21, each of which answers its number to a row of zeros; none is in a stage."""
    folder = tmp_path / "churn"
    with bare_project(folder, empty_mlflow, sqlite_url, forking, 0) as place:
        (folder / "policy.toml").write_text(POLICY)
        with place.opened() as platform:
            for number in range(1, ROUNDS + 2):
                register(platform, number, place.fresh_run)
        yield place
        LocalTarget().stop(place.servers / MODEL)


def register(platform: Platform, number: int, run: str) -> None:
    world = platform.world
    manifest = freeze(platform, number)
    assert world.registry.create(MODEL, run, f"answers {number}") == number
    version = Version(MODEL, number, manifest.digest, "onnx", run, world.clock.now(), "eve", 5)
    draft = Draft(
        MODEL, Kind.REGISTERED, number, Actor("eve"), "for the test", (Change(number, None, CANDIDATE),)
    )
    world.ledger.register(version, draft)
    world.outbox.done(MODEL, 1)
    evidence = world.bundles.evidence(manifest.digest)
    evidence.mkdir(parents=True, exist_ok=True)
    rows = {name: np.linspace(0.0, 1.0, 40) for name in "abc"}
    ParquetTables().write(evidence / "holdout.parquet", {**rows, "y": np.full(40, float(number))})
    np.save(evidence / "trained_on.npy", np.empty(0, "S32"))


def freeze(platform: Platform, number: int) -> Manifest:
    with platform.world.bundles.stage() as staged:
        made = staged.parent / f"made-{number}"
        manifest = make_layer_bundle(made, number, width=64)
        for name in ("model", "sample.json"):
            shutil.move(made / name, staged / name)
        shutil.rmtree(made)
        (staged / "reference.json").write_text("{}")
        return platform.world.bundles.freeze(staged, manifest)


def test_twenty_promotions_and_rollbacks_fail_no_request_and_are_quick(project: Place) -> None:
    def moved(platform: Platform) -> None:
        for number in range(2, ROUNDS + 2):
            if number < 2 + BY_COMMAND:
                move_by_command(project, number)
            elif number < 2 + BY_COMMAND + BY_PLATFORM:
                move(platform, number)
            else:
                move_traffic(platform, number)
            pause()

    swaps = under_load(project, moved)
    assert statistics.median(s.acknowledged_ms for s in swaps) < LIMIT_MS


@pytest.mark.soak
def test_twenty_real_promotions_and_rollbacks_fail_no_request_and_are_quick(project: Place) -> None:
    """Every one with its checks, its evidence, its entry and MLflow's alias."""

    def moved(platform: Platform) -> None:
        for number in range(2, ROUNDS + 2):
            move(platform, number)
            pause()
        kinds = (Kind.PROMOTED, Kind.ROLLED_BACK)
        moves = [entry.draft.kind for entry in platform.world.ledger.entries(MODEL, kinds=kinds)]
        assert moves == [Kind.PROMOTED, *[Kind.PROMOTED, Kind.ROLLED_BACK] * ROUNDS]

    swaps = under_load(project, moved)
    for back in (False, True):
        assert p95([s.acknowledged_ms for s in swaps if s.is_rollback is back]) < LIMIT_MS


def under_load(project: Place, moved: Callable[[Platform], None]) -> list[Swap]:
    """What clients saw of versions that came and went: no failure, no mixture, and nothing of the one before once the
    limit had passed."""
    project.done("promote", f"{MODEL}@1", "production", "--reason", "first")
    with project.opened() as platform:
        url = platform.endpoint(MODEL).server.url
        load_before = os.getloadavg()[0]
        with steady_load(url, project.servers / MODEL, RATE) as seen:
            moved(platform)
    assert seen.failures == []
    assert [a for a in seen.answers if a[2] != a[3]] == [], (
        "a header names one version, the prediction another"
    )
    swaps = list(swaps_of(seen))
    tell("promotion", [s for s in swaps if not s.is_rollback])
    tell("rollback", [s for s in swaps if s.is_rollback])
    seconds = seen.answers[-1][1] - seen.answers[0][0]
    slowest = max(answered - asked for asked, answered, *_ in seen.answers) * 1000
    print(
        f"{len(seen.answers)} answers in {seconds:.0f} s, the slowest {slowest:.0f} ms;"
        f" load of the machine {load_before:.1f}, then {os.getloadavg()[0]:.1f}"
    )
    assert [s.is_rollback for s in swaps] == [False, True] * ROUNDS
    assert len(seen.answers) > 0.8 * RATE * seconds
    late = [s for s in swaps if s.old_asked_ms > LIMIT_MS]
    assert not late, f"answered by the version before, later than {LIMIT_MS:.0f} ms: {late}"
    return swaps


def move_by_command(project: Place, number: int) -> None:
    """Into service and back."""
    project.done("promote", f"{MODEL}@{number}", "production", "--reason", "next")
    project.done("rollback", MODEL, "--reason", "back")


def move(platform: Platform, number: int) -> None:
    assert platform.promote(f"{MODEL}@{number}", "production", "next").status == "done"
    pause()
    platform.rollback(MODEL, "production", "back")


def move_traffic(platform: Platform, number: int) -> None:
    """What a promotion and a rollback tell the server: the next one warm, live with the one before warm, and back."""
    world, policy = platform.world, platform.policy(MODEL)
    before, new = platform.version(f"{MODEL}@1"), platform.version(f"{MODEL}@{number}")
    publish(world, policy, "production", before, [new])
    publish(world, policy, "production", new, [before])
    pause()
    publish(world, policy, "production", before, start=False)


def pause() -> None:
    """For clients to see the version: what is measured is when the one before answers last."""
    threading.Event().wait(0.05)


def swaps_of(seen: Seen) -> Iterator[Swap]:
    """Documents whose live version is another than before. A step of the rollout that only warms is none."""
    for before, (at, generation, live) in zip(seen.documents, seen.documents[1:], strict=False):
        if before[2] == live:
            continue
        pids = {pid for _, pid, _ in seen.reports}
        took = {pid: min(t for t, p, g in seen.reports if p == pid and g >= generation) - at for pid in pids}
        assert len(took) == WORKERS
        until = min((t for t, _, other in seen.documents if t > at and other != live), default=float("inf"))
        old = [
            (asked - at, t - at)
            for asked, t, version, _ in seen.answers
            if version == before[2] and t < until
        ]
        asked, answered = (max(values) * 1000 for values in zip(*old, strict=True))
        yield Swap(max(took.values()) * 1000, asked, answered, live == 1)


def tell(what: str, swaps: Sequence[Swap]) -> None:
    for name, values in (
        ("until the last worker's word", [s.acknowledged_ms for s in swaps]),
        ("until the last request that the version before answered", [s.old_asked_ms for s in swaps]),
        ("until its answer was there", [s.old_answer_ms for s in swaps]),
    ):
        print(
            f"{what}, {name}: median {statistics.median(values):.0f}, p95 {p95(values):.0f},"
            f" max {max(values):.0f} ms"
        )


def p95(values: Sequence[float]) -> float:
    return sorted(values)[math.ceil(len(values) * 0.95) - 1]


def test_a_version_that_does_not_load_takes_no_request(project: Place) -> None:
    """Its bytes are damaged between the check and the loading: the server's own check is the last one."""
    project.done("promote", f"{MODEL}@1", "production", "--reason", "first")
    with project.opened() as platform:
        world = platform.world
        url = platform.endpoint(MODEL).server.url
        version = platform.version(f"{MODEL}@2")
        model = world.bundles.path(version.digest) / "model" / "model.onnx"
        with steady_load(url, project.servers / MODEL, RATE) as seen:
            routes = world.documents.routes(MODEL)
            assert routes is not None
            model.chmod(0o644)
            model.write_bytes(model.read_bytes()[:-1] + b"x")
            (live,) = routes.routes
            bad = live.__class__(MODEL, 2, version.digest, str(model.parent.parent))
            world.documents.publish(routes.__class__(MODEL, 0, (bad,)), MODEL)
            answer = rejected(url)
            pause()
        assert answer["ready"] is True
        assert answer["rejected"] == routes.generation + 1
        assert "model/model.onnx has changed" in answer["error"]
        metrics = httpx.get(f"{url}/metrics").text
        assert 'mlplatform_model_failing{model="churn"} 1' in metrics
        assert f"mlplatform_routes_rejected_generation {routes.generation + 1}" in metrics
    assert seen.failures == []
    assert {version for _, _, version, _ in seen.answers} == {1}


def rejected(url: str) -> dict[str, object]:
    tick = threading.Event()
    for _ in range(1000):
        answer = httpx.get(f"{url}/v2/health/ready")
        assert answer.status_code == 200
        if answer.json()["rejected"]:
            return dict(answer.json())
        tick.wait(0.01)
    raise AssertionError("it was not rejected")
